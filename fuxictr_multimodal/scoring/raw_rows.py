"""Raw samples as batches: context columns through the dataset's encoders, unknown values counted, histories cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from fuxictr.features import FeatureMap
from numpy.typing import NDArray

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store import Store, validation
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.feature_map import restore_processor

# Column that numbers the samples, as in the challenge.
ROW_ID = "ID"
RAW_TYPES = {"int": pl.Int64, "float": pl.Float64, "str": pl.String}


@dataclass(frozen=True)
class Piece:
    """Some rows of the samples.

    Attributes:
        first: number of the first row, for messages.
        columns: context columns by name, raw or encoded as the dataset has them; event features of the target as codes.
        target: row of each target in the item table, (rows,); one that the table lacks is unknown. None without items.
        histories: rows of the item table by the name of their column, the main one first, then the dataset's
            behaviours in their order; what the table lacks is unknown.
    """

    first: int
    columns: Mapping[str, Any]
    target: NDArray[np.integer] | None
    histories: Mapping[str, JaggedArrays] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What samples are read for.

    Attributes:
        store: the dataset.
        feature_map: what the model reads.
        batch_size: rows of a batch.
        max_len: the newest items of a history that are kept.
        device: where batches go.
        kept: what a file of samples leaves for the next one, such as the log that both read their histories off.
    """

    store: Store
    feature_map: FeatureMap
    batch_size: int
    max_len: int
    device: torch.device | str = "cpu"
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def events(self) -> list[str]:
        """Event features of the dataset that the model reads; the others need not be there."""
        return [c.name for c in self.store.manifest.event_columns if c.name in self.feature_map.features]


class RawRows(ABC):
    """Samples to score, as batches in their order, with the interface of a loader.

    Unknown values are handled as in FuxiCTR and counted in `unknown`, by column: a raw category outside of the
    vocabulary becomes the out-of-vocabulary id; an encoded category outside of its `vocab_size` becomes 0, the padding;
    so does a target item that the item table lacks; history items that it lacks are left out.

    Args:
        path: of the samples.
        reading: the dataset and the model that they are read for.
    """

    num_samples: int

    def __init__(self, path: Path, reading: Reading) -> None:
        manifest, feature_map = reading.store.manifest, reading.feature_map
        self.path = path
        self.unknown: Counter[str] = Counter()
        self.cut_histories = 0
        self._batch_size = reading.batch_size
        self._max_len = reading.max_len
        self._device = reading.device
        self._num_items = manifest.items
        self._target = manifest.item_col
        self._behaviours = manifest.behaviours
        self._events = reading.events
        self._processor = reading.store.read(restore_processor)
        # What is encoded here; event features come as codes.
        self._specs = {
            column["name"]: column
            for column in manifest.feature_cols
            if column["name"] in feature_map.features
            and column["type"] != "meta"
            and column.get("source") != "event"
            and (self._target is None or column.get("source") != "item")
        }
        self._sizes = {name: feature_map.features[name].get("vocab_size") for name in self._specs}

    @abstractmethod
    def _pieces(self) -> Iterator[Piece]:
        """The samples in order, in pieces of bounded size."""

    @abstractmethod
    def columns(self, names: list[str]) -> dict[str, pl.Series]:
        """Columns of the samples as they are, of any type, whole; those that they lack are left out."""

    def __len__(self) -> int:
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.unknown.clear()
        self.cut_histories = 0
        for piece in self._pieces():
            rows = self._batch(piece)
            for start in range(0, len(rows), self._batch_size):
                yield rows.take(range(start, min(start + self._batch_size, len(rows)))).to(self._device)

    def _batch(self, piece: Piece) -> Batch:
        columns = piece.columns
        raw = {name: _series(columns[name], spec) for name, spec in self._specs.items() if is_fitted(spec)}
        encoded = self._processor.transform(raw, where=str(self.path)) if raw else {}
        features: dict[str, NDArray] = {}
        for name, spec in self._specs.items():
            if name in encoded and spec["type"] != "numeric":
                self._count_outside(name, encoded[name])
                features[name] = encoded[name]
            elif spec["type"] in ("categorical", "sequence"):
                features[name] = self._known_ids(name, np.asarray(columns[name]), self._sizes[name])
            else:
                values = encoded.get(name, columns[name])
                shape = values.shape[1:]
                features[name] = validation.as_floats(
                    values, name=name, shape=shape, where=str(self.path), first_row=piece.first
                )
        features |= {name: columns[name] for name in self._events if name in columns}
        # Columns of files may be read-only, which torch warns of.
        tensors = {name: torch.from_numpy(np.require(values, None, ["C", "W"])) for name, values in features.items()}
        if self._target is None or piece.target is None:
            rows = len(next(iter(tensors.values())))
            return Batch(tensors, torch.zeros(rows, dtype=torch.int32), Jagged.empty(rows))
        main, *others = (self._jagged(name, history) for name, history in piece.histories.items())
        return Batch(
            features=tensors,
            target=torch.from_numpy(self._known_ids(self._target, piece.target, self._num_items, low=1)),
            history=main,
            behaviours=dict(zip(self._behaviours, others, strict=True)),
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

    def _jagged(self, name: str, history: JaggedArrays) -> Jagged:
        """A history without unknown items, which are counted, cut to the newest; padding is left out before."""
        values = np.asarray(history.values)
        known = (values > 0) & (values < self._num_items)
        self._add(name, int((~known).sum()))
        every = Jagged(torch.from_numpy(values.astype(np.int32)), torch.from_numpy(np.asarray(history.offsets)))
        keep = torch.from_numpy(known)
        events = {
            event: torch.from_numpy(np.ascontiguousarray(history.events[event][known].astype(np.int32)))
            for event in self._events
        }
        kept = Jagged(every.values[keep], every.offsets_where(keep), events)
        self.cut_histories += int((kept.lengths > self._max_len).sum())
        return kept.newest(self._max_len)


def _series(values: Any, spec: Mapping[str, Any]) -> pl.Series:
    """A raw column; one without any value, whose type a file cannot tell, has the declared type."""
    series = values if isinstance(values, pl.Series) else pl.Series(values)
    return series.cast(RAW_TYPES[spec["dtype"]]) if series.dtype == pl.Null else series
