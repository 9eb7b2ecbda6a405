"""The metadata of a dataset, as one JSON file that is written last: no manifest, no dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.manifest_checks import check_manifest
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import write_text
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "valid", "test")
# Keys that are written only where they hold something.
LATER = frozenset({"behaviours", "event_columns", "ids"})
CHECKSUM = "checksum"
# Column of a split: the fold of each sample's user, where item features depend on it.
FOLD_COL = "item_fold"


def folds_name(name: str) -> str:
    """Column of `item.h5` with a feature's values for each fold."""
    return f"{name}.folds"


@dataclass(frozen=True)
class Column:
    """One column on disk: an HDF5 dataset.

    Attributes:
        name: the name in `feature_cols` or `label_col`, or `weight_col`.
        dtype: `uint8` for labels and folds, `int32` for ids, `int64` for meta columns, `float32` for numbers.
        role: `label`, `weight`, `target`, `fold`, `event` (of the target), `context` or `meta` in a split, `item` or
            `fold` (a feature's values for each fold) in the item table, `event` in the histories.
        shape: shape of one row: `()` for a scalar, `(T,)` for tags, `(d,)` for an embedding, `(K, d)` for folds.
    """

    name: str
    dtype: str
    role: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class HistoryLength:
    """Items of a history: the mean, two nearest-rank percentiles and the longest."""

    mean: float
    p50: int
    p95: int
    max: int

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> HistoryLength:
        """Exact statistics from `counts` (longest + 1,), where `counts[n]` rows have n items.

        A percentile is the smallest length that at least that fraction of the rows does not exceed.

        >>> HistoryLength.from_counts(np.array([0, 2, 1, 1]))
        HistoryLength(mean=1.75, p50=1, p95=3, max=3)
        """
        counts = np.asarray(counts, dtype=np.int64)
        rows, reached = int(counts.sum()), np.cumsum(counts)
        lengths = np.arange(len(counts), dtype=np.int64)

        def percentile(percent: int) -> int:
            return int(np.searchsorted(reached * 100, rows * percent))

        return cls(
            mean=int(counts @ lengths) / rows,
            p50=percentile(50),
            p95=percentile(95),
            max=int(np.flatnonzero(counts)[-1]),
        )


