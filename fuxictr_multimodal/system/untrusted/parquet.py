"""Parquet that somebody else wrote: what its footer declares is compared with the size of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.sizes import check_regular, check_size

MOST_COLUMNS = 20_000
# Rows that any file may have, and those for each of its bytes above that: equal values are stored once.
ROOM_ROWS, MOST_ROWS_A_BYTE = 100_000_000, 100
# Bytes of a value in memory, by physical type; texts come with an offset.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_OFFSET = 8


def check_parquet(path: Path, *, whole: Sequence[str] | bool = False) -> None:
    """Refuse a file whose footer declares more than it can hold.

    Args:
        path: the file.
        whole: columns that are read at once, or whether all are; a file that is read in pieces may be larger than the
            memory.

    Raises:
        DataError: too many rows or columns, or too many bytes to read at once.
        pyarrow.ArrowException, OSError: it is no parquet file.
    """
    stored = check_regular(path)
    try:
        metadata = pq.read_metadata(path)
    except UnicodeDecodeError:
        raise DataError(f"{path} cannot be read: a name in it is not UTF-8 text") from None
    if metadata.num_columns > MOST_COLUMNS:
        raise DataError(f"{path} has {metadata.num_columns:,} columns; at most {MOST_COLUMNS:,} are read")
    rows, counted, values, size = metadata.num_rows, 0, 0, 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        counted += group.num_rows
        most = group.num_rows
        for place in range(group.num_columns):
            column = group.column(place)
            most = max(most, column.num_values)
            if whole is True or (whole and column.path_in_schema.split(".")[0] in whole):
                width = _WIDTHS.get(column.physical_type)
                size += column.num_values * (width or _OFFSET) + (0 if width else column.total_uncompressed_size)
        values += most
    if rows != counted:
        raise DataError(f"{path} declares {rows:,} rows, but its row groups have {counted:,}: the file is damaged")
    if values > max(ROOM_ROWS, MOST_ROWS_A_BYTE * stored):
        raise DataError(
            f"{path} declares {values:,} values of a column in a file of {stored:,} bytes: it is damaged, or made to "
            "fill the memory"
        )
    if whole:
        check_size(str(path), size, stored)
