"""The item table: from `item_data`, or from the samples that show the items; ids of any type get rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.data.entry.entry import Columns, Entry
from fuxictr_multimodal.data.entry.tables.keyed import listed, read_keyed
from fuxictr_multimodal.data.entry.tables.texts import TextEncoders
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourValues
from fuxictr_multimodal.data.recipes.text_features import vectors_of_ids
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import DataError


@dataclass(frozen=True)
class Items:
    """Items and their features.

    Attributes:
        ids: the user's id of each row of the item table; row 0 is padding.
        features: raw values by the name of the column, row i being item i + 1; items that come after have none.
        files: what was read, by name for the manifest.
        notes: what to tell the user, one line each.
        name: of the table, for messages.
    """

    ids: IdMap
    features: pl.DataFrame
    files: Mapping[str, Path]
    notes: tuple[str, ...]
    name: str

    @property
    def rows(self) -> int:
        """Rows of the item table, with padding."""
        return len(self.ids)

    def extended(self, found: pl.Series) -> Items:
        """The same with the items that are new among `found`, without features."""
        return replace(self, ids=self.ids.extended(found))

    def noted(self, *notes: str) -> Items:
        """The same with more to tell."""
        return replace(self, notes=(*self.notes, *notes))

    def texts(self, column: str) -> list[str]:
        """Text of each row, "" for padding and where it is missing."""
        known = self.features[column].fill_null("").to_list()
        return ["", *known, *[""] * (self.rows - 1 - len(known))]

    def series(self, column: str) -> pl.Series:
        """Raw values of each row; null for padding and items without features."""
        known = self.features[column]
        gap = pl.Series(column, [None], dtype=known.dtype)
        rest = gap.new_from_index(0, self.rows - 1 - len(known))
        return pl.concat([gap, known, rest])


@dataclass(frozen=True)
class ItemTable:
    """Columns of the item table for `StoreBuilder.write_items`.

    Attributes:
        columns: values (items, ...) by name.
        titles: text of each item for people, or None.
        facts: metadata of vectors, for the manifest.
        notes: what to tell the user.
    """

    columns: dict[str, Any]
    titles: list[str] | None
    facts: dict[str, Any]
    notes: tuple[str, ...]


def read_items(entry: Entry) -> Items:
    """The items of `item_data` in the order of its rows; none where the entry has no such file.

    A row of the id `fill_na` of the item's column is that of padding and left out.

    Raises:
        DataError: the table is wrong, or an id has rows that contradict each other.
    """
    columns = entry.columns
    assert columns.own is not None
    name, dtype = columns.own["name"], columns.own["dtype"]
    if entry.settings.item_data is None:
        none = pl.Series(name, [None], dtype=pl.Int64 if dtype == "int" else pl.String)
        return Items(IdMap(none), pl.DataFrame(), {}, (), "the samples")
    table = entry.table("item_data", {name: dtype, **columns.dtypes(columns.items)})
    frame, notes = read_keyed(table, name, absent=columns.own.get("fill_na"))
    ids = IdMap.of(frame[name], padding=True)
    features = pl.DataFrame(
        [frame[columns.raw_name(c)].alias(c["name"]) for c in columns.items if columns.in_tables(c)]
    )
    return Items(ids, features, named_files("item_data", table.files), tuple(notes), table.name)


def item_table(
    entry: Entry,
    items: Items,
    counts: NDArray[np.integer],
    behaviour: BehaviourValues,
    encoders: TextEncoders,
) -> ItemTable:
    """The values of all item columns.

    Args:
        entry: the entry.
        items: all items.
        counts: how often each item is a target in the training split, (items,); texts are fitted on those that are.
        behaviour: values of the columns that training behaviour makes.
        encoders: of the columns of texts.

    Raises:
        DataError: a vector, a text or a list is wrong.
    """
    columns, found, facts, notes = entry.columns, {}, {}, []
    titles = None
    for column in columns.items:
        name, making = column["name"], columns.making[column["name"]]
        if name in behaviour.columns:
            found[name], facts[name] = behaviour.columns[name], behaviour.facts[name]
        elif "embedding_file" in making or "encoder" in making:
            if "encoder" in making:
                texts = items.texts(name)
                titles = titles or texts
                fit_rows = np.asarray(counts) > 0
                made, told = encoders.vectors(name, texts, fit_rows=fit_rows, dim=column.get("pretrain_dim"))
                notes += told
            else:
                made = vectors_of_ids(_vector_file(making, entry, name), ids=items.ids, dim=column.get("pretrain_dim"))
            found[name], facts[name] = made.vectors, {**made.metadata}
        else:
            found[name] = values_of(column, items.series(name), where=items.name, first_row=-1)
        if column["type"] == "embedding":
            without = int((~found[name][1:].any(axis=1)).sum())
            if without:
                notes.append(f"{name}: {without:,} of {items.rows - 1:,} items have no vector; theirs is zero")
    return ItemTable(found, titles, facts, tuple(notes))


def vector_files(entry: Entry) -> dict[str, Path]:
    """Files of vectors by item id, for the manifest."""
    making = {c["name"]: entry.columns.making[c["name"]] for c in entry.columns.items}
    return {
        f"{name}/{path.name}": path
        for name, keys in making.items()
        if "embedding_file" in keys
        for path in [_vector_file(keys, entry, name)]
    }


def named_files(key: str, files: tuple[Path, ...]) -> dict[str, Path]:
    """Files of a table by name, for the manifest."""
    return {f"{key}/{file.name}": file for file in files}


def _vector_file(making: Mapping[str, Any], entry: Entry, name: str) -> Path:
    path = user_path(making["embedding_file"])
    if not path.is_file():
        raise DataError(f"{entry.where}: column {name!r}: embedding_file {path} does not exist")
    return path


class ShownItems:
    """Items and their features from the samples that show them.

    An item has the last features that the training split gives it, and where it has none the first of the others; a
    missing value takes nothing away.

    Args:
        columns: those of the entry.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = [c for c in columns.items if columns.in_tables(c)]
        self._names = [c["name"] for c in self._columns]
        self._raw = {c["name"]: columns.raw_name(c) for c in self._columns}
        self._found: pl.DataFrame | None = None
        self._contradicted: dict[str, set[Any]] = {name: set() for name in self._names}

    def add(self, ids: pl.Series, chunk: pl.DataFrame, *, train: bool) -> None:
        """Add the items of some samples, (rows,)."""
        shown = chunk.select(pl.col(raw).alias(name) for name, raw in self._raw.items())
        shown = shown.with_columns(ids.alias("\0id")).filter(pl.col("\0id").is_not_null())
        ordered = shown.group_by("\0id", maintain_order=True)
        if not self._names:
            return
        for name in self._names if train else ():
            column = shown.filter(pl.col(name).is_not_null()).select("\0id", name)
            differing = column.unique().filter(pl.col("\0id").is_duplicated())["\0id"]
            self._contradicted[name].update(differing.to_list())
        pick = [
            pl.col(name).drop_nulls().last() if train else pl.col(name).drop_nulls().first() for name in self._names
        ]
        fresh = ordered.agg(pick)
        if self._found is None:
            self._found = fresh
            return
        both = self._found.join(
            fresh, on="\0id", how="full", coalesce=True, suffix="\0new", maintain_order="left_right"
        )
        for name in self._names if train else ():
            differs = both.filter(pl.col(name).is_not_null() & pl.col(f"{name}\0new").is_not_null()).filter(
                pl.col(name).ne_missing(pl.col(f"{name}\0new"))
            )
            self._contradicted[name].update(differs["\0id"].to_list())
        order = ("\0new", "") if train else ("", "\0new")
        self._found = both.select(
            "\0id", *(pl.coalesce(pl.col(f"{name}{end}") for end in order).alias(name) for name in self._names)
        )

    def features(self, ids: IdMap) -> pl.DataFrame:
        """Features of items 1 and up, in the order of their ids."""
        if self._found is None:
            return pl.DataFrame()
        wanted = ids.ids[1:].alias("\0id").to_frame()
        return wanted.join(self._found, on="\0id", how="left", maintain_order="left").drop("\0id")

    def notes(self) -> list[str]:
        """Which items have features that contradict each other."""
        return [
            f"{name}: {len(found):,} items have several values in the training samples, such as "
            f"{listed(sorted(found, key=str))}; the last one is taken"
            for name, found in self._contradicted.items()
            if found
        ]
