"""`fxmm init` as a user types it: files, then a configuration that trains without edits."""

import pytest

from tests.helpers import shop
from tests.helpers.typed_command import type_command


@pytest.fixture
def fxmm(tmp_path):
    def call(*arguments):
        words = ["-m", "fuxictr_multimodal.cli.main", *map(str, arguments)]
        return type_command(words, folder=tmp_path, environment={"COLUMNS": "120"}, seconds=300)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("files", [["log.parquet"], ["train.parquet", "valid.parquet", "test.parquet"]])
def test_from_files_to_predictions(fxmm, tmp_path, files):
    shop.write(tmp_path / "raw", events=2400)
    done = fxmm("init", *(f"raw/{name}" for name in [*files, "items.parquet", "users.csv"]), "--dataset-id", "Shop")
    assert done.status == 0, done.errors
    assert done.out.splitlines() == [
        "written: config/dataset_config/Shop.yaml",
        "written: config/model_config/Shop.yaml",
        "written: config/tuner/QIN_Shop_search.yaml",
        "Next: fxmm run --expid QIN_Shop",
        "Then: fxmm tune --config config/tuner/QIN_Shop_search.yaml --search tpe --trials 20",
    ]
    # The command that was printed runs; so do the models to compare with.
    for expid in ("QIN_Shop", "DIN_Shop", "DCNv2_Shop", "Trees_Shop"):
        done = fxmm("run", "--expid", expid, "--set", "epochs=1", "--name", expid.lower())
        assert done.status == 0, done.errors
        assert f"{expid.lower()} on Shop" in done.out
    scores = fxmm("predict", "--expid", "QIN_Shop", "--name", "qin_shop", "--out", "scores.csv")
    assert scores.status == 0, scores.errors
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("u0")
    again = fxmm("init", "raw/log.parquet")
    assert again.status == 2
    assert again.errors == (
        "error: config/dataset_config/Shop.yaml exists: choose another --dataset-id, or replace it with --overwrite\n"
    )


def test_uncertain_guesses_are_printed(fxmm, tmp_path):
    shop.write(tmp_path / "raw", events=300)
    done = fxmm("init", "raw/train.parquet", "raw/valid.parquet", "--config", "my config", "--dataset-id", "Ready")
    assert done.status == 0, done.errors
    assert "Please check:\n  * the newest item of click_history must be the last one" in done.errors
    assert done.out.splitlines()[-2:] == [
        "Next: fxmm run --expid QIN_Ready --config 'my config'",
        "Then: fxmm tune --config 'my config/tuner/QIN_Ready_search.yaml' --search tpe --trials 20",
    ]


def test_bad_files_are_one_line(fxmm, tmp_path):
    done = fxmm("init", "nothing.parquet")
    assert (done.status, done.out) == (2, "")
    assert done.errors.startswith("error: fxmm init: nothing.parquet does not exist")
    assert list(tmp_path.iterdir()) == []
