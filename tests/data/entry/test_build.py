"""Datasets are built at first use, not again, not from an edited entry, and never half."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import polars as pl
import pytest

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.entry.build import build_entry, open_or_build
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.staging import StoreExistsError
from fuxictr_multimodal.errors import ConfigError, DataError

COLUMNS = [
    {"name": ["user", "site"], "active": True, "dtype": "str", "type": "categorical"},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
    {"name": "off", "active": False, "dtype": "str", "type": "categorical"},
]


@pytest.fixture
def shop(tmp_path):
    """An entry without items, and its csv files."""
    (tmp_path / "raw").mkdir()
    for split in ("train", "valid"):
        rows = [f"{n % 2},user {n % 7},site {n % 3},{n / 10}" for n in range(100)]
        (tmp_path / f"raw/{split}.csv").write_text("\n".join(["label,user,site,price", *rows]) + "\n")
    return {
        "dataset_id": "Shop",
        "data_root": str(tmp_path / "data"),
        "data_format": "csv",
        "train_data": str(tmp_path / "raw/train.csv"),
        "valid_data": str(tmp_path / "raw/valid.csv"),
        "feature_cols": COLUMNS,
        "label_col": {"name": "label", "dtype": "float"},
    }


def test_a_dataset_is_built_once_and_replaced_only_on_request(shop):
    store = open_or_build(shop)
    written = (store.dir / "manifest.json").stat().st_mtime_ns
    assert open_or_build(shop) == store
    assert (store.dir / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(StoreExistsError, match="give --overwrite"):
        build_entry(shop)
    assert build_entry(shop, overwrite=True) == store
    assert (store.place / "manifest.json").stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_categr_count": 2}, r"\(min_categr_count: not set then, 2 now\): build it again with `fxmm build "
         r"--dataset-id Shop --overwrite`, or give the edited entry another dataset_id"),
        ({"train_data": "./raw/train_2.csv"}, r"train_data: .*train.csv then, ./raw/train_2.csv now"),
        ({"feature_cols": [COLUMNS[0], {**COLUMNS[1], "normalizer": "MinMaxScaler"}]},
         r"feature_cols.price.normalizer: StandardScaler then, MinMaxScaler now"),
        ({"feature_cols": COLUMNS[:1]}, r"feature_cols.price: .* then, not set now and 1 more"),
        ({"feature_cols": [COLUMNS[1], COLUMNS[0]]}, r"order of feature_cols"),
        ({"split": {"by": "order"}, "valid_data": None}, r"valid_data: .* then, not set now"),
    ],
)  # fmt: skip
def test_an_edited_entry_is_refused(shop, change, message):
    open_or_build(shop)
    edited = {key: value for key, value in {**shop, **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        open_or_build(edited)


@pytest.mark.parametrize(
    "change",
    [
        {"min_categr_count": 1},
        {"obtain": "ask", "rebuild_dataset": True, "data_block_size": 10, "group_id": "user"},
        {"train_data": "raw/train.csv"},
        {"feature_cols": [
            {"name": "user", "dtype": "str", "type": "categorical"},
            {"name": "site", "active": True, "dtype": "str", "type": "categorical"},
            COLUMNS[1],
        ]},
        {"label_col": [{"name": "label", "dtype": "float"}]},
    ],
)  # fmt: skip
def test_an_entry_that_says_the_same_is_not(shop, change):
    store = open_or_build(shop)
    assert open_or_build({**shop, **change}) == store


def test_a_script_s_dataset_is_not_compared(shop, tmp_path):
    store = open_or_build(shop)
    recipe = {"script": "x", "e": store.manifest.recipe["entry"]}
    replace(store.manifest, recipe=recipe).write(store.dir)
    assert open_or_build({**shop, "min_categr_count": 5}).dir == store.dir


def test_what_is_missing_is_said(shop, tmp_path):
    with pytest.raises(DataError, match=r"train_data: .*no.csv does not exist. .*Ask the shop"):
        open_or_build({**shop, "train_data": str(tmp_path / "raw/no.csv"), "obtain": "Ask the\n shop"})
    with pytest.raises(ConfigError, match=r"data_format 'tfrecord' is not read: convert the files to csv or"):
        open_or_build({**shop, "data_format": "tfrecord"})
    with pytest.raises(ConfigError, match=r"the entry has no such block, nor does it name files"):
        build_entry({**shop, "data_format": "h5"})
    assert not list((tmp_path / "data").glob("[!.]*"))


def test_fuxictrs_own_files_are_left_alone(shop, tmp_path):
    own = tmp_path / "data/Shop/feature_map.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert open_or_build(shop).dir == tmp_path / "data/Shop_h5"
    assert open_or_build(shop).manifest.dataset_id == "Shop_h5"
    assert own.read_text() == "{}"


def test_raw_files_may_lie_where_the_dataset_would(shop, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "raw").rename(tmp_path / "data/Shop")
    moved = {
        key: value.replace("/raw/", "/data/Shop/") if key.endswith("_data") else value for key, value in shop.items()
    }
    assert open_or_build(moved).dir == tmp_path / "data/Shop_h5"
    assert open_or_build(moved).manifest.splits["train"].rows == 100


@pytest.mark.parametrize("place", [".", "config", "demo/config/example", "elsewhere"])
def test_paths_lead_to_the_files_from_any_folder(shop, tmp_path, monkeypatch, place):
    """As FuxiCTR's configs have them: relative to the folder above the configs, which may be two levels up."""
    (tmp_path / "demo/config/example").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    config = tmp_path / "demo/config/example"
    (config / "dataset_config.yaml").write_text(
        "Shop:\n    data_root: ../data/\n    data_format: csv\n    train_data: ../raw/train.csv\n"
        "    valid_data: ../raw/valid.csv\n    label_col: {name: label, dtype: float}\n"
        "    feature_cols:\n        - {name: user, active: True, dtype: str, type: categorical}\n"
    )
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    entry = load_dataset_config(config, "Shop")
    store = open_or_build(entry)
    assert store.dir.resolve() == tmp_path / "data/Shop"


