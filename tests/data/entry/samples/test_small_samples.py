"""Small entries of ready samples: the simplest one, and values that are of no use."""

import polars as pl

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import read_item_table

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
