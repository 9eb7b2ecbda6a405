"""A run that starts from an earlier one: every old id keeps its vector, and scores of old ids are the earlier run's."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.training import runner, warm_start
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.runner import run_experiment
from fuxictr_multimodal.training.trainer import Trainer
from tests.helpers.resealed import reseal
from tests.helpers.two_builds import MODELS, build_shop, samples, write_config


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Datasets `monday` and `tuesday` of ids, and the first models; tuesday's valid split is monday's."""
    folder = tmp_path_factory.mktemp("shop")
    monday = {
        "train": samples(users=range(20), items=range(1, 20), rows=600, seed=1),
        "valid": samples(users=range(5, 20), items=range(5, 20), rows=150, seed=2),
    }
    tuesday = {
        "train": samples(users=range(5, 30), items=range(5, 30), rows=700, seed=3),
        "valid": monday["valid"],
    }
    for day, splits, items in (("monday", monday, range(1, 20)), ("tuesday", tuesday, range(29, 4, -1))):
        ids = IdMap(pl.Series([None, *(f"i{i}" for i in items)]))
        build_shop(folder / "data", day, splits, ids)
    config = write_config(folder / "config", folder / "data", ("monday", "tuesday"))
    for name in MODELS:
        run_experiment(config_dir=config, expid=f"{name}_monday", overrides=[f"model_root={folder / 'runs'}"])
    return folder


@pytest.fixture
def begin(monkeypatch):
    """Weights and valid scores at the start of each training that follows."""
    seen = []

    def fit(self, train, valid):
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        # Scoring draws no random number, so the training is the same.
        average = {name: value.clone() for name, value in self.average._averages.items()} if self.average else {}
        seen.append((state, self.predict(valid).scores, average))
        return trained(self, train, valid)

    trained = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", fit)
    return seen


def run(shop, expid, *overrides, config="config", **arguments):
    settings = [f"model_root={shop / 'runs'}", *overrides]
    return run_experiment(config_dir=shop / config, expid=expid, overrides=settings, **arguments)


def vocabulary(shop, day, column):
    """Values of a column to their codes."""
    if column == "item_id":
        ids = pl.read_parquet(shop / "data" / day / "ids" / "item_id.parquet")["id"]
        return {"__PAD__" if value is None else value: code for code, value in enumerate(ids)}
    return json.loads((shop / "data" / day / "feature_vocab.json").read_text())[column]


@pytest.mark.parametrize("name", MODELS)
def test_old_ids_keep_their_vectors_and_new_ones_are_fresh(shop, begin, name):
    run(shop, f"{name}_tuesday", "epochs=1", name=f"cold_{name}")
    report, path = run(shop, f"{name}_tuesday", "epochs=1", f"warm_start=monday/{name}_monday", name=f"warm_{name}")
    (fresh, _, _), (start, scores, average) = begin
    before = torch.load(shop / "runs/monday" / f"{name}_monday.model", weights_only=True)
    moved = 0
    for weight, value in start.items():
        column = next(
            (part for part in weight.split(".") if part in ("user", "city", "item_id", "brand", "tags")), None
        )
        if column is None or not weight.endswith(f"{column}.weight"):
            if not weight.startswith("first_order."):
                assert torch.equal(value, before[weight]), weight
            continue
        then, now = vocabulary(shop, "monday", column), vocabulary(shop, "tuesday", column)
        for token, code in now.items():
            expected = before[weight][then[token]] if token in then else fresh[weight][code]
            assert torch.equal(value[code], expected), (weight, token)
            moved += token in then and then[token] != code
    assert moved > 20
    # The valid split has no new id: all of the network with its normalisation is the earlier one.
    with np.load(shop / "runs/monday" / f"{name}_monday.predictions.npz") as kept:
        np.testing.assert_array_equal(scores, kept["valid_scores"])
    assert bool(average) == (name == "DIN")
    assert all(torch.equal(value, start[weight]) for weight, value in average.items())
    # 15 of 19 items stay, with padding; 10 are new.
    assert report.warm_start["rows"]["item_id"] == {"kept": 16, "new": 10, "dropped": 4}
    assert report.warm_start["rows"]["user"] == {"kept": 15 + 2, "new": 10, "dropped": 5}
    assert report.warm_start["run"] == f"{name}_monday"
    log = path.with_name(f"warm_{name}.log").read_text()
    assert "Rows of item_id: 16 kept, 10 new, 4 dropped" in log
    assert any("item_id 16 kept, 10 new, 4 dropped" in line for line in Report.read(path).details())


