"""Checks of samples before they are written to a dataset, and of its splits against each other.

Every function returns its input in the dtype on disk, or raises one `DataError` that names file, column, row
and value. Rows in messages count from 0 within the split. All checks are vectorised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from fuxictr_multimodal.data.jagged import row_at
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError, did_you_mean

SCAN_ROWS = 1 << 20


def check_columns(
    columns: Mapping[str, np.ndarray], *, required: Iterable[str], optional: Iterable[str], where: str
) -> int:
    """Refuse missing, unknown and unequally long columns; return the number of rows."""
    required, known = list(required), [*required, *optional]
    for name in required:
        if name not in columns:
            raise DataError(f"{where}: column {name!r} is missing; found: {', '.join(columns) or 'none'}")
    for name in columns:
        if name not in known:
            raise DataError(f"{where}: column {name!r} is not in the dataset's columns. {did_you_mean(name, known)}")
    for name, values in columns.items():
        # Numpy would copy a column of texts to count its dimensions.
        if not hasattr(values, "__len__") and np.ndim(values) == 0:
            raise DataError(f"{where}: column {name!r} is {values!r}, not an array")
    lengths = {name: len(values) for name, values in columns.items()}
    first = required[0]
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(f"{where}: column {name!r} has {length} rows, but column {first!r} has {lengths[first]}")
    return lengths[first]


def as_ids(
    values: np.ndarray,
    *,
    name: str,
    shape: tuple[int, ...],
    low: int,
    high: int,
    remedy: str,
    where: str,
    first_row: int = 0,
) -> np.ndarray:
    """Ids of `low` to `high - 1` as int32 (rows, *shape)."""
    values = _shaped(values, name=name, shape=shape, where=where)
    _check_kind(values, "iu", "integers", name=name, where=where)
    _refuse(
        (values < low) | (values >= high), values, name, where, first_row, f"is not in {low} to {high - 1}: {remedy}"
    )
    return values.astype(np.int32, copy=False)


def as_meta(values: np.ndarray, *, name: str, where: str, first_row: int = 0) -> np.ndarray:
    """Integers as int64 (rows,)."""
    values = _shaped(values, name=name, shape=(), where=where)
    _check_kind(values, "iu", "integers (number text ids in the recipe)", name=name, where=where)
    _refuse(values > np.iinfo(np.int64).max, values, name, where, first_row, "does not fit into int64")
    return values.astype(np.int64, copy=False)


def check_codes(codes: np.ndarray, count: int, *, name: str, where: str, first_row: int = 0) -> None:
    """Refuse a code that stands for no id; -1 is a missing one."""
    wrong = (codes < -1) | (codes >= count)
    _refuse(wrong, codes, name, where, first_row, f"has no id: codes go from 0 to {count - 1}")


def as_floats(values: np.ndarray, *, name: str, shape: tuple[int, ...], where: str, first_row: int = 0) -> np.ndarray:
    """Finite numbers as float32 (rows, *shape)."""
    values = _shaped(values, name=name, shape=shape, where=where)
    _check_kind(values, "fiu", "numbers", name=name, where=where)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32, copy=False)
    _refuse(~np.isfinite(single), values, name, where, first_row, "is not a finite float32")
    return single


def as_labels(values: np.ndarray, *, name: str, where: str, first_row: int = 0) -> np.ndarray:
    """Labels 0 and 1 as uint8 (rows,)."""
    values = _shaped(values, name=name, shape=(), where=where)
    _check_kind(values, "biuf", "numbers 0 and 1", name=name, where=where)
    _refuse((values != 0) & (values != 1), values, name, where, first_row, "is not a label: labels are 0 and 1")
    return values.astype(np.uint8)


def as_counts(counts: np.ndarray, *, rows: int, where: str) -> np.ndarray:
    """How often each of `rows` items is a training target, int64 (rows,); row 0, the padding, never."""
    counts = _shaped(counts, name="item_counts", shape=(), where=where)
    _check_kind(counts, "iu", "integers", name="item_counts", where=where)
    if len(counts) != rows:
        raise DataError(f"{where}: item_counts has {len(counts)} entries, but the item table has {rows} rows")
    if counts.min() < 0 or counts[0] != 0:
        raise DataError(f"{where}: item_counts must not be negative, and 0 for item 0, which is padding")
    return counts.astype(np.int64, copy=False)


def as_weights(values: np.ndarray, *, name: str, where: str, first_row: int = 0) -> np.ndarray:
    """Weights in the loss, finite and not negative, as float32 (rows,)."""
    weights = as_floats(values, name=name, shape=(), where=where, first_row=first_row)
    _refuse(weights < 0, np.asarray(values), name, where, first_row, "is negative: a weight is at least 0")
    return weights


def as_history(
    values: np.ndarray,
    offsets: np.ndarray,
    *,
    rows: int,
    items: int,
    max_len: int,
    where: str,
    first_row: int = 0,
    name: str = "history",
) -> tuple[np.ndarray, np.ndarray]:
    """Jagged histories as int32 values (N,) and int64 offsets (rows + 1,) from 0; `name` is what messages call them."""
    values = _shaped(values, name=f"{name} values", shape=(), where=where)
    offsets = _shaped(offsets, name=f"{name} offsets", shape=(), where=where)
    if len(values):  # an empty list becomes an array of floats
        _check_kind(values, "iu", "integers", name=f"{name} values", where=where)
    _check_kind(offsets, "iu", "integers", name=f"{name} offsets", where=where)
    if len(offsets) != rows + 1:
        raise DataError(f"{where}: {name} offsets have {len(offsets)} entries, but {rows} rows need {rows + 1}")
    offsets = offsets.astype(np.int64, copy=False)
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise DataError(
            f"{where}: {name} offsets go from {offsets[0]} to {offsets[-1]}, but there are {len(values)} {name} "
            f"values: they must go from 0 to {len(values)}"
        )
    lengths = np.diff(offsets)
    if (lengths < 0).any():
        raise DataError(f"{where}: row {first_row + int(np.argmax(lengths < 0))}: {name} offsets decrease")
    if (lengths > max_len).any():
        row = int(np.argmax(lengths > max_len))
        raise DataError(
            f"{where}: row {first_row + row}: the {name} has {lengths[row]} items, more than max_len {max_len}: keep "
            f"the newest {max_len}"
        )
    wrong = (values < 1) | (values >= items)
    if wrong.any():
        at = int(np.argmax(wrong))
        row, item = first_row + row_at(offsets, at), int(values[at])
        problem = "item 0, which is padding: leave it out" if item == 0 else f"item {item}"
        raise DataError(f"{where}: row {row}: the {name} holds {problem}; the item table has items 1 to {items - 1}")
    return values.astype(np.int32, copy=False), offsets


def as_events(
    values: np.ndarray,
    offsets: np.ndarray,
    *,
    name: str,
    history: str,
    size: int,
    where: str,
    first_row: int = 0,
) -> np.ndarray:
    """One event column of the items of a history, codes of 0 to `size - 1`, as int32 (N,).

    Args:
        values: one code for each item, (N,).
        offsets: checked offsets of the history, (rows + 1,).
        name: of the event column.
        history: what messages call the history.
        size: `vocab_size` of the column.
        where: the file, for the message.
        first_row: row number of the first row, for the message.
    """
    column = f"{name} of the {history}"
    values = _shaped(values, name=column, shape=(), where=where)
    if len(values) != offsets[-1]:
        raise DataError(
            f"{where}: rows {first_row} to {first_row + len(offsets) - 2}, event column {name!r}: {len(values)} values "
            f"for {offsets[-1]} items of the {history}: give one value for each item, in the same order"
        )
    if len(values):
        _check_kind(values, "iu", "integers", name=column, where=where)
    wrong = (values < 0) | (values >= size)
    if wrong.any():
        at = int(np.argmax(wrong))
        row = row_at(offsets, at)
        raise DataError(
            f"{where}: row {first_row + row}, event column {name!r}, item {at - int(offsets[row])} of the {history}: "
            f"value {values[at]} is not in 0 to {size - 1}: its vocab_size is {size}"
        )
    return values.astype(np.int32, copy=False)


def check_disjoint(readers: Mapping[str, SplitReader], name: str, ids: IdMap | None = None) -> None:
    """Refuse a value of column `name` that occurs in two splits; `ids` says what its codes stand for."""
    seen: dict[str, np.ndarray] = {}
    for split, reader in readers.items():
        found = distinct_values(reader, name)
        for other, values in seen.items():
            shared = np.intersect1d(values, found, assume_unique=True)
            if len(shared):
                raise DataError(
                    f"column {name!r}: value {_shown(shared[0], ids)} occurs in splits {other!r} and {split!r} "
                    f"({len(shared)} such values), but these splits must not share any"
                )
        seen[split] = found


def check_ordered(readers: Mapping[str, SplitReader], time: str, within: str | None, ids: IdMap | None = None) -> None:
    """Refuse a row of a split that is older than a row of an earlier split, overall or within a value of `within`.

    `ids` says what the codes of `within` stand for.
    """
    earlier: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for split, reader in readers.items():
        groups, first, last = time_ranges(reader, time, within)
        for other, (other_groups, _, other_last) in earlier.items():
            shared, mine, theirs = np.intersect1d(groups, other_groups, assume_unique=True, return_indices=True)
            wrong = other_last[theirs] > first[mine]
            if wrong.any():
                at = int(np.argmax(wrong))
                inside = "" if within is None else f" for {within} {_shown(shared[at], ids)}"
                raise DataError(
                    f"column {time!r}: split {other!r} reaches {other_last[theirs][at]}{inside}, but split {split!r} "
                    f"starts earlier, at {first[mine][at]}: the splits are not in order of time"
                )
        earlier[split] = groups, first, last


def distinct_values(reader: SplitReader, name: str) -> np.ndarray:
    """Sorted distinct values of a column, read in pieces; memory follows the number of distinct values."""
    return _merged((np.unique(reader.read(name, *piece)) for piece in _pieces(reader)), np.unique)


def time_ranges(reader: SplitReader, time: str, within: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct groups with their first and last time, each (groups,); one group 0 where `within` is None."""

    def reduce(table: np.ndarray) -> np.ndarray:
        """(3, n) rows of group, first, last; one column a group."""
        table = table[:, np.argsort(table[0], kind="stable")]
        starts = np.flatnonzero(np.r_[True, table[0, 1:] != table[0, :-1]])
        return np.stack(
            [table[0, starts], np.minimum.reduceat(table[1], starts), np.maximum.reduceat(table[2], starts)]
        )

    def tables() -> Iterator[np.ndarray]:
        for start, stop in _pieces(reader):
            times = reader.read(time, start, stop).astype(np.int64)
            groups = np.zeros_like(times) if within is None else reader.read(within, start, stop).astype(np.int64)
            yield reduce(np.stack([groups, times, times]))

    groups, first, last = _merged(tables(), reduce)
    return groups, first, last


