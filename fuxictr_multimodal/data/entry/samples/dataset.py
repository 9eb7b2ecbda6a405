"""Samples that are ready to a dataset: two passes over the user's files, in pieces.

The first pass numbers the items and learns event features, the second one writes. Memory holds a few pieces, the ids,
the vocabularies and the item table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import MAX_LEN, Entry
from fuxictr_multimodal.data.entry.samples.events import SampleEvents
from fuxictr_multimodal.data.entry.samples.histories import HistoryReader, JaggedIds
from fuxictr_multimodal.data.entry.samples.sources import Source, open_sources
from fuxictr_multimodal.data.entry.tables.files import reading
from fuxictr_multimodal.data.entry.tables.items import (
    Items,
    ShownItems,
    item_table,
    named_files,
    read_items,
    vector_files,
)
from fuxictr_multimodal.data.entry.tables.keyed import refuse_strangers, strangers
from fuxictr_multimodal.data.entry.tables.lists import as_ids
from fuxictr_multimodal.data.entry.tables.users import Users, read_users
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.errors import DataError


def build_samples(entry: Entry, *, data_root: str | Path, recipe: Mapping[str, Any], overwrite: bool) -> None:
    """Build the dataset of an entry whose samples are ready, with items or without.

    Args:
        entry: of the form `samples` or `flat`.
        data_root: folder of the datasets.
        recipe: for the manifest.
        overwrite: replace an existing dataset.

    Raises:
        InputError: the entry does not fit its files, or a value is wrong; nothing is left on disk.
    """
    flat = entry.form == "flat"
    users = read_users(entry)
    sources = open_sources(entry, users)
    notes = [] if users is None else _notes_of_users(users, sources)
    reader = None if flat else HistoryReader(entry)
    items = None if flat else read_items(entry)
    files = {name: path for source in sources for name, path in named_files(source.key, source.files).items()}
    files |= {} if users is None else users.files
    files |= {} if items is None else {**items.files, **vector_files(entry)}
    seen = None
    if items is not None and reader is not None:
        seen = _first_pass(entry, sources, items, reader)
    labels: Any = entry.settings.label_col
    store_columns = [*entry.columns.store, *(() if seen is None else seen.events.columns)]
    with StoreBuilder(
        dataset_id=entry.dataset_id,
        data_root=data_root,
        feature_cols=store_columns,
        label_col=labels,
        max_len=None if flat else entry.settings.max_len or MAX_LEN,
        group_id=entry.group_col,
        item_col=None if flat else entry.settings.item_col,
        weight_col=entry.settings.weight_col,
        behaviours=entry.columns.histories[1:],
        recipe=recipe,
        sources=files,
        overwrite=overwrite,
    ) as builder:
        train = _fitted_rows(entry, sources)
        facts: dict[str, Any] = {}
        if seen is None:
            # The rows of training are read there.
            with reading(sources[0].name):
                builder.fit(train)
                builder.write_items(None)
        else:
            table = item_table(entry, seen.items, seen.counts)
            builder.write_ids({entry.settings.item_col: seen.items.ids})
            builder.fit(train, item_counts=seen.counts)
            # The item's own column tells the number of items where it is the only one.
            own = {entry.settings.item_col: np.arange(seen.items.rows)}
            with reading(sources[0].name):
                builder.write_items({**own, **table.columns}, titles=table.titles)
            facts |= {"vectors": table.facts} if table.facts else {}
            facts |= seen.events.facts
            for note in (*seen.items.notes, *table.notes):
                print(note)
        for source in sources:
            for piece in _pieces(entry, source, seen, reader):
                for split, rows in source.splits_of(piece.first_row, piece.rows):
                    _append(builder, split, piece, rows)
        for note in notes:
            print(note)
        builder.finish(split_method=sources[0].method, facts=facts)


@dataclass(frozen=True)
class Seen:
    """What the first pass found.

    Attributes:
        items: all items.
        counts: how often each item is a target in the training split, (items,).
        events: the event features, learnt.
    """

    items: Items
    counts: NDArray[np.int64]
    events: SampleEvents


@dataclass(frozen=True)
class Piece:
    """Some rows of a table, encoded for `StoreBuilder.append`.

    Attributes:
        first_row: row of the table that they begin with.
        rows: their number.
        columns: values by name, each (rows, ...).
        histories: by column, the main one first.
    """

    first_row: int
    rows: int
    columns: Mapping[str, Any]
    histories: Mapping[str, JaggedIds]


def _first_pass(entry: Entry, sources: list[Source], items: Items, reader: HistoryReader) -> Seen:
    """Number the items of samples and histories, count the training targets, learn the event features."""
    columns = entry.columns
    assert columns.own is not None
    known = items.rows
    shown = None if entry.settings.item_data is not None else ShownItems(columns)
    events = SampleEvents(entry)
    in_histories = items.ids.ids.clear()
    counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for source in sources:
        wanted = {columns.raw_name(columns.own), *reader.columns, *events.targets}
        wanted |= set() if shown is None else set(columns.dtypes(columns.items))
        at = 0
        for chunk in source.chunks(wanted, task=f"{source.key}: items"):
            targets = _targets(entry, chunk, source, at)
            items = items.extended(targets)
            histories = reader.read(chunk, source=source, first_row=at)
            for history in histories.values():
                in_histories = _distinct(in_histories, history.ids)
            for split, rows in source.splits_of(at, len(chunk)):
                if split == "train":
                    counts = _counted(counts, items.ids.codes(targets if rows is None else targets.gather(rows)))
                    events.learn(chunk, histories, rows, source=source, first_row=at)
                if shown is not None:
                    of_split = chunk if rows is None else chunk[rows]
                    shown.add(targets if rows is None else targets.gather(rows), of_split, train=split == "train")
            at += len(chunk)
    of_targets = items.rows
    shared = in_histories.is_in(items.ids.ids[1:known].implode()).any()
    if known > 1 and not counts[1:known].any() and not shared:
        refuse_strangers(entry.settings.item_col, rows=sources[0].name, keyed=items.name)
    items = items.extended(in_histories)
    if shown is not None:
        items = Items(items.ids, shown.features(items.ids), items.files, tuple(shown.notes()), items.name)
    elif items.rows > known:
        items = items.noted(
            f"{items.name} lacks {items.rows - known:,} items that occur ({of_targets - known:,} as targets): they "
            "have an id and no features"
        )
    if items.rows < 2:
        raise DataError(f"{entry.within(sources[0].name)} has no items")
    events.fit()
    return Seen(items, np.pad(counts, (0, items.rows - len(counts))), events)


def _notes_of_users(users: Users, sources: list[Source]) -> list[str]:
    """What to tell of the users' table: repeated rows, and users of the training samples that it lacks."""
    source = next(source for source in sources if source.split in (None, "train"))
    with reading(source.name):
        own = source.train_rows().select(pl.col(users.key).drop_nulls().unique())
        ids = own.collect(engine="streaming").to_series()
    unknown = len(users.unknown(ids))
    note = strangers(
        unknown, len(ids), users.key, kind="users of the training samples", rows=source.name, keyed=users.name
    )
    return [*users.notes, *([] if note is None else [note])]


