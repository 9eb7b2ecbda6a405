"""A csv file of new samples, typed as the columns of a dataset that a script built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.entry.tables.files import scan
from fuxictr_multimodal.data.entry.tables.lists import SPLITTER, Lists, as_ids
from fuxictr_multimodal.data.entry.tables.values import vectors
from fuxictr_multimodal.data.jagged import row_at
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.new_rows import HISTORY_NAMES
from fuxictr_multimodal.scoring.raw_rows import ROW_ID, Reading


def typed_csv(path: Path, reading: Reading, *, history_column: str | None) -> pl.DataFrame:
    """Read a csv file, whole; lists are texts with a splitter between their values.

    Args:
        path: of the file, a folder of parts or a glob.
        reading: the dataset and the model that they are read for.
        history_column: column of the main history, where it has another name.

    Raises:
        DataError: a column is missing, or a value is of another type.
    """
    store, events = reading.store, reading.events
    manifest = store.manifest
    specs: dict[str, dict[str, Any]] = {
        c["name"]: c
        for c in manifest.feature_cols
        if c["name"] in reading.feature_map.features
        and c["type"] != "meta"
        and (manifest.item_col is None or c.get("source") not in ("item", "event"))
    }
    dtypes = {name: "list" if c["type"] in ("sequence", "embedding") else c["dtype"] for name, c in specs.items()}
    optional = dict.fromkeys([name for name in (ROW_ID, manifest.group_id) if name and name not in dtypes], "any")
    id_type, histories = "int", [*HISTORY_NAMES, *manifest.behaviours, *([history_column] if history_column else [])]
    if manifest.item_col is not None:
        ids = store.ids(manifest.item_col)
        id_type = "int" if ids is None or ids.ids.dtype.is_integer() else "str"
        dtypes[manifest.item_col] = id_type
    aligned = [f"{name}_{event}" for name in histories for event in events]
    optional |= {**dict.fromkeys([*histories, *aligned], "list"), **dict.fromkeys(events, "int")}
    frame = scan(path, dtypes={**dtypes, **optional}, where="--data", optional=[*optional]).read()
    changes = []
    for name in frame.columns:
        spec = specs.get(name)
        if spec is not None and spec["type"] == "embedding":
            width = spec.get("pretrain_dim")
            changes.append(pl.Series(name, list(vectors(frame[name], width, where=f"{path}: column {name!r}"))))
        elif spec is not None and spec["type"] == "sequence" and not is_fitted(spec):
            changes.append(_lists(frame[name], "int", spec.get("splitter", SPLITTER), path))
        elif spec is None and (name in histories or name in aligned):
            changes.append(_lists(frame[name], id_type if name in histories else "int", SPLITTER, path))
    return frame.with_columns(changes)


def _lists(texts: pl.Series, dtype: str, splitter: str, path: Path) -> pl.Series:
    """Texts with a splitter as lists of ids."""
    lists = Lists.of(texts, splitter=splitter)
    _, wrong = as_ids(lists.values, dtype)
    if dtype == "int":
        wrong = wrong | (lists.values == "").fill_null(False).to_numpy()
    if wrong.any():
        row = row_at(lists.offsets, int(np.argmax(wrong)))
        raise DataError(
            f"{path}: column {texts.name!r}, row {row + 1}: {texts[row]!r} is no list of whole numbers with "
            f"{splitter!r} between them"
        )
    kind = pl.List(pl.Int64 if dtype == "int" else pl.String)
    split = texts.set(texts == "", None).str.split(splitter)
    return split.fill_null(pl.Series([[]], dtype=pl.List(pl.String))).cast(kind).alias(texts.name)
