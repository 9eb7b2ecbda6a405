"""What is wrong with a log or its entry is one sentence, and leaves nothing on disk."""

from __future__ import annotations

import polars as pl
import pytest

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.log.dataset import build_log
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from tests.helpers.log_dataset import COLUMNS, build, entry_of, make_raw, written


@pytest.fixture
def raw() -> dict[str, pl.DataFrame]:
    return make_raw()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interactions": {"time": "tss"}}, r"log.parquet: column 'tss' is missing. Did you mean 'ts'\?"),
        ({"interactions": {"positive": "high"}}, r"positive is 'high', but must be a rule such as"),
        (
            {"interactions": {"behaviour": "device", "behaviours": ["ios", "web"], "positive": "in [9]"}},
            r"no event of kind '\w+' is positive, so its history would be empty: leave it out, or set `history: all`",
        ),
        ({"interactions": {"label": None, "positive": None}}, r"the log has positives only: draw negatives"),
        ({"event_cols": [{"name": "city"}]}, r"event_cols: 'city' is the name of another column"),
        ({"event_cols": [{"name": "rating", "target": "hours"}]}, r"`target` can only be 'rating' itself"),
        ({"split": {"by": "column", "column": "device"}}, r"log.parquet: column 'device', row 0: '\w+' is no split"),
        ({"split": {"by": "time", "valid": 0.0001, "test": 0.0001}}, r"the (valid|test) split is empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_left(raw, tmp_path, changes, message):
    paths = written(tmp_path, raw)
    with pytest.raises(InputError, match=message):
        build(entry_of(paths, **changes), tmp_path)
    assert not [path for path in tmp_path.iterdir() if "Shop" in path.name]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ts", None, r"log.csv: column 'ts', row 8: the time is missing"),
        ("ts", "yesterday", r"log.csv: column 'ts', row 8: 'yesterday' is no time: give whole numbers, or dates"),
        ("rating", None, r"log.csv: column 'rating', row 8: the label is missing"),
        ("rating", "good", r"log.csv: column 'rating', row 8: label 'good' is no number"),
        ("weight", None, r"log.csv: column 'weight', row 8: the weight is missing"),
    ],
)
def test_a_wrong_value_is_named_with_file_column_and_row(raw, tmp_path, column, value, message):
    text = raw["log"].with_columns(pl.col(column).cast(pl.String))
    text[7, column] = value
    paths = written(tmp_path, {**raw, "log": text}, "csv")
    with pytest.raises(DataError, match=message):
        build(entry_of(paths, kind="csv", weight_col="weight"), tmp_path)


def test_an_event_feature_of_lists_is_refused(raw, tmp_path):
    log = raw["log"].with_columns(pages=pl.concat_list("device"))
    with pytest.raises(
        DataError, match=r"log.parquet: column 'pages' holds List\(String\), but an event feature is one"
    ):
        build(entry_of(written(tmp_path, {**raw, "log": log}), event_cols=[{"name": "pages"}]), tmp_path)


@pytest.mark.parametrize(("table", "column", "key"), [("items", "item_id", "item"), ("users", "user", "user")])
def test_tables_that_share_no_id(raw, tmp_path, table, column, key):
    paths = written(tmp_path, {**raw, table: raw[table].with_columns(pl.int_range(pl.len()).alias(column))})
    with pytest.raises(DataError, match=rf"no {key} of \S*log.parquet is in \S*{table}.parquet: ids must have"):
        build(entry_of(paths, user_data=paths["users"], user_col="user"), tmp_path)


def test_an_error_of_a_data_frame_names_its_dataset_once(raw, tmp_path):
    entry = {key: value for key, value in entry_of(written(tmp_path, raw)).items() if key != "item_data"}
    frames = {"interactions": raw["log"], "item_data": raw["items"]}
    cut = {**entry, "split": {"by": "time", "valid": 0.0001, "test": 0.0001}}
    with pytest.raises(DataError) as caught:
        build_log(Entry.of(cut, frames), data_root=tmp_path, recipe={}, overwrite=False, progress=False)
    assert str(caught.value).startswith("dataset 'Shop': interactions: ")
    assert str(caught.value).count("dataset 'Shop'") == 1
    frames = {**frames, "item_data": raw["items"].with_columns(item_id=pl.int_range(pl.len()))}
    with pytest.raises(DataError, match=r"^dataset 'Shop': no item of interactions is in item_data: ids must have"):
        build_log(Entry.of(entry, frames), data_root=tmp_path, recipe={}, overwrite=False, progress=False)


def test_the_label_is_no_feature(raw, tmp_path):
    columns = [*COLUMNS[1:], {"name": "rating", "active": True, "dtype": "int", "type": "categorical"}]
    with pytest.raises(ConfigError, match="column 'rating' is the label of the log"):
        build(entry_of(written(tmp_path, raw), feature_cols=columns, group_id=None), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interactions": "log.csv"}, "dataset 'Shop': interactions"),
        ({"feature_cols": [{"dtype": "str"}]}, "feature_cols"),
        ({"feature_cols": ["user_id"]}, "feature_cols"),
    ],
)
def test_an_entry_of_another_shape_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        _ = Entry.of({**entry_of({"log": "x", "items": "x", "users": "x"}), **changes}).columns
