"""YAML becomes checked parameters; every mistake is one error that names file, key or id and what to write."""

import json
import shutil
import time
from pathlib import Path

import pytest

from fuxictr_multimodal.config import yaml_files
from fuxictr_multimodal.config.expids import check_model_keys, list_expids, load_config, load_dataset_config
from fuxictr_multimodal.config.identity import computed, config_hash, trial_hash
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.models import resolve

SHIPPED = Path("config")
SYNTHETIC = "    synthetic: {rows: 10, valid_rows: 10, test_rows: 10, items: 20}\n"

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
        ({"dataset": DATASET.replace("max_len: 8", f"max_len: {2**31}")}, "QIN_a", "max_len must be a whole number"),
        ({"expids": "QIN_a: {model: QIN, dataset_id: d, max_len: 9}"}, "QIN_a", "max_len.* is 9 .* and 8"),
        ({"expids": "QIN_a: {model: QIN, model: DIN}"}, "QIN_a", "line 1: key 'model' is written twice"),
        ({"expids": "QIN_a: [1, 2]"}, "QIN_a", "must be a mapping of settings"),
        ({"expids": "QIN_a: {model: QIN"}, "QIN_a", "not valid YAML"),
        ({"expids": "- a"}, "QIN_a", "expected a mapping of ids"),
        ({"expids": BASE + "\nQIN_a: {model: QIN, dataset_id: d}"}, "QIN_a", "'Base' is defined in .* and in"),
        ({"base": "Base: {model_root: x, metrics: [AUC]}"}, "QIN_a", "does not set `seed`; `Base` is the place"),
        ({"dataset": DATASET + "    max_length: 9\n"}, "QIN_a", "unknown key 'max_length'. Did you mean 'max_len'"),
        ({"dataset": "d: {data_root: null, feature_cols: [], label_col: y}"}, "QIN_a", "does not set `data_root`"),
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


@pytest.mark.parametrize(
    "text",
    [
        *("seed=1.5", "seed=-1", "seed=True", "seed=abc", "seed=4294967296", "learning_rate=[1]", "learning_rate=.nan"),
        *("eval_steps=0", "eval_steps=1.5", "max_gradient_norm=abc", "factor=2", "shuffle=abc", "save_best_only=3"),
        *("max_len=0", "embedding_dim=abc", "embedding_dim=-4", "shuffle_window=0", "reduce_lr_on_plateau=1"),
        *("data_root=", "model_root=[a]", "model=5", "monitor=[AUC]", "monitor={}", "monitor.AUC=.inf"),
        *("monitor_mode=[max]", "optimizer=[Adam]", "weight_averaging=[1]"),
        *("net_regularizer=&a [*a]", "feature_specs=[[{name: a, feature_encoder: print()}]]"),
    ],
)
def test_a_value_that_would_fail_late_is_refused_by_name(config_dir, text):
    key = text.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=key):
        load_config(config_dir(), "QIN_a", overrides=[text])


@pytest.mark.parametrize("text", ["epochs", "=3", "epochs={a"])
def test_bad_override(config_dir, text):
    with pytest.raises(ConfigError, match="--set"):
        load_config(config_dir(), "QIN_a", overrides=[text])


def test_an_experiment_may_read_fewer_items_of_a_history_but_not_more(config_dir):
    expid = "QIN_a: {model: QIN, dataset_id: d, learning_rate: 1.e-3, max_len: %d}"
    assert load_config(config_dir(expids=expid % 4), "QIN_a")["max_len"] == 4
    with pytest.raises(ConfigError, match="key 'max_len' is 9 in expid 'QIN_a' and 8 in dataset 'd': keep one of them"):
        load_config(config_dir(expids=expid % 9), "QIN_a")


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


def test_a_setting_that_the_model_once_had_is_named_with_what_to_do(config_dir):
    params = load_config(config_dir(), "QIN_a", overrides=["self_ensemble=false"])
    message = "expid 'QIN_a': the setting 'self_ensemble' was removed: .* Leave it out and train again"
    with pytest.raises(ConfigError, match=message):
        check_model_keys(params, resolve("QIN").model_class)


def test_integer_regulariser_becomes_a_float_that_fuxictr_reads(config_dir):
    params = load_config(config_dir(), "QIN_a", overrides=["embedding_regularizer=1"])
    assert isinstance(params["embedding_regularizer"], float)


def test_hash_ignores_the_machine_and_the_name(config_dir):
    one = load_config(config_dir(), "QIN_a")
    assert config_hash(one) == config_hash({**one, "gpu": 3, "model_id": "x", "model_root": "elsewhere"})
    assert config_hash(one) != config_hash({**one, "seed": 2})


