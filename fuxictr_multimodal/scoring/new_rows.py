"""New raw samples as batches: the dataset's own encoders, histories from lists, unknown values counted.

Memory: one piece of 65,536 rows. Items and encoded categories are the dataset's ids; raw categories use the
vocabularies that FuxiCTR fitted on training rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.jagged import row_at
from fuxictr_multimodal.data.recipes.parquet_input import Anything, Arrays, ColumnForm, Lists, ParquetInput, Scalars
from fuxictr_multimodal.data.store import Store, validation
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.feature_map import restore_processor
from fuxictr_multimodal.errors import DataError

HISTORY_NAMES = ("item_seq", "history")
RAW_TYPES = {"int": pl.Int64, "float": pl.Float64, "str": pl.String}


class NewRows:
    """The rows of a parquet file or its parts, as batches in their order, with the interface of a loader.

    Unknown values are handled as in FuxiCTR and counted in `unknown`, by column: a raw category outside of the
    vocabulary becomes the out-of-vocabulary id; an encoded category outside of its `vocab_size` becomes 0, the padding;
    so does a target item that the item table lacks; history items that it lacks are left out.

    Args:
        path: a parquet file, a folder of parts or a glob of them, with the context columns of the dataset in raw form,
            the target item, and the history as lists of items, newest last, with or without 0 on the left. Other
            columns are ignored.
        store: the dataset.
        feature_map: what the model reads.
        batch_size: rows of a batch.
        max_len: the newest items of a history that are kept.
        device: where batches go.
        history_column: name of the lists; `item_seq` or `history` where not given.

    Raises:
        DataError: the file or a column is missing or of another form; the message names file, column and row.
    """

    def __init__(
        self,
        path: Path,
        *,
        store: Store,
        feature_map: FeatureMap,
        batch_size: int,
        max_len: int,
        device: torch.device | str = "cpu",
        history_column: str | None = None,
    ) -> None:
        manifest = store.manifest
        self.path = path
        self.unknown: Counter[str] = Counter()
        self.cut_histories = 0
        self._batch_size = batch_size
        self._max_len = max_len
        self._device = device
        self._num_items = manifest.items
        self._target = manifest.item_col
        self._processor = restore_processor(store.dir)
        self._specs = {
            column["name"]: column
            for column in manifest.feature_cols
            if column["name"] in feature_map.features
            and column["type"] != "meta"
            and (self._target is None or column.get("source") != "item")
        }
        self._sizes = {name: feature_map.features[name].get("vocab_size") for name in self._specs}
        forms = {name: _form(spec, feature_map.features[name]) for name, spec in self._specs.items()}
        if self._target is not None:
            self._history = history_column or self._find_history()
            forms |= {self._target: Scalars(int), self._history: Lists()}
        self._file = ParquetInput(path, forms)
        self.num_samples = self._file.rows
        if not self.num_samples:
            raise DataError(f"{path}: the file has no samples to score")

    def __len__(self) -> int:
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.unknown.clear()
        self.cut_histories = 0
        for first, columns in self._file.batches():
            rows = self._batch(columns, first)
            for start in range(0, len(rows), self._batch_size):
                yield rows.take(range(start, min(start + self._batch_size, len(rows)))).to(self._device)

    def columns(self, names: list[str]) -> dict[str, pl.Series]:
        """Columns of the file as they are, of any type, whole; those that it lacks are left out."""
        there = {name: Anything() for name in names if name in self._file.names}
        if not there:
            return {}
        pieces = [pl.DataFrame(columns) for _, columns in ParquetInput(self.path, there).batches()]
        # Parts may differ in the width of their integers.
        return pl.concat(pieces, how="vertical_relaxed").to_dict()

    def _find_history(self) -> str:
        names = ParquetInput(self.path, {}).names
        found = [name for name in HISTORY_NAMES if name in names]
        if not found:
            raise DataError(
                f"{self.path}: no column of histories: it must be named {' or '.join(HISTORY_NAMES)}, or as "
                "--history-column says"
            )
        return found[0]

    def _batch(self, columns: Mapping[str, Any], first: int) -> Batch:
        raw = {name: _series(columns[name], spec) for name, spec in self._specs.items() if is_fitted(spec)}
        encoded = self._processor.transform(raw, where=str(self.path)) if raw else {}
        features = {}
        for name, spec in self._specs.items():
            if name in encoded:
                self._count_outside(name, encoded[name])
                features[name] = encoded[name]
            elif spec["type"] in ("categorical", "sequence"):
                features[name] = self._known_ids(name, columns[name], self._sizes[name])
            else:
                shape = columns[name].shape[1:]
                features[name] = validation.as_floats(
                    columns[name], name=name, shape=shape, where=str(self.path), first_row=first
                )
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in features.items()}
        if self._target is None:
            rows = len(next(iter(tensors.values())))
            return Batch(tensors, torch.zeros(rows, dtype=torch.int32), Jagged.empty(rows))
        return Batch(
            features=tensors,
            target=torch.from_numpy(self._known_ids(self._target, columns[self._target], self._num_items, low=1)),
            history=self._jagged(*columns[self._history], first=first),
        )

    def _count_outside(self, name: str, codes: np.ndarray) -> None:
        tokenizer = self._processor.processor_dict.get(f"{name}::tokenizer")
        if tokenizer is not None:
            self._add(name, int((codes == tokenizer.vocab["__OOV__"]).sum()))

    def _known_ids(self, name: str, ids: np.ndarray, size: int, *, low: int = 0) -> np.ndarray:
        """Ids as int32, those outside of `low` to `size - 1` replaced by 0 and counted."""
        known = (ids >= low) & (ids < size)
        self._add(name, int((~known).sum()))
        return np.where(known, ids, 0).astype(np.int32)

    def _add(self, name: str, count: int) -> None:
        if count:
            self.unknown[name] += count

    def _jagged(self, values: np.ndarray, offsets: np.ndarray, *, first: int) -> Jagged:
        """Histories without padding and unknown items, cut to the newest."""
        real = values != 0
        # A 0 after an item of the same row: neither padding on the left nor an item.
        hole = real[:-1] & ~real[1:]
        hole[offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(values))] - 1] = False
        if hole.any():
            row = row_at(offsets, int(np.argmax(hole)))
            raise DataError(
                f"{self.path}: row {first + row}, column {self._history!r}: 0 after an item: histories are padded "
                "with 0 on the left, the newest item comes last"
            )
        known = real & (values > 0) & (values < self._num_items)
        self._add(self._history, int(real.sum() - known.sum()))
        every = Jagged(torch.from_numpy(values.astype(np.int32)), torch.from_numpy(offsets))
        keep = torch.from_numpy(known)
        history = Jagged(every.values[keep], every.offsets_where(keep))
        self.cut_histories += int((history.lengths > self._max_len).sum())
        return history.newest(self._max_len)


def _series(values: Any, spec: Mapping[str, Any]) -> pl.Series:
    """A raw column; one without any value, whose type a file cannot tell, has the declared type."""
    series = pl.Series(values)
    return series.cast(RAW_TYPES[spec["dtype"]]) if series.dtype == pl.Null else series


def _form(spec: Mapping[str, Any], feature: Mapping[str, Any]) -> ColumnForm:
    """What a context column looks like in a file of new rows."""
    if is_fitted(spec):
        return Anything()
    if spec["type"] == "categorical":
        return Scalars(int)
    if spec["type"] == "sequence":
        return Arrays(int, feature["max_len"])
    return Arrays(float, feature["pretrain_dim"]) if spec["type"] == "embedding" else Scalars(float)