def test_the_same_build_is_the_same_model(shop, begin):
    report, _ = run(shop, "QIN_monday", "warm_start=QIN_monday", "epochs=1")
    with np.load(shop / "runs/monday/QIN_monday.predictions.npz") as kept:
        np.testing.assert_array_equal(begin[0][1], kept["valid_scores"])
    assert report.run == "QIN_monday@epochs=1+warm_start=QIN_monday"
    assert all(counts["new"] == counts["dropped"] == 0 for counts in report.warm_start["rows"].values())
    # A run without the setting has the hash that it always had.
    assert "warm_start" not in Report.read(shop / "runs/monday/QIN_monday.report.json").config


@pytest.mark.parametrize("kept", ["beside the runs", "elsewhere"])
def test_a_dataset_that_was_built_again_under_its_name(shop, begin, tmp_path, kept):
    """The vocabularies of the earlier build are kept with its runs."""
    for part in ("data", "runs", "config"):
        shutil.copytree(shop / part, tmp_path / part)
    again = tmp_path / "data" / "monday"
    shutil.rmtree(again)
    shutil.copytree(tmp_path / "data" / "tuesday", again)
    text = (again / "feature_map.json").read_text().replace('"dataset_id": "tuesday"', '"dataset_id": "monday"')
    (again / "feature_map.json").write_text(text)
    reseal(again, dataset_id="monday")
    root = f"data_root={tmp_path / 'data'}"
    report = tmp_path / "runs/monday/DIN_monday.report.json"
    report.write_text(report.read_text().replace(str(shop), str(tmp_path)))
    if kept == "elsewhere":
        shutil.rmtree(tmp_path / "runs/monday/.builds")
        with pytest.raises(
            DataError, match=r"the build of dataset 'monday' on which DIN_monday was trained .* is not in"
        ):
            run(tmp_path, "DIN_monday", root, "warm_start=DIN_monday", name="next")
        assert not (tmp_path / "runs/monday/next.report.json").exists()
        return
    report, _ = run(tmp_path, "DIN_monday", root, "warm_start=DIN_monday", name="next")
    assert report.warm_start["rows"]["item_id"] == {"kept": 16, "new": 10, "dropped": 4}
    with np.load(tmp_path / "runs/monday/DIN_monday.predictions.npz") as scored:
        np.testing.assert_array_equal(begin[0][1], scored["valid_scores"])


def test_a_resumed_run_does_not_start_again(shop, monkeypatch):
    """It resumes by its own state, and its report still says where it began."""
    warm = ("DIN_tuesday", "epochs=3", "warm_start=monday/DIN_monday")
    whole, _ = run(shop, *warm, name="whole")
    save = Trainer._save_state

    def stop_after_one(self, train):
        save(self, train)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_state", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            run(shop, *warm, name="parts")
    monkeypatch.setattr(runner, "start_from", lambda *_: pytest.fail("started again"))
    report, _ = run(shop, *warm, name="parts", resume=True)
    assert [row["train_loss"] for row in report.curve] == [row["train_loss"] for row in whole.curve]
    assert report.warm_start == whole.warm_start


