"""Keys of an entry that do not fit together are refused with what to do; forms are told apart by their keys."""

import pytest

from fuxictr_multimodal.config.binder import bind
from fuxictr_multimodal.config.dataset_settings import DatasetSettings
from fuxictr_multimodal.config.entry_settings import form_of
from fuxictr_multimodal.config.expids import check_dataset_entry
from fuxictr_multimodal.errors import ConfigError

BASE = {"data_root": "./data/", "feature_cols": [{"name": "a"}], "label_col": {"name": "label"}}
SAMPLES = {**BASE, "data_format": "csv", "train_data": "a.csv", "valid_data": "b.csv"}
LOG = {**BASE, "interactions": {"file": "log.csv", "user": "u", "item": "i"}}


@pytest.mark.parametrize(
    ("entry", "form"),
    [
        ({**BASE, "synthetic": {"rows": 1}}, "synthetic"),
        (LOG, "log"),
        ({**SAMPLES, "item_data": "items.csv"}, "samples"),
        ({**SAMPLES, "history_col": ["clicks", "carts"]}, "samples"),
        (SAMPLES, "flat"),
        ({"data_root": "x", "data_format": "npz", "train_data": "a.npz", "valid_data": "b.npz"}, "prepared"),
        ({**BASE, "data_format": "h5", "train_data": "a.h5"}, "built"),
        ({**BASE, "train_data": "a.csv"}, "built"),
    ],
)
def test_forms(entry, form):
    assert form_of(entry) == form
    if form != "synthetic":
        bind(DatasetSettings, entry, "here")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**LOG, "train_data": "a.csv"}, "`interactions` (a log) and `train_data` (samples) exclude each other"),
        ({**LOG, "history_col": "clicks"}, "`history_col` means nothing for a log of events"),
        ({**LOG, "split": {"by": "order"}}, "a log is split by time, user, last_item or column"),
        ({**LOG, "data_format": "npz"}, "`interactions` are read from csv or parquet, not npz"),
        ({**LOG, "interactions": {"file": "x", "user": "u"}}, "interactions does not set `item`; write for example"),
        ({**LOG, "interactions": {**LOG["interactions"], "lable": "x"}}, "unknown key 'lable'. Did you mean 'label'?"),
        ({**LOG, "interactions": {**LOG["interactions"], "positive": "> 3"}}, "`positive` needs `label`"),
        ({**LOG, "interactions": {**LOG["interactions"], "behaviours": ["a"]}}, "`behaviours` needs `behaviour`"),
        ({**LOG, "negatives": {"by": "popular"}}, "by 'popular' is unknown; choose from uniform, popularity"),
        ({**LOG, "samples": "first"}, "samples 'first' is unknown; choose from all, last"),
        ({**SAMPLES, "samples": "last"}, "`samples` means nothing for samples without items"),
        ({**SAMPLES, "negatives": {}}, "`negatives` means nothing for samples without items"),
        ({**SAMPLES, "event_cols": [{"name": "age"}]}, "`event_cols` means nothing for samples without items"),
        ({**SAMPLES, "valid_data": None}, "there is no `valid_data`, by which training selects"),
        ({**SAMPLES, "split": {"by": "user"}}, "`split` cuts `train_data` into pieces: leave out `valid_data`"),
        ({**SAMPLES, "valid_data": None, "split": {"by": "time"}}, "`by: time` needs `time`, the column of times"),
        ({**SAMPLES, "valid_data": None, "split": {"by": "last_item"}}, "`by: last_item` needs `interactions`"),
        ({**SAMPLES, "valid_data": None, "split": {"by": "column"}}, "`by: column` and `column`"),
        ({**SAMPLES, "valid_data": None, "split": {"by": "user", "valid": 0.5, "test": 0.5}}, "leave something"),
        ({**SAMPLES, "valid_data": None, "split": {"by": "user", "valid": 0}}, "valid must be above 0"),
        ({**SAMPLES, "train_data": None}, "`data_format: csv` needs `train_data`"),
        ({**SAMPLES, "data_format": "npz"}, "`data_format: npz` is for data that FuxiCTR encoded"),
        ({**BASE, "item_data": "x"}, "`item_data` means nothing for a dataset that a script builds"),
        ({**BASE, "item_data": "x"}, "Is `data_format` missing?"),
        ({**SAMPLES, "history_cols": "x"}, "unknown key 'history_cols'. Did you mean 'history_col'?"),
        ({**SAMPLES, "label_col": None}, "does not set `label_col`"),
        ({"data_root": "x", "data_format": "tfrecord", "train_data": "a"}, "data_format 'tfrecord' is not read"),
        ({**SAMPLES, "history_col": "c", "event_cols": [{"name": "hour", "bins": 3}]}, "hour has its own values"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit(entry, message):
    with pytest.raises(ConfigError) as caught:
        check_dataset_entry("Shop", {key: value for key, value in entry.items() if value is not None}, "config")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_null_is_not_set():
    log = {**LOG["interactions"], "label": None, "positive": None, "behaviour": None, "time": None}
    entry = {**LOG, "interactions": log, "event_cols": [{"name": "dwell", "target": None, "bins": 3}]}
    bound = bind(DatasetSettings, entry, "here")
    assert bound.interactions == bind(DatasetSettings, LOG, "here").interactions
    assert bound.event_cols[0].target is None
