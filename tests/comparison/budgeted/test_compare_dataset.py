"""`run_comparison.py --dataset`: killed and repeated it resumes, and bad input is one line."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from fuxictr_multimodal.cli.comparison import run_comparison_main
from fuxictr_multimodal.comparison.budgeted.shape import Shape
from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.held import HeldFolder
from fuxictr_multimodal.data.store.manifest import HistoryLength, Manifest, SplitCounts
from fuxictr_multimodal.errors import DataError
from tests.helpers.typed_command import Command, type_command

TINY = {"rows": 600, "valid_rows": 200, "test_rows": 200, "items": 40, "seed": 3}


@pytest.fixture
def home(tmp_path, repository):
    """A working folder with the entry of a dataset that is not built, and no experiment."""
    entry = dict(read_yaml(repository / "config/dataset_config/synthetic.yaml")["Synthetic_test"])
    for key in ("train_data", "valid_data", "test_data"):
        del entry[key]
    write(tmp_path / "config/dataset_config/shop.yaml", {"Shop": {**entry, "synthetic": TINY}})
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def words(repository, *arguments):
    return [str(repository / "run_comparison.py"), "--dataset", "Shop", *arguments]


def complete(home):
    """Complete reports, and when they were written."""
    found = home.glob("results/compare_Shop/checkpoints/Shop/*.report.json")
    return {path: path.stat().st_mtime_ns for path in found if json.loads(path.read_text())["status"] == "completed"}


def used(home):
    return json.loads((home / "results/compare_Shop/state.json").read_text())["seconds"]


@pytest.mark.slow
def test_killed_and_repeated_it_resumes_and_then_repeats_nothing(home, repository, monkeypatch, capsys):
    asked = words(repository, "--hours", "0.5", "--models", "MeanMLP,QIN", "--trials", "2", "--seeds", "1,2")
    asked += ["--gpu", "-1", "-1"]
    first = Command(asked, folder=home)
    deadline = time.monotonic() + 240
    while len(complete(home)) < 1:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = complete(home)
    first.kill()
    first.communicate(30)
    before = used(home)
    assert before > 0

    done = type_command(asked, folder=home)
    assert done.status == 0, done.out + done.errors
    assert used(home) > before
    assert re.search(r"s of 30\.0 min were used before", done.out)
    reports = complete(home)
    assert {path: reports[path] for path in kept} == kept
    # Two trials of each model, and the two seeds of its best.
    assert len(reports) == 2 * (2 + 2)
    board = json.loads((home / "results/compare_Shop/board.json").read_text())
    assert {entry["name"] for entry in board["entries"]} == {"MeanMLP_Shop_tuned", "QIN_Shop_tuned"}
    assert "MeanMLP_Shop_tuned" in (home / "results/compare_Shop/board.html").read_text()
    (best,) = set(read_yaml(home / "results/compare_Shop/best/model_config.yaml")) - {"Base"}
    assert best in ("MeanMLP_Shop_best", "QIN_Shop_best")
    # What is best by the mean over seeds on valid, whatever test says.
    means = {}
    for name in ("MeanMLP", "QIN"):
        runs = [json.loads(path.read_text()) for path in reports if path.name.startswith(f"{name}_Shop_tuned_s")]
        means[name] = sum(run["metrics"]["valid"]["AUC"] for run in runs) / len(runs)
    assert best == f"{max(means, key=means.get)}_Shop_best"

    # The experiments are the user's now: an edit stays.
    models = home / "results/compare_Shop/config/model_config.yaml"
    models.write_text(models.read_text() + "# mine\n")
    again = type_command(asked, folder=home)
    assert again.status == 0, again.out + again.errors
    assert complete(home) == reports
    assert models.read_text().endswith("# mine\n")

    # The printed commands name what is there.
    (trained,) = re.findall(r"^  python run_expid\.py --config (\S+) --expid (\S+)$", again.out, flags=re.M)
    (scored,) = re.findall(r"^  python run_predict\.py --config (\S+) --expid (\S+) --seed 1 ", again.out, flags=re.M)
    monkeypatch.chdir(home)
    assert trained[1] == best
    assert load_config(*trained)["dataset_id"] == "Shop"
    assert Path(load_config(*scored)["model_root"], "Shop", f"{scored[1]}_s1.model").is_file()

    with pytest.raises(SystemExit) as ended:
        run_comparison_main([*asked[1:], "--trials", "3"])
    assert ended.value.code == 2
    assert "holds a comparison with other arguments (trials: 2 there, 3 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "Shopp"], "dataset_id 'Shopp' is not in config. Did you mean 'Shop'"),
        (["--hours", "0"], "--hours 0: give a number above 0"),
        (["--hours", "nan"], "--hours nan: give a number above 0"),
        (["--models", "QIN,DINN"], "--models: 'DINN' is not a model of the comparison. Did you mean 'DIN'"),
        (["--models", ","], "--models is empty"),
        (["--trials", "many"], "--trials many: give auto, or a number from 1"),
        (["--trials", "0"], "--trials 0: give auto, or a number from 1"),
        (["--seeds", "one"], "'one' is not a seed"),
        (["--config", "config/dataset_config/shop.yaml"], "is a file; with --dataset it is the config folder"),
    ],
)
def test_bad_input_is_one_line(home, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as ended:
        run_comparison_main(["--dataset", "Shop", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (home / "results").exists(), "nothing is written"


def test_options_of_a_dataset_need_one(capsys):
    with pytest.raises(SystemExit) as ended:
        run_comparison_main(["--hours", "2"])
    assert ended.value.code == 2
    assert "--hours needs --dataset; a comparison file says it itself" in capsys.readouterr().err


def counts(rows=100, positives=30):
    return SplitCounts(rows, positives, 20, 10, HistoryLength(4.0, 4, 8, 9), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, "has no split 'test', and models are ranked on it"),
        ({"test": counts(positives=None)}, "the split 'test' has no labels, and models are ranked on it"),
        ({"valid": counts(positives=0)}, "all 100 labels of the split 'valid' are 0, and settings are selected on it"),
        ({"train": counts(positives=100)}, "all 100 labels of the split 'train' are 1, and models learn from it"),
    ],
)
def test_splits_without_labels_are_named(tmp_path, change, message):
    splits = {"train": counts(), "valid": counts(), "test": counts(), **change}
    manifest = Manifest(
        dataset_id="Shop",
        max_len=8,
        group_id=None,
        item_col="item_id",
        splits={name: found for name, found in splits.items() if found is not None},
        columns=[],
        item_columns=[],
        items=11,
        split_method="",
    )
    with pytest.raises(DataError, match=message):
        Shape.of(Store(HeldFolder(tmp_path), manifest))


def test_the_shape_of_a_dataset(store):
    shape = Shape.of(store)
    with store.reader("train") as train:
        labels = train.read("label", 0, train.rows)
        offsets = train.read_history(0, train.rows)[1]
    assert (shape.rows, shape.valid_rows, shape.test_rows, shape.items) == (2000, 600, 1500, 400)
    assert shape.positives == labels.sum()
    assert shape.mean_history == pytest.approx(np.diff(offsets).mean())
    assert (shape.groups, shape.item_id) == (375, "item_id")
    assert shape.item_content == ("item_tags", "item_emb_d128")
    assert [name for name, _ in shape.item_tags] == ["item_tags"]
    # likes_level and views_level have 11 values for 500 users.
    assert (shape.user, shape.known_users) == (None, 0.0)


def test_a_feature_that_names_the_user_is_found(tmp_path):
    """A column with a value for each user; half of the samples of valid are of users that train knows."""
    columns = [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 5},
        {"name": "user", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 61},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
    ]
    builder = StoreBuilder(
        dataset_id="Shop",
        data_root=tmp_path,
        feature_cols=columns,
        label_col={"name": "label", "dtype": "float"},
        max_len=4,
        group_id="user_id",
        recipe={},
        progress=False,
    )
    with builder:
        builder.write_items({"emb": np.arange(18.0).reshape(9, 2) * (np.arange(9) > 0)[:, None]})
        for split, users in (("train", np.arange(1, 51)), ("valid", np.arange(41, 61)), ("test", np.arange(1, 21))):
            builder.append(
                split,
                {
                    "label": users % 2,
                    "user_id": users,
                    "level": users % 5,
                    "user": users,
                    "item_id": 1 + users % 8,
                },
                np.ones(len(users), dtype=np.int32),
                np.arange(len(users) + 1),
            )
        builder.finish(split_method="by hand")
    shape = Shape.of(Store.open(tmp_path, "Shop"))
    assert shape.user == ("user", 61)
    assert shape.known_users == 0.5