def test_columns_that_come_encoded_are_matched_by_code(shop, begin, tmp_path):
    for day, seed in (("first", 5), ("second", 6)):
        splits = {
            "train": samples(users=range(9), items=range(1, 20 + seed), rows=300, seed=seed),
            "valid": samples(users=range(9), items=range(1, 20), rows=90, seed=9),
        }
        build_shop(tmp_path / "data", day, splits, None)
    write_config(tmp_path / "config", tmp_path / "data", ("first", "second"), epochs=1)
    run(tmp_path, "DIN_first")
    report, _ = run(tmp_path, "DIN_second", "warm_start=first/DIN_first")
    assert report.warm_start["rows"]["item_id"] == {"kept": 40, "new": 0, "dropped": 0}
    with np.load(tmp_path / "runs/first/DIN_first.predictions.npz") as kept:
        np.testing.assert_array_equal(begin[1][1], kept["valid_scores"])
    mixed = [f"data_root={tmp_path / 'data'}", "warm_start=first/DIN_first"]
    shutil.copytree(shop / "data/tuesday/ids", tmp_path / "data/second/ids")
    with pytest.raises(
        DataError, match=r"column 'item_id' has codes of its own in dataset 'first' \(.*\) and ids in dataset"
    ):
        run(tmp_path, "DIN_second", *mixed, name="mixed")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            ["warm_start=monday/QIN_mondy"],
            DataError,
            r"QIN_mondy.report.json does not exist. Did you mean 'QIN_monday'",
        ),
        (["warm_start=monday/DIN_monday"], ConfigError, "DIN_monday is a run of DIN, not of QIN"),
        (["warm_start=QIN_tuesday"], ConfigError, "QIN_tuesday is the run itself: .* --name"),
        (["warm_start=a/b/c"], ConfigError, "'a/b/c' is neither the name of a run"),
        (["warm_start=3"], ConfigError, "warm_start must be text"),
        (
            ["warm_start=monday/QIN_monday", "embedding_dim=8"],
            ConfigError,
            r"has shape \(.*4\) in .*QIN_monday.model and \(.*8\) in this run: .*embedding_dim: 4 then, 8 now",
        ),
        (
            ["warm_start=monday/QIN_monday", "num_layers=3"],
            ConfigError,
            r"this run has weights that .*QIN_monday.model lacks \(.*num_layers: 2 then, 3 now",
        ),
        (
            ["warm_start=monday/QIN_monday", "use_features=[user, item_id]"],
            ConfigError,
            r"has weights that this run lacks \(.*use_features: not set then, \['user', 'item_id'\] now",
        ),
    ],
)
def test_what_does_not_fit_is_one_error(shop, settings, error, message):
    with pytest.raises(error, match=message):
        run(shop, "QIN_tuesday", *settings, name="QIN_tuesday")


@pytest.mark.parametrize("place", ["of a recipe", "of an entry"])
def test_vectors_of_co_occurrence_of_another_build_are_refused(shop, tmp_path, place):
    shutil.copytree(shop / "data", tmp_path / "data")
    facts = {"item_cooc": {"method": "ppmi_svd"}}
    reseal(tmp_path / "data/tuesday", facts=facts if place == "of a recipe" else {"vectors": facts})
    with pytest.raises(DataError, match=r"'tuesday' is another build .* column 'item_cooc' .* have other directions"):
        run(shop, "QIN_tuesday", f"data_root={tmp_path / 'data'}", "warm_start=monday/QIN_monday", name="QIN_tuesday")


def test_texts_that_another_encoder_encoded_are_refused(shop, monkeypatch):
    monkeypatch.setattr(warm_start, "_facts_of_vectors", lambda manifest: {"title": {"fingerprint": manifest.hash}})
    with pytest.raises(DataError, match=r"texts of column 'title' are encoded by other weights in dataset 'tuesday'"):
        run(shop, "QIN_tuesday", "warm_start=monday/QIN_monday", name="QIN_tuesday")


def test_a_model_file_alone_is_refused(shop, tmp_path):
    alone = shutil.copy(shop / "runs/monday/QIN_monday.model", tmp_path / "QIN_monday.model")
    with pytest.raises(DataError, match=r"has no QIN_monday.report.json beside it, .* dataset .* is not known"):
        run(shop, "QIN_tuesday", f"warm_start={alone}", name="alone")
    shutil.copy(shop / "runs/monday/QIN_monday.report.json", tmp_path)
    report, _ = run(shop, "QIN_tuesday", f"warm_start={alone}", "epochs=1", name="both")
    assert report.warm_start["model_file"] == str(alone)
    alone.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"QIN_monday.model cannot be read"):
        run(shop, "QIN_tuesday", f"warm_start={alone}", "epochs=1", name="damaged")