def test_empty_file_is_no_entries(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("20250101", "int"), ("2025-01-01", "date"), ("1.5", "float"), ("yes", "bool"), ("null", "NoneType")],
)
@pytest.mark.parametrize("what", ["expid", "dataset_id"])
def test_a_name_that_yaml_reads_as_something_else_is_refused_by_name(config_dir, name, kind, what):
    folder = config_dir()
    file = folder / ("model_config/qin.yaml" if what == "expid" else "dataset_config/d.yaml")
    file.write_text(file.read_text() + f"{name}: {{model: QIN, dataset_id: d}}\n")
    message = rf"{file.name}: {what} .* is read as {kind}, not as text: write it in quotes"
    reads = [lambda: load_config(folder, "QIN_a")]
    reads += [lambda: load_config(folder, "QIN_c"), lambda: list_expids(folder)] if what == "expid" else []
    for read in reads:
        with pytest.raises(ConfigError, match=message):
            read()
    file.write_text(file.read_text().replace(f"\n{name}:", f"\n'{name}':"))
    assert load_config(folder, "QIN_a")["epochs"] == 2


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "a\\b", "..", ".x", "", " x", "x\n", "x" * 201, "a,b", "a[1]", "con", "NUL.x"]
)
def test_a_name_that_leaves_its_folder_is_refused(config_dir, name):
    quoted = json.dumps(name)
    for files in (
        {"expids": f"{quoted}: {{model: QIN, dataset_id: d}}"},
        {"dataset": DATASET + f"{quoted}: {{data_root: x}}"},
        {"expids": f"QIN_a: {{model: QIN, dataset_id: {quoted}}}"},
    ):
        with pytest.raises(ConfigError, match="expid|dataset_id"):
            load_config(config_dir(**files), "QIN_a")
    with pytest.raises(ConfigError, match="expid"):
        load_config(config_dir(), name)
    for read in (
        lambda: load_dataset_config(config_dir(), name),
        lambda: load_config(config_dir(), "QIN_a", overrides=[f"dataset_id={quoted}"]),
    ):
        with pytest.raises(ConfigError, match="dataset_id"):
            read()


def test_no_override_renames_the_files_of_a_run(config_dir):
    assert load_config(config_dir(), "QIN_a", overrides=["model_id=../../x"])["model_id"] == "QIN_a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"QIN_a: {model: QIN, dataset_id: d, note: 2025-01-01}", "note: YAML reads 2025-01-01 as a date"),
        (b"QIN_a: {model: QIN, dataset_id: d, [1]: 2}", "line 1: a key must be a name"),
        (b"QIN_a: {model: QIN, dataset_id: d, note: !!binary aGk=}", "note: YAML reads it as bytes"),
        (b"QIN_a: {model: QIN, dataset_id: d, note: !!set {a, b}}", "note: YAML reads it as set"),
        (b"QIN_a: {model: QIN, dataset_id: d, net_regularizer: 1%b}" % (b"0" * 400), "number of more than 64 bits"),
        (b"QIN_a: {model: 3, dataset_id: d}", "model 3 is not a name"),
        ("QIN_a: {model: QIN, note: é}".encode("latin-1"), "cannot be read as UTF-8"),
    ],
)
def test_yaml_that_is_no_configuration(config_dir, content, message):
    folder = config_dir()
    (folder / "model_config/qin.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(folder, "QIN_a")


def test_a_byte_order_mark_is_no_part_of_the_first_name(config_dir):
    folder = config_dir()
    path = folder / "model_config/qin.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + EXPIDS.strip().encode())
    assert list_expids(folder) == ["QIN_a", "QIN_b"]


def test_each_file_is_parsed_once_until_it_changes(config_dir):
    folder = config_dir()
    parsed_before = yaml_files._parsed.cache_info().misses
    for expid in list_expids(folder) * 3:
        load_config(folder, expid)
    assert yaml_files._parsed.cache_info().misses - parsed_before == 3
    time.sleep(0.01)
    (folder / "model_config/qin.yaml").write_text(EXPIDS.replace("epochs: 3", "epochs: 4"))
    assert load_config(folder, "QIN_b")["epochs"] == 4


def test_shared_entries_cannot_be_changed(config_dir):
    folder = config_dir(dataset=DATASET + SYNTHETIC)
    params = load_config(folder, "QIN_a", overrides=["synthetic.rows=40000"])
    params["feature_cols"][0]["dtype"] = params["metrics"][0] = "changed"
    entry = load_dataset_config(folder, "d")
    entry["synthetic"]["rows"] = 7
    read_yaml(folder / "dataset_config/d.yaml")["d"]["feature_cols"].clear()
    again = load_config(folder, "QIN_a")
    assert again["synthetic"] == {"rows": 10, "valid_rows": 10, "test_rows": 10, "items": 20}
    assert (again["feature_cols"][0]["dtype"], again["metrics"]) == ("int", ["AUC"])


def test_dots_set_nested_keys(config_dir):
    folder = config_dir(
        base=BASE.replace("monitor: AUC", "monitor: {AUC: 1}"),
        dataset=DATASET + SYNTHETIC,
    )
    overrides = ["synthetic.rows=5", "synthetic.rows=40000", "synthetic.seed=3", "monitor.logloss=-1", "epochs=4"]
    params = load_config(folder, "QIN_a", overrides=overrides)
    assert params["synthetic"] == {"rows": 40000, "valid_rows": 10, "test_rows": 10, "items": 20, "seed": 3}
    assert (params["monitor"], params["epochs"]) == ({"AUC": 1, "logloss": -1}, 4)
    block = "synthetic={rows: 1, valid_rows: 2, test_rows: 3, items: 30}"
    assert load_config(folder, "QIN_a", overrides=[block, "synthetic.items=20"])["synthetic"] == {
        "rows": 1,
        "valid_rows": 2,
        "test_rows": 3,
        "items": 20,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synthetic.rwos=5", "'synthetic' has no key 'rwos'. Did you mean 'rows'"),
        ("sinthetic.rows=5", "'sinthetic' is not a group of settings here. Did you mean 'synthetic'"),
        ("epochs.x=5", "'epochs' is not a group of settings here"),
        ("label_col.dtpye=int", "'label_col' has no key 'dtpye'. Did you mean 'dtype'"),
        ("synthetic..rows=5", "write key=value"),
        (".rows=5", "write key=value"),
        ("synthetic.=5", "write key=value"),
        ("synthetic.rows=2025-01-01", "as a date"),
    ],
)
def test_bad_nested_override(config_dir, text, message):
    folder = config_dir(dataset=DATASET + SYNTHETIC)
    with pytest.raises(ConfigError, match=f"--set .*{message}"):
        load_config(folder, "QIN_a", overrides=[text])


