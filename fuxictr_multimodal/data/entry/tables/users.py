"""Features of users, joined to the samples by the user's column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.data.entry.tables.keyed import read_keyed, same_type

KEY = "\0user"


@dataclass(frozen=True)
class Users:
    """The users of `user_data`.

    Attributes:
        frame: columns of users by the name that they have in the file, and `key`; each user once.
        key: column of the user's id.
        files: what was read, by name for the manifest.
        notes: what to tell the user.
        name: of the table, for messages.
    """

    frame: pl.DataFrame
    key: str
    files: Mapping[str, Path]
    notes: tuple[str, ...]
    name: str

    def join(self, table: Table) -> Table:
        """A table with the features of its users; those of a user that is not known are missing.

        Raises:
            DataError: the ids are of types that cannot be compared.
        """
        rows = table.frame
        users = same_type(rows, self.frame, self.key, self.name)
        columns = [name for name in users.columns if name != self.key]
        # A feature of the same name in the rows gives way to that of the user.
        rows = rows.select(pl.exclude(columns)) if columns else rows
        return replace(table, frame=rows.join(users.lazy(), on=self.key, how="left", maintain_order="left"))

    def unknown(self, ids: pl.Series) -> pl.Series:
        """The ids among some that have no features."""
        users = same_type(ids.to_frame(self.key).lazy(), self.frame, self.key, self.name)
        return ids.filter(~ids.is_in(users[self.key].implode()) & ids.is_not_null())


def read_users(entry: Entry) -> Users | None:
    """The users of `user_data`, or None where the entry has no such file.

    Raises:
        DataError: the table is wrong, or a user has rows that contradict each other.
    """
    if entry.settings.user_data is None:
        return None
    columns, key = entry.columns, entry.user_col
    own = next((c["dtype"] for c in columns.samples if columns.raw_name(c) == key), "any")
    table = entry.table("user_data", {key: own, **columns.dtypes(columns.users)})
    frame, notes = read_keyed(table, key)
    files = {f"user_data/{file.name}": file for file in table.files}
    return Users(frame, key, files, tuple(notes), table.name)
