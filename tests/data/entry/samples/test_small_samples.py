"""Small entries of ready samples: the simplest one, and values that are of no use."""

import polars as pl
import pytest

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import read_item_table
from fuxictr_multimodal.errors import DataError

ROWS = 8


def entry_of(folder, *columns, **changes):
    return {
        "dataset_id": "Small",
        "data_root": str(folder / "data"),
        "item_col": "item",
        "history_col": "clicks",
        "feature_cols": [
            {"name": "user", "active": True, "dtype": "str", "type": "meta"},
            {"name": "item", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
            *columns,
        ],
        "label_col": {"name": "label", "dtype": "float"},
        **changes,
    }


def rows_with(**columns):
    frame = pl.DataFrame(
        {
            "user": ["a", "b"] * (ROWS // 2),
            "item": ["x", "y", "z", "x"] * (ROWS // 4),
            "clicks": [["x", "y"], []] * (ROWS // 2),
            "label": [0, 1] * (ROWS // 2),
        }
    )
    return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def build(entry, rows, **frames):
    return build_entry(entry, frames={"train_data": rows, "valid_data": rows, **frames})


def test_items_need_no_features(tmp_path):
    store = build(entry_of(tmp_path), rows_with())
    with store.reader("train") as reader:
        items = store.ids("item").originals(reader.read("item", 0, ROWS)).to_list()
    assert items == ["x", "y", "z", "x"] * 2
    assert read_item_table(store.dir / "item.h5")["item"].tolist() == [0, 1, 2, 3]


TAGS = {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "max_len": 2}
DWELL = {"name": "dwell", "history": "dwell"}
NESTED = r"train_data: column '{}' holds List\(List\(String\)\), but a row must be one list of numbers or texts"
HUGE = pl.Series([[5, 2**64 - 1], []] * (ROWS // 2), dtype=pl.List(pl.UInt64))


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({"columns": [TAGS]}, {"tags": [[["t"]]] * ROWS}, NESTED.format("tags")),
        ({}, {"clicks": [[["x"], ["y"]], []] * 4}, NESTED.format("clicks")),
        ({"event_cols": [DWELL]}, {"dwell": [[["x"], ["y"]], []] * 4}, NESTED.format("dwell")),
        (
            {"event_cols": [{**DWELL, "target": "page"}]},
            {"dwell": [["a", "b"], []] * 4, "page": [["a"]] * ROWS},
            r"column 'page' holds List\(String\), but an event feature is one number or text",
        ),
        (
            {"event_cols": [{**DWELL, "bins": 2}]},
            {"dwell": [["1", "2"], []] * 3 + [["3", "long"], []]},
            r"column 'dwell', row 6 \(counted from 0\): 'long' is no number: leave out `bins` for categories",
        ),
        (
            {"event_cols": [{"name": "age", "history": "times", "target": "now"}]},
            {"times": HUGE, "now": [7] * ROWS},
            r"column 'times', row 0: 18446744073709551615 is no time",
        ),
        (
            {"event_cols": [{"name": "age", "history": "times", "target": "now"}]},
            {"times": [[5, 6], []] * 4, "now": [1_700_000_000] * ROWS},
            r"'age': times of the history are whole numbers without a unit, those of 'now' in s: write both in one",
        ),
    ],
)
def test_what_a_list_must_not_hold_is_said_in_one_line(tmp_path, changes, rows, message):
    columns = changes.get("columns", ())
    events = {key: value for key, value in changes.items() if key != "columns"}
    with pytest.raises(DataError, match=message) as caught:
        build(entry_of(tmp_path, *columns, **events), rows_with(**rows))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "Small").exists()


def test_lists_of_lists_in_the_item_table_are_refused(tmp_path):
    items = pl.DataFrame({"item": ["x"], "tags": [[["t"]]]})
    with pytest.raises(DataError, match=NESTED.format("tags").replace("train", "item")):
        build(entry_of(tmp_path, {**TAGS, "source": "item"}), rows_with(), item_data=items)


@pytest.mark.parametrize("bins", [2, None])
def test_a_gap_in_an_aligned_text_is_a_missing_value(tmp_path, bins):
    events = {"event_cols": [{**DWELL, "bins": bins}]}
    texts = rows_with(clicks=["x^y^z", "x"] * 4, dwell=["1.5^^9", ""] * 4)
    lists = rows_with(clicks=[["x", "y", "z"], ["x"]] * 4, dwell=[["1.5", None, "9"], [None]] * 4)
    codes = []
    for name, rows in (("texts", texts), ("lists", lists)):
        with build(entry_of(tmp_path / name, **events), rows).reader("train") as reader:
            codes.append(reader.read_jagged(0, 2, events=["dwell"]).events["dwell"].tolist())
    assert codes[0] == codes[1] == [1, 0, 2, 0]