def _merged(pieces: Iterator[np.ndarray], reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Reduce pieces along their last axis; merging when the newcomers outgrow the total keeps it near linear."""
    total, waiting, size = next(pieces), [], 0
    for piece in pieces:
        waiting.append(piece)
        size += piece.shape[-1]
        if size >= total.shape[-1]:
            total, waiting, size = reduce(np.concatenate([total, *waiting], axis=-1)), [], 0
    return reduce(np.concatenate([total, *waiting], axis=-1)) if waiting else total


def _pieces(reader: SplitReader) -> Iterator[tuple[int, int]]:
    return ((start, min(start + SCAN_ROWS, reader.rows)) for start in range(0, reader.rows, SCAN_ROWS))


def _shown(value: np.integer, ids: IdMap | None) -> str:
    return str(value) if ids is None else repr(ids.originals(np.array([value]))[0])


def _shaped(values: np.ndarray, *, name: str, shape: Sequence[int], where: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[1:] != tuple(shape) or values.ndim == 0:
        wanted = ", ".join(["rows", *map(str, shape)])
        raise DataError(f"{where}: column {name!r} has shape {values.shape}, but must be ({wanted})")
    return values


def _check_kind(values: np.ndarray, kinds: str, wanted: str, *, name: str, where: str) -> None:
    if values.dtype.kind not in kinds:
        raise DataError(f"{where}: column {name!r} holds {values.dtype}, but must hold {wanted}")


def _refuse(wrong: np.ndarray, values: np.ndarray, name: str, where: str, first_row: int, problem: str) -> None:
    """Name the first wrong value, if any."""
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        position = f" at {tuple(map(int, at[1:]))}" if len(at) > 1 else ""
        raise DataError(
            f"{where}: row {first_row + int(at[0])}, column {name!r}{position}: value {values[at]} {problem}"
        )