def _pieces(entry: Entry, source: Source, seen: Seen | None, reader: HistoryReader | None) -> Iterator[Piece]:
    """The rows of a table, encoded."""
    columns, label, weight = entry.columns, entry.columns.label, entry.settings.weight_col
    at = 0
    for chunk in source.chunks(None):
        found: dict[str, Any] = {}
        for column in (*columns.samples, *columns.users):
            series = chunk[columns.raw_name(column)]
            found[column["name"]] = values_of(column, series, where=source.name, first_row=at)
        if label in chunk.columns:
            found[label] = chunk[label].to_numpy()
        if weight is not None and weight in chunk.columns:
            found[weight] = chunk[weight].to_numpy()
        histories: dict[str, JaggedIds] = {}
        if seen is not None and reader is not None:
            found[entry.settings.item_col] = seen.items.ids.codes(_targets(entry, chunk, source, at))
            histories = reader.read(chunk, source=source, first_row=at)
            targets, histories = seen.events.encode(chunk, histories, source=source, first_row=at)
            found |= targets
            histories = {name: history.coded(seen.items.ids) for name, history in histories.items()}
        yield Piece(at, len(chunk), found, histories)
        at += len(chunk)


def _append(builder: StoreBuilder, split: str, piece: Piece, rows: NDArray[np.int64] | None) -> None:
    """Hand the rows of one split to the builder."""
    columns = piece.columns
    histories = list(piece.histories.items())
    if rows is not None:
        columns = {
            name: values.gather(rows) if isinstance(values, pl.Series) else values[rows]
            for name, values in columns.items()
        }
        histories = [(name, history.take(rows)) for name, history in histories]
    if not histories:
        builder.append(split, columns)
        return
    first = histories[0][1]
    builder.append(
        split,
        columns,
        first.codes,
        first.offsets,
        events=first.events,
        behaviours={name: (one.codes, one.offsets, one.events) for name, one in histories[1:]},
    )


def _fitted_rows(entry: Entry, sources: list[Source]) -> pl.LazyFrame | None:
    """Training rows with the raw columns of the splits that are fitted; nothing is read yet."""
    columns = entry.columns
    fitted = [c for c in (*columns.samples, *columns.users) if is_fitted(c)]
    if not fitted and not any(is_fitted(c) for c in columns.items):
        return None
    source = next(source for source in sources if source.split in (None, "train"))
    return source.train_rows().select(pl.col(columns.raw_name(c)).alias(c["name"]) for c in fitted)


def _targets(entry: Entry, chunk: pl.DataFrame, source: Source, first_row: int) -> pl.Series:
    """The target item of each row, by the user's ids."""
    own = entry.columns.own
    assert own is not None
    name = entry.columns.raw_name(own)
    ids, _ = as_ids(chunk[name], own["dtype"], absent=own.get("fill_na"))
    if ids.null_count():
        row = first_row + int(ids.is_null().arg_max() or 0)
        raise DataError(
            f"{source.name}: column {name!r}, row {row} (counted from 0): the sample has no item: remove such samples"
        )
    return ids


def _distinct(found: pl.Series, more: pl.Series) -> pl.Series:
    """Distinct ids in the order in which they come first."""
    fresh = more.unique(maintain_order=True).drop_nulls()
    return pl.concat([found, fresh.alias(found.name)]).unique(maintain_order=True)


def _counted(counts: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    more = np.bincount(codes, minlength=len(counts))
    more[: len(counts)] += counts
    return more
