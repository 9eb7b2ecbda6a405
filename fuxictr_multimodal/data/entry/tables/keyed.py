"""A table with one row an id, such as items or users: repeated rows dropped, contradictory ones refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import polars as pl

from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.errors import DataError

# No column of the user has such a name.
_ROW = "\0row"
_ONE_FORM = "ids must have one form in both"


def read_keyed(table: Table, key: str, *, absent: object = None) -> tuple[pl.DataFrame, list[str]]:
    """Read a table in which each id has one row.

    Args:
        table: with the column `key`.
        key: column of ids.
        absent: an id that stands for none, such as that of padding; its row is left out.

    Returns:
        The rows in the table's order, each id once, and what to tell the user.

    Raises:
        DataError: an id is missing, or has rows that contradict each other.
    """
    frame, notes = table.read(), []
    if frame[key].null_count():
        row = int(frame[key].is_null().arg_max() or 0)
        raise DataError(f"{table.name}: column {key!r}: row {row} (counted from 0) has no id: fill it in, or remove it")
    if absent is not None:
        frame = frame.filter(pl.col(key) != absent)
    if frame.is_empty():
        raise DataError(f"{table.name}: there are no rows")
    if frame[key].n_unique() < frame.height:
        once = frame.unique(key, keep="first", maintain_order=True)
        _refuse_contradictions(frame, once, key, table.name)
        notes.append(f"{table.name}: {frame.height - once.height:,} rows repeat an earlier one of the same {key}")
        frame = once
    return frame, notes


def _refuse_contradictions(frame: pl.DataFrame, once: pl.DataFrame, key: str, name: str) -> None:
    rows = frame.with_row_index(_ROW).filter(pl.col(key).is_duplicated())
    both = rows.join(once, on=key, how="left", suffix=" first", maintain_order="left")
    for column in frame.columns:
        if column != key:
            differs = both.filter(pl.col(column).ne_missing(pl.col(f"{column} first")))
            if differs.height:
                raise DataError(
                    f"{name}: {key} {differs[key][0]!r} occurs more than once with different values of {column!r}, "
                    f"again in row {differs[_ROW][0]} (counted from 0): keep one row of each id"
                )


def same_type(frame: pl.LazyFrame, keyed: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
    """The keyed table with its ids in the type of the frame's.

    Raises:
        DataError: the types cannot be compared.
    """
    wanted, found = frame.collect_schema()[key], keyed[key].dtype
    if wanted == found:
        return keyed
    if not all(kind == pl.String or kind.is_integer() for kind in (wanted, found)):
        raise DataError(f"{name}: column {key!r} holds {found}, but {wanted} in the samples: use one type")
    cast = keyed.with_columns(pl.col(key).cast(wanted, strict=False))
    return cast.drop_nulls(key)


def strangers(unknown: int, of: int, key: str, *, kind: str, rows: str, keyed: str) -> str | None:
    """What to tell of ids that a table lacks; None where it lacks none.

    Args:
        unknown: number of ids that it lacks.
        of: number of ids that there are.
        key: column of ids.
        kind: whose ids they are, such as `users of the log`.
        rows: name of the table with the rows.
        keyed: name of the table that lacks them.

    Raises:
        DataError: it lacks all of them, as where one table has 7 and the other one `u7`.
    """
    if not unknown:
        return None
    if unknown == of:
        refuse_strangers(key, rows=rows, keyed=keyed)
    return f"{keyed} lacks {unknown:,} of {of:,} {kind}: their features are missing values"


def refuse_strangers(key: str, *, rows: str, keyed: str) -> NoReturn:
    """Say that two tables share no id.

    Raises:
        DataError: always.
    """
    # The names of two data frames begin with that of their dataset.
    dataset, colon, name = rows.rpartition(": ")
    if colon and keyed.startswith(dataset + colon):
        raise DataError(f"{dataset}: no {key} of {name} is in {keyed.removeprefix(dataset + colon)}: {_ONE_FORM}")
    raise DataError(f"no {key} of {rows} is in {keyed}: {_ONE_FORM}")


def listed(names: Sequence[object], most: int = 3) -> str:
    """The first of some names.

    >>> listed(["a", "b"]), listed(range(5))
    ("'a', 'b'", '0, 1, 2 ...')
    """
    return ", ".join(map(repr, list(names)[:most])) + (" ..." if len(names) > most else "")