def test_a_killed_build_leaves_nothing_that_counts(shop, tmp_path):
    """The process dies between the first samples and the manifest; the next build begins anew."""
    code = (
        "import json, sys, time\n"
        "from fuxictr_multimodal.data.store import builder\n"
        "from fuxictr_multimodal.data.entry.build import build_entry\n"
        "append = builder.StoreBuilder.append\n"
        "def slow(self, split, *args, **kwargs):\n"
        "    append(self, split, *args, **kwargs)\n"
        "    print('appended', flush=True)\n"
        "    time.sleep(60)\n"
        "builder.StoreBuilder.append = slow\n"
        "build_entry(json.loads(sys.argv[1]))\n"
    )
    import json

    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(shop)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "appended\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "data/Shop").exists()
    assert (tmp_path / "data/.Shop.building").is_dir()
    before = time.monotonic()
    assert open_or_build(shop).manifest.splits["train"].rows == 100
    assert time.monotonic() - before < 30
    assert not (tmp_path / "data/.Shop.building").exists()
    Store.open(tmp_path / "data", "Shop").verify()


def test_frames_in_place_of_files(shop):
    frames = {f"{split}_data": pl.read_csv(shop[f"{split}_data"]) for split in ("train", "valid")}
    plain = {key: value for key, value in shop.items() if not key.endswith("_data") and key != "data_format"}
    store = build_entry(plain, frames=frames)
    assert store.manifest.sources == {}
    assert open_or_build(shop) == store
    with pytest.raises(ConfigError, match=r"frames: 'train' is no table of an entry. Did you mean 'train_data'"):
        build_entry(plain, frames={"train": frames["train_data"]})