@dataclass(frozen=True)
class SplitCounts:
    """Exact counts of one split.

    Attributes:
        rows: rows of the split.
        positives: rows with label 1; None if the split has no labels.
        users: distinct values of the group column; None if there is none.
        items: distinct target items.
        history_length: statistics of the history, in items.
        padding_share: fraction of the `rows * max_len` history slots that hold no item.
    """

    rows: int
    positives: int | None
    users: int | None
    items: int
    history_length: HistoryLength
    padding_share: float


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and how it was built. Equal input gives equal bytes, so it contains no time stamp.

    Attributes:
        dataset_id: name of the dataset, also of its folder.
        max_len: maximum number of items in a history; 0 in a dataset without histories.
        group_id: column of grouped metrics, or None.
        item_col: the item's own id in the item table, and the target column of a split; None in a flat dataset, which
            has neither items nor histories.
        splits: statistics by split name.
        columns: columns of the split files, in order.
        item_columns: columns of the item table, in order.
        items: rows of the item table, with row 0, the padding; 1 without an item table.
        split_method: how the samples were split, in words.
        negative_sampling: ratio, pool and seed of sampled negatives, or None.
        feature_cols: FuxiCTR's feature columns, completed with sizes found in the data.
        label_col: FuxiCTR's label column.
        normalizers: statistics of normalised numeric columns, by name, to encode new rows.
        sources: SHA-256 of the raw files, by name.
        files: SHA-256 of the dataset's files, by name relative to its folder.
        recipe: arguments that built the dataset.
        facts: other metadata, such as the AUC of the true click probability.
        behaviours: names of the further kinds of history, in order.
        event_columns: columns of each history that go with its items, in order.
        ids: columns whose codes stand for ids of the user, kept in `ids/`.
    """

    dataset_id: str
    max_len: int
    group_id: str | None
    item_col: str | None
    splits: dict[str, SplitCounts]
    columns: list[Column]
    item_columns: list[Column]
    items: int
    split_method: str
    negative_sampling: dict[str, Any] | None = None
    feature_cols: list[dict[str, Any]] = field(default_factory=list)
    label_col: dict[str, Any] = field(default_factory=dict)
    normalizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    behaviours: list[str] = field(default_factory=list)
    event_columns: list[Column] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    @property
    def folds(self) -> int:
        """Folds of users on which item features depend; 0 where there are none."""
        return next((column.shape[0] for column in self.item_columns if column.role == "fold"), 0)

    @property
    def weight_col(self) -> str | None:
        """Column of the weights of training samples, or None."""
        return next((column.name for column in self.columns if column.role == "weight"), None)

    def _as_dict(self) -> dict[str, Any]:
        """As JSON holds it: what came after the first release only where it is there, so that old hashes stay."""
        stored = dataclasses.asdict(self)
        return {name: value for name, value in stored.items() if value or name not in LATER}

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: the identity of the dataset in a report."""
        return checksum_of(self._as_dict())

    def write(self, directory: str | Path) -> None:
        """Write `manifest.json` in one step: a reader sees all of it or none.

        The last key, `checksum`, is of the others; it is not part of the metadata.
        """
        content = {**self._as_dict(), CHECKSUM: self.hash}
        write_text(Path(directory) / MANIFEST_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, directory: str | Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            DataError: the file is missing, damaged or of another format version.
        """
        path = Path(directory) / MANIFEST_NAME
        stored = read_json(path)
        version = stored.get("format_version") if isinstance(stored, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format_version {version!r}, but this release reads {FORMAT_VERSION}: "
                "build the dataset again with this release"
            )
        _check_checksum(stored, path)
        try:
            found = cls(
                **{
                    **stored,
                    "splits": {name: _split_counts(counts) for name, counts in stored["splits"].items()},
                    "columns": [_column(column) for column in stored["columns"]],
                    "item_columns": [_column(column) for column in stored["item_columns"]],
                    "event_columns": [_column(column) for column in stored.get("event_columns", [])],
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}): {BUILD_AGAIN}") from None
        check_manifest(found, str(path))
        return found

    def table(self) -> str:
        """The statistics of the splits as a text table."""
        head = ["split", "rows", "positive", "users", "items", "history mean", "p50", "p95", "max", "padding"]
        lines = [head]
        for name, split in self.splits.items():
            length = split.history_length
            lines.append(
                [
                    name,
                    f"{split.rows:,}",
                    "unlabelled" if split.positives is None else f"{split.positives / split.rows:.2%}",
                    "" if split.users is None else f"{split.users:,}",
                    f"{split.items:,}",
                    f"{length.mean:.2f}",
                    str(length.p50),
                    str(length.p95),
                    str(length.max),
                    f"{split.padding_share:.1%}",
                ]
            )
        if self.item_col is None:
            lines = [line[:4] for line in lines]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        what = "no items" if self.item_col is None else f"{self.items - 1:,} items, max_len {self.max_len}"
        title = f"{self.dataset_id}: {what}, {self.split_method}"
        return "\n".join([title, *rows])


def as_json(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A copy as JSON sees it, so that the manifest read back equals the one that is written."""
    return None if values is None else json.loads(json.dumps(dict(values), allow_nan=False))


def checksum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON.

    Raises:
        ValueError: a number is not finite.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_checksum(stored: dict[str, Any], path: Path) -> None:
    """Compare the content with its checksum, which is taken out; releases up to 0.2.0 wrote none."""
    if CHECKSUM not in stored:
        return
    expected = stored.pop(CHECKSUM)
    try:
        matches = checksum_of(stored) == expected
    except ValueError:
        matches = False
    if not matches:
        raise DataError(f"{path} does not match its checksum: the file is damaged or was edited; {BUILD_AGAIN}")


def _split_counts(stored: Mapping[str, Any]) -> SplitCounts:
    return SplitCounts(**{**stored, "history_length": HistoryLength(**stored["history_length"])})


def _column(stored: Mapping[str, Any]) -> Column:
    return Column(**{**stored, "shape": tuple(stored["shape"])})


def read_json(path: Path) -> Any:
    """Read a JSON file of a dataset.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return read_json_file(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: build the dataset first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): {BUILD_AGAIN}") from None