def test_tilde_is_the_home_folder_in_configured_paths(config_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = config_dir(
        base=BASE.replace("./checkpoints/", "~/ck"), dataset=DATASET.replace("data_root: ./data/", "data_root: ~/data")
    )
    params = load_config(folder, "QIN_a", overrides=["zoo_root=~/clone"])
    found = [params[key] for key in ("model_root", "data_root", "zoo_root")]
    assert found == [str(tmp_path / "home" / name) for name in ("ck", "data", "clone")]
    assert load_config(folder, "QIN_a", overrides=["model_root=~/x"])["model_root"] == str(tmp_path / "home/x")
    assert load_dataset_config(folder, "d")["data_root"] == str(tmp_path / "home/data")
    assert config_hash(params) == config_hash({**params, "model_root": "~/ck", "data_root": "~/data"})
    with pytest.raises(ConfigError, match="model_root .*no home folder of that name"):
        load_config(folder, "QIN_a", overrides=["model_root=~nobody_has_this_name/x"])
    with pytest.raises(ConfigError, match="model_root 3 is not a path"):
        load_config(folder, "QIN_a", overrides=["model_root=3"])


@pytest.mark.parametrize(
    ("path", "message"),
    [("a" * 256, "a name may have 255 bytes"), ("a/" * 3000, "a name may have"), ("a\0b", "NUL"), ("\ud800", "half")],
)
def test_a_path_that_no_file_can_have_is_refused(path, message):
    with pytest.raises(ConfigError, match=f"is not a path: .*{message}"):
        user_path(path)


def test_unread_keys_are_accepted_and_not_hashed(config_dir):
    plain = load_config(config_dir(), "QIN_a")
    more = "    data_format: h5\n    train_data: ./data/d/train.h5\n    valid_data: x\n    test_data: y\n"
    given = load_config(config_dir(dataset=DATASET + more), "QIN_a")
    assert config_hash(plain) == config_hash(given)
    assert computed(plain) == computed(given)
    # Trials keep the names that they were given when these keys counted.
    assert trial_hash(plain) != trial_hash(given)


def test_what_all_experiments_share_gives_way_to_the_dataset(repository, tmp_path):
    shutil.copytree(repository / "config", tmp_path / "config")
    path = tmp_path / "config/dataset_config/synthetic.yaml"
    path.write_text(path.read_text().replace("Synthetic_test: #", "Synthetic_test:\n    group_id: likes_level\n    #"))
    assert load_config(tmp_path / "config", "QIN_test")["group_id"] == "likes_level"
    assert load_config(tmp_path / "config", "QIN_demo")["group_id"] == "user_id"


def test_what_gives_way_is_decided_by_the_dataset_that_the_run_reads(repository):
    params = load_config(repository / "config", "QIN_MovieLens", overrides=["dataset_id=Synthetic_demo"])
    assert params["group_id"] == "user_id"
