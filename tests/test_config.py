"""YAML becomes checked parameters; every mistake is one error that names file, key or id and what to write."""

from pathlib import Path

import pytest

from fuxictr_multimodal.config import (
    check_model_keys,
    config_hash,
    list_expids,
    load_config,
    load_dataset_config,
    read_yaml,
)
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo import resolve

SHIPPED = Path("config")

BASE = """
Base: {model_root: ./checkpoints/, seed: 1, metrics: [AUC], monitor: AUC, epochs: 2, batch_size: 8}
"""
EXPIDS = """
QIN_a: {model: QIN, dataset_id: d, learning_rate: 1.e-3}
QIN_b: {model: QIN, dataset_id: d, epochs: 3}
"""
DATASET = """
d:
    data_root: ./data/
    max_len: 8
    feature_cols: [{name: user_id, dtype: int, type: meta, active: True}]
    label_col: {name: label, dtype: float}
"""


@pytest.fixture
def config_dir(tmp_path):
    def write(base=BASE, expids=EXPIDS, dataset=DATASET):
        for name, text in (
            ("model_config/base.yaml", base),
            ("model_config/qin.yaml", expids),
            ("dataset_config/d.yaml", dataset),
        ):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("expid", list_expids(SHIPPED))
def test_every_shipped_expid_binds_to_its_model(expid):
    params = load_config(SHIPPED, expid)
    check_model_keys(params, resolve(params["model"]).model_class)


def test_base_expid_dataset_and_overrides_in_this_order(config_dir):
    params = load_config(config_dir(), "QIN_b", overrides=["epochs=5", "learning_rate=1e-4"], seed=7)
    assert (params["seed"], params["epochs"], params["learning_rate"]) == (7, 5, 1e-4)
    assert (params["max_len"], params["model_id"], params["metrics"]) == (8, "QIN_b", ["AUC"])


@pytest.mark.parametrize(
    ("files", "expid", "message"),
    [
        ({}, "QIN_c", r"expid 'QIN_c' is not in .*Did you mean"),
        ({}, "Base", "expid 'Base' is not in"),
        ({"expids": "QIN_a: {model: QIN}"}, "QIN_a", "does not set `dataset_id`"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: dd}"}, "QIN_a", "dataset_id 'dd' is not in .*'d'"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, learning_rate: 1e-3}"}, "QIN_a", r"write 1\.e-3"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, learning_rate: 1.5e3}"}, "QIN_a", r"write 1\.5e\+3"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, learning_rate: -1}"}, "QIN_a", "learning_rate must be"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, epochs: 1.5}"}, "QIN_a", "epochs must be a whole number"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, max_len: 9}"}, "QIN_a", "max_len.* is 9 .* and 8"),
        ({"expids": "QIN_a: {model: QIN, model: DIN}"}, "QIN_a", "line 1: key 'model' is written twice"),
        ({"expids": "QIN_a: [1, 2]"}, "QIN_a", "must be a mapping of settings"),
        ({"expids": "QIN_a: {model: QIN"}, "QIN_a", "not valid YAML"),
        ({"expids": "- a"}, "QIN_a", "expected a mapping of ids"),
        ({"expids": BASE + "\nQIN_a: {model: QIN, dataset_id: d}"}, "QIN_a", "'Base' is defined in .* and in"),
        ({"base": "Base: {model_root: x, metrics: [AUC]}"}, "QIN_a", "`seed` is not set"),
        ({"dataset": DATASET + "    max_length: 9\n"}, "QIN_a", "unknown key 'max_length'. Did you mean 'max_len'"),
        ({"dataset": "d: {data_root: x, label_col: y}"}, "QIN_a", "does not set `feature_cols`"),
        (
            {"expids": "QIN_a: {model: QIN, dataset_id: d, embedding_initializer: __import__('os')}"},
            "QIN_a",
            "would be run as code",
        ),
    ],
)
def test_bad_configuration_is_one_clear_error(config_dir, files, expid, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_dir(**files), expid)


@pytest.mark.parametrize("text", ["epochs", "=3", "epochs={a"])
def test_bad_override(config_dir, text):
    with pytest.raises(ConfigError, match="--set"):
        load_config(config_dir(), "QIN_a", overrides=[text])


def test_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"found neither model_config.yaml nor model_config/\*.yaml"):
        load_config(tmp_path, "QIN_a")


def test_single_files_as_in_the_zoo(tmp_path):
    (tmp_path / "model_config.yaml").write_text(BASE + EXPIDS)
    (tmp_path / "dataset_config.yaml").write_text(DATASET)
    assert load_config(tmp_path, "QIN_a")["batch_size"] == 8
    assert load_dataset_config(tmp_path, "d")["dataset_id"] == "d"


def test_unknown_model_key_names_the_nearest(config_dir):
    class Model:
        __module__ = "model_zoo.Any"

        def __init__(self, feature_map, *, learning_rate=1e-3, net_dropout=0.0, **params):
            pass

    params = load_config(config_dir(), "QIN_a", overrides=["net_droput=0.5"])
    with pytest.raises(ConfigError, match="unknown key 'net_droput'. Did you mean 'net_dropout'"):
        check_model_keys(params, Model)


def test_integer_regulariser_becomes_a_float_that_the_toolkit_reads(config_dir):
    params = load_config(config_dir(), "QIN_a", overrides=["embedding_regularizer=1"])
    assert isinstance(params["embedding_regularizer"], float)


def test_hash_ignores_the_machine_and_the_name(config_dir):
    one = load_config(config_dir(), "QIN_a")
    assert config_hash(one) == config_hash({**one, "gpu": 3, "model_id": "x", "model_root": "elsewhere"})
    assert config_hash(one) != config_hash({**one, "seed": 2})


def test_empty_file_is_no_entries(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}
