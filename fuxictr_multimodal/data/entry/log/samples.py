"""Samples of a log of events: split, histories without a look ahead, negatives, and what is learnt from train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.config.entry_settings import EventColumn, InteractionSettings, NegativeSettings, SplitSettings
from fuxictr_multimodal.data.entry import splits
from fuxictr_multimodal.data.entry.events import EventFeature, EventFitter
from fuxictr_multimodal.data.entry.log.negatives import SplitNegatives
from fuxictr_multimodal.data.entry.log.reader import Events
from fuxictr_multimodal.data.recipes.histories import History, Taken, Timeline
from fuxictr_multimodal.data.recipes.interactions import SPLITS, TRAIN
from fuxictr_multimodal.data.recipes.negatives import NegativeSampler
from fuxictr_multimodal.data.recipes.user_events import UserEvents
from fuxictr_multimodal.errors import ConfigError, DataError

HISTORY = "history"
TIME = "time of the event"
# Training samples whose histories tell the boundaries of ages and the like.
FIT_SAMPLES = 100_000


@dataclass(frozen=True)
class LogChoices:
    """How samples are made of a log: the part of an entry that says so.

    Attributes:
        interactions: columns of the log.
        split: how it is split.
        max_len: most events of a history.
        samples: `all` events, or the `last` positive of a user and split.
        history: events that are history: `positive` ones or `all`.
        negatives: how negatives are drawn, or None.
        event_cols: features of history events.
    """

    interactions: InteractionSettings
    split: SplitSettings
    max_len: int
    samples: Literal["all", "last"] = "all"
    history: Literal["positive", "all"] = "positive"
    negatives: NegativeSettings | None = None
    event_cols: tuple[EventColumn, ...] = ()

    def check(self, where: str) -> None:
        """Refuse choices that give samples of one class.

        Raises:
            ConfigError: saying what to add.
        """
        if self.negatives is not None:
            return
        if self.interactions.label is None:
            raise ConfigError(
                f"{where}: the log has positives only: draw negatives with `negatives: {{ratio: 3}}`, or name the "
                "column of the `label`"
            )
        if self.samples == "last":
            raise ConfigError(
                f"{where}: `samples: last` keeps the last positive of each user only: draw negatives with `negatives: "
                "{ratio: 3}`"
            )


@dataclass(frozen=True)
class Samples:
    """Samples of one split: of each positive or labelled event one, and behind a positive its negatives.

    Attributes:
        split: name of the split.
        events: the event that each sample comes from, (R,); a negative has that of its positive.
        items: target item of each sample, (R,).
        labels: (R,) uint8.
        histories: events of each kind of history, `history` first.
        event_codes: codes of the histories' events, by name of the history and of the feature, each (M,) int32.
        target_codes: codes of the targets by name of the feature, each (R,) int32.
    """

    split: str
    events: NDArray[np.int64]
    items: NDArray[np.int32]
    labels: NDArray[np.uint8]
    histories: Mapping[str, Taken]
    event_codes: Mapping[str, Mapping[str, NDArray[np.int32]]]
    target_codes: Mapping[str, NDArray[np.int32]]


class LogSamples:
    """Samples of the events that are in memory.

    A history holds events of strictly smaller times only. Negatives come from items that are positive in the training
    split, and are never an item of the user. Bins, vocabularies and the popularity of items come from train.

    Args:
        events: the log.
        choices: how samples are made of it.
        where: what the log is, for messages.

    Raises:
        ConfigError: the choices give samples of one class.
        DataError: a split is empty, a user has seen all items, or a feature has nothing to learn from.
    """

    def __init__(self, events: Events, choices: LogChoices, *, where: str) -> None:
        choices.check(where)
        self.events, self.choices, self._where = events, choices, where
        self.times: NDArray = np.arange(len(events)) if events.times is None else events.times
        self.split = self._split()
        self._fitters = {spec.name: EventFitter(spec, where=where, clock=events.clock) for spec in choices.event_cols}
        # Codes of each event, and which features a target has.
        self._codes: dict[str, NDArray[np.int32]] = {}
        self._of_target: set[str] = set()
        fitted = {spec.name: self._fit_column(spec) for spec in choices.event_cols if not self._is_age(spec.name)}
        self._histories = self._make_histories()
        fitted |= {name: self._fit_ages(name) for name in self._fitters if self._is_age(name)}
        self.features: dict[str, EventFeature] = {name: fitted[name] for name in self._fitters}
        self._negatives = self._make_negatives()

    @property
    def behaviours(self) -> tuple[str, ...]:
        """Names of the histories; the first is `history`."""
        return history_names(self.choices)

    @property
    def train_events(self) -> NDArray[np.int64]:
        """Events that are samples of train, in their order."""
        return np.flatnonzero(self.split.of == TRAIN)

    def item_counts(self) -> NDArray[np.int64]:
        """How often each item is the target of an event of train, (items,). Drawn negatives do not count."""
        return np.bincount(self.events.items[self.split.of == TRAIN], minlength=len(self.events.item_ids))

    def training_behaviour(self) -> UserEvents:
        """What item vectors may count: events of the first history before the last training sample of each user."""
        return UserEvents.of_log(
            self.events.users,
            self.times,
            self.events.items,
            samples=self.split.of == TRAIN,
            events=self.split.known & history_events(self.events, self.choices)[HISTORY],
            names=self.events.user_ids.ids.to_list(),
        )

    def take(self, start: int, stop: int) -> Iterator[Samples]:
        """Samples of the events `start` to `stop - 1`, split by split; ask for pieces in order of the events."""
        of = self.split.of[start:stop]
        for code, split in enumerate(SPLITS):
            rows = start + np.flatnonzero(of == code)
            if len(rows):
                yield self._samples(split, code, rows)

    def _samples(self, split: str, code: int, rows: NDArray[np.int64]) -> Samples:
        items, labels = self.events.items[rows], self.events.positive[rows].astype(np.uint8)
        if self.choices.negatives is not None:
            rows, items, labels = self._with_negatives(code, rows, items, labels)
        histories = {name: history.take(rows) for name, history in self._histories.items()}
        codes: dict[str, dict[str, NDArray[np.int32]]] = {name: {} for name in histories}
        for name, taken in histories.items():
            for feature in self.features.values():
                codes[name][feature.name] = self._event_codes(feature, taken, rows)
        targets = {
            name: self._codes[name][rows] if name in self._of_target else feature.without_value(len(rows))
            for name, feature in self.features.items()
        }
        return Samples(split, rows, items, labels, histories, codes, targets)

    def _with_negatives(
        self, code: int, rows: NDArray[np.int64], items: NDArray[np.int32], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """Each positive followed by its negatives."""
        negatives, ordinal = self._negatives[code]
        assert self.choices.negatives is not None
        ratio = self.choices.negatives.ratio
        before = int(np.searchsorted(ordinal, rows[0]))
        drawn = negatives.take(before, before + int(labels.sum()))
        group = np.where(labels > 0, 1 + ratio, 1)
        first = np.cumsum(group) - group
        size = int(group.sum())
        out_items, out_labels = np.empty(size, dtype=np.int32), np.zeros(size, dtype=np.uint8)
        out_items[first], out_labels[first] = items, labels
        places = first[labels > 0][:, None] + np.arange(1, 1 + ratio)
        out_items[places] = drawn
        return np.repeat(rows, group), out_items, out_labels

    def _split(self) -> splits.Split:
        events, choices, settings = self.events, self.choices, self.choices.split
        samples, test = events.target, settings.test > 0
        match settings.by:
            case "time":
                split = splits.by_time(self.times, samples, valid=settings.valid, test=settings.test)
            case "user":
                split = splits.by_user(
                    events.users, samples, valid=settings.valid, test=settings.test, seed=settings.seed
                )
            case "last_item":
                split = splits.last_items(events.users, self.times, samples, test=test)
            case _:
                assert events.folds is not None
                test = bool((events.folds == splits.TEST).any())
                split = splits.by_column(events.folds, samples, column=str(settings.column))
        if choices.samples == "last":
            last = splits.newest_positive(events.users, self.times, split.of, events.positive)
            split = splits.Split(
                np.where(last, split.of, np.int8(splits.NO_SAMPLE)),
                split.known,
                f"{split.method}; the last positive of each user and split",
                split.notes,
            )
        return split.checked(self._where, test=test)

    def _make_histories(self) -> dict[str, History]:
        events, choices = self.events, self.choices
        timeline = Timeline(events.users, events.times)
        columns: dict[str, NDArray] = dict(self._codes)
        if any(map(self._is_age, self._fitters)):
            columns[TIME] = self.times
        kept = history_events(events, choices)
        kinds = choices.interactions.behaviours or ()
        for kind, keep in zip(kinds, kept.values(), strict=False):
            if not keep.any():
                raise DataError(
                    f"{self._where}: behaviours: no event of kind {kind!r} is positive, so its history would be empty: "
                    "leave it out, or set `history: all`"
                )
        return {
            name: timeline.history(events.items, keep, max_len=choices.max_len, columns=columns)
            for name, keep in kept.items()
        }

    def _is_age(self, name: str) -> bool:
        return self._fitters[name].kind == "age"

    def _fit_column(self, spec: EventColumn) -> EventFeature:
        """Learn a feature that each event has by itself from train, and encode it once for all events."""
        fitter = self._fitters[spec.name]
        values: NDArray | pl.Series = self.times
        if fitter.learns:
            values = self.events.columns[spec.name]
            # A value that targets have too is learnt from them, any other from the events that train may know.
            known = self.split.known if spec.target is None else self.split.of == TRAIN
            fitter.add(values.gather(np.flatnonzero(known)))
        feature = fitter.fit()
        self._codes[spec.name] = feature.codes(values)
        if spec.target is not None or not fitter.learns:
            self._of_target.add(spec.name)
        return feature

    def _fit_ages(self, name: str) -> EventFeature:
        """Learn bins of ages from the histories of train, of about 100,000 samples that are evenly taken."""
        rows = self.train_events
        rows = rows[:: max(1, len(rows) // FIT_SAMPLES)]
        for history in self._histories.values():
            self._fitters[name].add(self._ages(history.take(rows), rows))
        return self._fitters[name].fit()

    def _ages(self, taken: Taken, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return taken.of_rows(self.times[rows]) - taken.column(TIME)

    def _event_codes(self, feature: EventFeature, taken: Taken, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return feature.codes(self._ages(taken, rows)) if feature.kind == "age" else taken.column(feature.name)

    def _make_negatives(self) -> dict[int, tuple[SplitNegatives, NDArray[np.int64]]]:
        """The negatives of each split, and its positives in their order."""
        settings, events = self.choices.negatives, self.events
        if settings is None:
            return {}
        pool = events.items[self.split.known & events.positive & events.target]
        weights = np.bincount(pool, minlength=len(events.item_ids))
        if settings.by == "uniform":
            weights = np.minimum(weights, 1)
        positives = events.positive & (self.split.of >= 0)
        # Users without a positive need no negatives, whatever they have seen.
        wanted = np.zeros(len(events.user_ids), dtype=bool)
        wanted[events.users[positives]] = True
        seen = wanted[events.users]
        sampler = NegativeSampler(
            users=events.users[seen],
            items=events.items[seen],
            weights=weights,
            ratio=settings.ratio,
            seed=settings.seed,
            names=events.user_ids.ids,
        )
        found = {}
        for code in range(len(SPLITS)):
            rows = np.flatnonzero(positives & (self.split.of == code))
            found[code] = (SplitNegatives(sampler, events.users[rows], seed=settings.seed, split=code), rows)
        return found


def history_names(choices: LogChoices) -> tuple[str, ...]:
    """Names of the histories of a log; the first is `history`, whatever its kind of event."""
    return (HISTORY, *(choices.interactions.behaviours or ())[1:])


def history_events(events: Events, choices: LogChoices) -> dict[str, NDArray[np.bool_]]:
    """Which events are in each kind of history, (N,), by the history's name."""
    keep = events.positive if choices.history == "positive" else np.ones(len(events), dtype=bool)
    behaviours = choices.interactions.behaviours
    if behaviours is None:
        return {HISTORY: keep}
    assert events.kinds is not None
    return {
        name: keep & (events.kinds == events.kind_names.index(kind))
        for name, kind in zip(history_names(choices), behaviours, strict=True)
    }
