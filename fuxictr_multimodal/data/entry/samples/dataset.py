"""Samples that are ready to a dataset: two passes over the user's files, in pieces.

The first pass numbers the items and learns event features, the second one writes. Memory holds a few pieces, the ids,
the vocabularies and the item table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import MAX_LEN, Entry
from fuxictr_multimodal.data.entry.pieces import answers, append_pieces
from fuxictr_multimodal.data.entry.samples.behaviour import SampleBehaviour
from fuxictr_multimodal.data.entry.samples.events import SampleEvents
from fuxictr_multimodal.data.entry.samples.histories import HistoryReader
from fuxictr_multimodal.data.entry.samples.pieces import Look, Looks, Piece, SampleRows, distinct, pieces_of
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
from fuxictr_multimodal.data.entry.tables.texts import TextEncoders
from fuxictr_multimodal.data.entry.tables.users import Users, read_users
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.progress import followed


def build_samples(
    entry: Entry, *, data_root: str | Path, recipe: Mapping[str, Any], overwrite: bool, ray: Any = None
) -> None:
    """Build the dataset of an entry whose samples are ready, with items or without.

    Args:
        entry: of the form `samples` or `flat`.
        data_root: folder of the datasets.
        recipe: for the manifest.
        overwrite: replace an existing dataset.
        ray: the cluster whose workers read and encode the samples; None for this process.

    Raises:
        InputError: the entry does not fit its files, or a value is wrong; nothing is left on disk.
    """
    flat = entry.form == "flat"
    # A name that is wrong shows before files are read.
    encoders = TextEncoders.of(entry, data_root)
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
        seen = _first_pass(entry, sources, items, reader, ray)
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
        folds = None
        if seen is None:
            # The rows of training are read there.
            with reading(sources[0].name):
                builder.fit(train)
                builder.write_items(None)
        else:
            behaviour, folds = seen.behaviour.make(seen.items.ids)
            table = item_table(entry, seen.items, seen.counts, behaviour, encoders)
            builder.write_ids({entry.settings.item_col: seen.items.ids})
            builder.fit(train, item_counts=seen.counts)
            # The item's own column tells the number of items where it is the only one.
            own = {entry.settings.item_col: np.arange(seen.items.rows)}
            with reading(sources[0].name):
                builder.write_items({**own, **table.columns}, titles=table.titles, folds=behaviour.folds)
            facts |= {"vectors": table.facts} if table.facts else {}
            facts |= seen.events.facts
            for note in (*seen.items.notes, *table.notes):
                print(note)
        ids, events = (None, None) if seen is None else (seen.items.ids, seen.events)
        rows_of = SampleRows(entry, sources, reader, ids, events, folds)
        append_pieces(builder, rows_of, pieces_of(sources, apart=ray is not None), ray=ray)
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
        behaviour: training histories, as far as they are needed.
    """

    items: Items
    counts: NDArray[np.int64]
    events: SampleEvents
    behaviour: SampleBehaviour


def _first_pass(entry: Entry, sources: list[Source], items: Items, reader: HistoryReader, ray: Any) -> Seen:
    """Number the items of samples and histories, count the training targets, learn the event features."""
    columns = entry.columns
    assert columns.own is not None
    known = items.rows
    shown = None if entry.settings.item_data is not None else ShownItems(columns)
    events, behaviour = SampleEvents(entry), SampleBehaviour(entry)
    of_items: list[str] = [] if shown is None else list(columns.dtypes(columns.items))
    wanted = list({columns.raw_name(columns.own), *reader.columns, *events.targets, *of_items, *behaviour.columns})
    in_histories = items.ids.ids.clear()
    counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    looks = Looks(entry, sources, reader, wanted)
    # Features of events and items, and what users did, are learnt in the order of the samples.
    apart = ray is not None and not entry.settings.event_cols and not of_items and not behaviour.columns
    pieces = pieces_of(sources, wanted, apart=apart, task="" if apart else "items")

    def learnt(piece: Piece) -> Look:
        source, chunk, targets, histories = looks.read(piece)
        for split, rows in source.splits_of(piece.first_row, len(chunk)):
            if split == "train":
                events.learn(chunk, histories, rows, source=source, first_row=piece.first_row)
                behaviour.add(chunk, targets, histories, rows, where=source.name, first_row=piece.first_row)
            else:
                behaviour.add_held_out(chunk, targets, rows)
            if shown is not None:
                of_split = chunk if rows is None else chunk[rows]
                shown.add(targets if rows is None else targets.gather(rows), of_split, train=split == "train")
        return looks.of(piece, source, targets, histories)

    found: Iterable[Look] = map(learnt, pieces)
    if apart:
        by_workers = answers(ray, looks.apart(), pieces, here=looks, what="read")
        rows = sum(source.table.rows for source in sources)
        found = followed(by_workers, total=rows, what="items", size=lambda look: look.size)
    for look in found:
        items = items.extended(look.targets)
        in_histories = distinct(in_histories, look.in_histories)
        counts = _counted(counts, items.ids.codes(look.targets), look.counts)
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
    return Seen(items, np.pad(counts, (0, items.rows - len(counts))), events, behaviour)


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


def _fitted_rows(entry: Entry, sources: list[Source]) -> pl.LazyFrame | None:
    """Training rows with the raw columns of the splits that are fitted; nothing is read yet."""
    columns = entry.columns
    fitted = [c for c in (*columns.samples, *columns.users) if is_fitted(c)]
    if not fitted and not any(is_fitted(c) for c in columns.items):
        return None
    source = next(source for source in sources if source.split in (None, "train"))
    return source.train_rows().select(pl.col(columns.raw_name(c)).alias(c["name"]) for c in fitted)


def _counted(counts: NDArray[np.int64], codes: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counts of all codes with those of some, which are distinct."""
    counts = np.pad(counts, (0, max(int(codes.max(initial=-1)) + 1 - len(counts), 0)))
    counts[codes] += more
    return counts
