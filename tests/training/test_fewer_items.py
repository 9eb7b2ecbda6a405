"""Experiments that read fewer items of a history than their dataset holds."""

import pytest
import yaml

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.data.entry.build import open_or_build
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.training.experiment import Experiment
from tests.helpers import shop

SMALL = {"model": "QIN", "dataset_id": "Shop", "epochs": 1, "batch_size": 64, "embedding_dim": 4}


@pytest.fixture
def config(tmp_path, repository):
    """Experiments on a log that is not built yet."""
    raw = shop.write(tmp_path / "raw", events=600)
    base = {**read_yaml(repository / "config/model_config/base.yaml")["Base"], "model_root": str(tmp_path / "runs")}
    entry = {
        "data_root": str(tmp_path / "data"),
        "data_format": "parquet",
        "max_len": 5,
        "item_data": str(raw / "items.parquet"),
        "interactions": {
            "file": str(raw / "log.parquet"),
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "label": "click",
        },
        "split": {"by": "time", "valid": 0.1, "test": 0.1},
        "feature_cols": [
            {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
            {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
        ],
        "label_col": {"name": "click", "dtype": "float"},
        "group_id": "user_id",
    }
    base.pop("group_id", None)
    models = {"Base": base, "QIN_short": {**SMALL, "max_len": 3}, "QIN_whole": SMALL}
    for name, content in (("model_config", models), ("dataset_config", {"Shop": entry})):
        (tmp_path / f"config/{name}.yaml").parent.mkdir(exist_ok=True)
        (tmp_path / f"config/{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "config"


def longest(experiment):
    batches = experiment.split_loader("train", experiment.feature_map(), "cpu")
    return max(batch.history.lengths.max().item() for batch in batches)


@pytest.mark.parametrize("first", ["QIN_short", "QIN_whole"])
def test_the_dataset_holds_its_own_number_whoever_builds_it(config, first):
    assert Experiment.load(config, first).store.manifest.max_len == 5
    assert longest(Experiment.load(config, "QIN_short")) == 3
    assert longest(Experiment.load(config, "QIN_whole")) == 5


def test_so_it_does_where_the_command_line_says_fewer(config):
    experiment = Experiment.load(config, "QIN_whole", overrides=["max_len=2"])
    assert experiment.store.manifest.max_len == 5
    assert longest(experiment) == 2


def test_a_dataset_alone_is_built_as_its_entry_says(config):
    entry = load_dataset_config(config, "Shop")
    assert open_or_build(entry) == Store.open(entry["data_root"], "Shop")
    assert open_or_build(entry).manifest.max_len == 5


def test_runs_are_named_by_what_differs_from_the_experiment(config):
    def name(*overrides):
        return Experiment.load(config, "QIN_short", overrides=overrides, reading=False).run

    assert name() == name("max_len=3") == "QIN_short"
    assert name("max_len=5") == "QIN_short@max_len=5"
    assert name("learning_rate=2.e-3") == "QIN_short@learning_rate=2e-3"
