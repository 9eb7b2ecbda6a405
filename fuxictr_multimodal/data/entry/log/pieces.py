"""Samples of a log, piece by piece, for `StoreBuilder`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.log.columns import PIECE_ROWS, LogRows
from fuxictr_multimodal.data.entry.log.samples import LogSamples, Samples
from fuxictr_multimodal.data.entry.tables.files import CHUNK_ROWS
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.row_encoder import SplitRows

# Runs of events in a piece for another process: there are about as many samples as a chunk of a file has rows.
RUNS = 4


@dataclass(frozen=True)
class LogPiece:
    """Some events of a log in runs, whose samples are made one run after the other.

    Attributes:
        event: the first.
        runs: number of events of each run.
        first_row: row of the log where they begin; not read where the samples need no column of the log.
        rows: rows of the log that they are in.
        frame: columns of the events from the log; None where who works on them reads them.
    """

    event: int
    runs: tuple[int, ...]
    first_row: int = 0
    rows: int = 0
    frame: pl.DataFrame | None = None


@dataclass(frozen=True)
class LogSplitRows:
    """Makes rows for `StoreBuilder` of pieces.

    Attributes:
        item_col: column of the target.
        label: column of the label.
        samples: the samples of the log.
        rows: their columns.
        of_users: further columns, by the code of the user.
    """

    item_col: str
    label: str
    samples: LogSamples
    rows: LogRows
    of_users: Mapping[str, NDArray] = field(default_factory=dict)

    def apart(self) -> LogSplitRows:
        """The same without what other processes do not need: ids of items, and columns that are learnt."""
        samples = copy.copy(self.samples)
        events = self.samples.events
        samples.events = replace(events, columns={}, item_ids=IdMap(events.item_ids.ids.clear()))
        return replace(self, samples=samples, rows=self.rows.apart(samples.events))

    def __call__(self, piece: LogPiece) -> Iterator[SplitRows]:
        """The rows of a piece, run by run and split by split.

        Raises:
            DataError: a value is wrong.
        """
        chunk = self.rows.some(piece.first_row, piece.rows) if piece.frame is None else piece.frame
        at = 0
        for events in piece.runs:
            start, run = piece.event + at, chunk[at : at + events]
            for part in self.samples.take(start, start + events):
                columns = self.rows.take(start, run, part.events)
                columns |= {self.item_col: part.items, self.label: part.labels, **part.target_codes}
                users = self.samples.events.users[part.events]
                columns |= {name: values[users] for name, values in self.of_users.items()}
                yield _split_rows(part, columns)
            at += events


def pieces_of(rows: LogRows, samples: LogSamples, *, apart: bool) -> Iterator[LogPiece]:
    """All events in order.

    Args:
        rows: columns of the samples.
        samples: the samples.
        apart: other processes work on the pieces, and read themselves what can be read from anywhere. Runs are the same
            anyway: their samples are appended split by split, in which order texts get their codes.
    """
    negatives = samples.choices.negatives
    run = -(-PIECE_ROWS // (1 if negatives is None else 1 + negatives.ratio))
    if not apart or not rows.anywhere:
        for start, stop, chunk in rows.pieces(rows=run):
            yield LogPiece(start, (stop - start,), frame=chunk)
        return
    if not rows.reads:
        for event in range(0, len(samples.events), RUNS * run):
            yield LogPiece(event, _runs(min(RUNS * run, len(samples.events) - event), run))
        return
    kept, event = samples.events.kept, 0
    for first in range(0, len(kept), CHUNK_ROWS):
        places = first + np.flatnonzero(kept[first : first + CHUNK_ROWS])
        for start in range(0, len(places), RUNS * run):
            mine = places[start : start + RUNS * run]
            yield LogPiece(event + start, _runs(len(mine), run), int(mine[0]), int(mine[-1] - mine[0]) + 1)
        event += len(places)


def _runs(events: int, most: int) -> tuple[int, ...]:
    """Events in runs of at most so many.

    >>> _runs(5, 2)
    (2, 2, 1)
    """
    return tuple(min(most, events - at) for at in range(0, events, most))


def _split_rows(part: Samples, columns: dict[str, Any]) -> SplitRows:
    (first, history), *others = part.histories.items()
    return SplitRows(
        part.split,
        columns,
        history.items,
        history.offsets,
        events=part.event_codes[first],
        behaviours={name: (taken.items, taken.offsets, part.event_codes[name]) for name, taken in others},
    )
