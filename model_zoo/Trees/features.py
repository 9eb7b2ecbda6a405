"""Hand features of samples: their columns, and what train says of them, in groups that can be left out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model_zoo.Trees import history_features
from model_zoo.Trees.click_rates import ClickRates, fitting
from model_zoo.Trees.hashing import fold_of
from model_zoo.Trees.histories import Histories
from model_zoo.Trees.history_features import Feature
from model_zoo.Trees.samples import Items, Samples, Specs

Group = Literal["columns", "history", "similarity", "overlap", "counts", "cooccurrence", "rates"]
GROUPS = get_args(Group)
# A tree of scikit-learn tells 255 values of a feature apart; codes of more values are read as click rates.
MOST_CODES = 255
# No name of a column.
TARGET = "@target"


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset by how the trees read them.

    Attributes:
        codes: context columns of few categories, read as they are.
        numbers: numeric context columns.
        sequences: context columns of several values, read by their number.
        rated: context columns of many categories, read as click rates.
        item_codes: features of the item of few categories.
        item_tags: features of the item of several values, read by their number.
        rated_items: features of the item of many categories.
    """

    codes: tuple[str, ...]
    numbers: tuple[str, ...]
    sequences: tuple[str, ...]
    rated: tuple[str, ...]
    item_codes: tuple[str, ...]
    item_tags: tuple[str, ...]
    rated_items: tuple[str, ...]

    @classmethod
    def of(cls, specs: Specs, items: Items) -> Columns:
        """Sort the features of a feature map."""

        def named(kind: str, *, of_items: bool = False, many: bool = False) -> tuple[str, ...]:
            return tuple(
                name
                for name, spec in specs.items()
                if spec["type"] == kind
                and (name in items.codes if of_items else spec.get("source") != "item")
                and (kind != "categorical" or (spec["vocab_size"] > MOST_CODES) == many)
            )

        if left_out := named("embedding"):
            logging.info("The trees leave out embeddings that are no feature of items: %s", ", ".join(left_out))
        return cls(
            codes=named("categorical"),
            numbers=named("numeric"),
            sequences=named("sequence"),
            rated=named("categorical", many=True),
            item_codes=named("categorical", of_items=True),
            item_tags=named("sequence", of_items=True),
            rated_items=named("categorical", of_items=True, many=True),
        )

    def folds(self, samples: Samples) -> NDArray:
        """The fold of each sample of train for click rates, (B,): by all of it but its label."""
        assert samples.user is not None, "samples of train have a user"
        return fold_of(samples.user, samples.target, *(samples.columns[name] for name in self.codes + self.rated))

    def plain(self, samples: Samples, items: Items) -> Iterator[Feature]:
        """The columns that are read as they are."""
        for name in (*self.codes, *self.numbers):
            yield name, samples.columns[name]
        for name in self.sequences:
            yield f"{name}_number", np.count_nonzero(samples.columns[name], axis=1)
        for name in self.item_codes:
            yield name, items.codes[name][samples.target, 0]
        for name in self.item_tags:
            yield f"{name}_number", np.count_nonzero(items.codes[name][samples.target], axis=1)

    def categories(self, samples: Samples, items: Items) -> Iterator[Feature]:
        """The columns that may be read as click rates: those of many categories, and the target."""
        if items.number > 1:
            yield TARGET, samples.target
        for name in self.rated:
            yield name, samples.columns[name]
        for name in self.rated_items:
            yield name, items.codes[name][samples.target, 0]


@dataclass(frozen=True)
class HandFeatures:
    """The features of samples of any split, by what train says.

    What a sample of train reads of train depends neither on its label nor on the histories of its user: counts of
    histories are those of other users (`histories.py`), click rates those of other samples (`click_rates.py`).

    Attributes:
        columns: how they are read.
        items: features of the items.
        histories: counts of train, or None where the dataset has no histories.
        rates: of train, by column.
        without: groups that are left out.
        names: of the features, in the order of the columns of the matrix.
    """

    columns: Columns
    items: Items
    histories: Histories | None
    rates: Mapping[str, ClickRates]
    without: frozenset[str]
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        specs: Specs,
        items: Items,
        train: Iterable[tuple[Samples, NDArray]],
        valid: Iterable[Samples],
        *,
        without: Iterable[str] = (),
    ) -> HandFeatures:
        """Read train once.

        Args:
            specs: of the feature map, without meta columns.
            items: features of the items.
            train: samples with their labels.
            valid: decides, without labels, which click rates are known of enough samples.
            without: groups that are left out.
        """
        columns = Columns.of(specs, items)
        first: list[Samples] = []
        labels: list[NDArray] = []
        folds: list[NDArray] = []
        values: dict[str, list[NDArray]] = {}

        def read() -> Iterator[Samples]:
            for samples, label in train:
                if not first:
                    first.append(samples)
                labels.append(label)
                folds.append(columns.folds(samples))
                for name, column in columns.categories(samples, items):
                    values.setdefault(name, []).append(column.astype(np.int64))
                yield samples

        left_out = frozenset(without)
        histories = None
        if items.number > 1:
            histories = Histories.of(read(), items.number)
            if not len(histories.users):
                histories = None
        else:
            for _ in read():
                pass
        rates: dict[str, ClickRates] = {}
        if "rates" not in left_out:
            label, fold = np.concatenate(labels), np.concatenate(folds)
            found = {name: ClickRates.of(np.concatenate(parts), label, fold) for name, parts in values.items()}
            checked: dict[str, list[NDArray]] = {name: [] for name in found}
            for samples in valid:
                for name, column in columns.categories(samples, items):
                    checked[name].append(column)
            valid_values = {name: np.concatenate(parts) for name, parts in checked.items()}
            rates = fitting(found, valid_values, of_context=columns.rated)
            logging.info("Click rates are read of: %s", ", ".join(rates) or "no column")
        unnamed = cls(columns, items, histories, rates, left_out)
        return replace(unnamed, names=tuple(name for _, (name, _) in unnamed.features(first[0])))

    def features(self, samples: Samples) -> Iterator[tuple[str, Feature]]:
        """Group, name and values (B,) of each feature."""
        of_group = {
            "columns": lambda: self.columns.plain(samples, self.items),
            "rates": lambda: self._click_rates(samples),
        }
        if self.histories is not None:
            counted = self.histories
            of_group |= {
                "history": lambda: history_features.of_history(samples),
                "similarity": lambda: history_features.similarities(samples, self.items),
                "overlap": lambda: history_features.overlaps(samples, self.items),
                "counts": lambda: history_features.counts(samples, counted),
                "cooccurrence": lambda: history_features.cooccurrence(samples, counted),
            }
        for group in GROUPS:
            if group in of_group and group not in self.without:
                yield from zip(itertools.repeat(group), of_group[group]())

    def matrix(self, samples: Samples) -> NDArray[np.float32]:
        """All features, (B, features); NaN where one is not defined."""
        columns = [np.asarray(values, np.float32) for _, (_, values) in self.features(samples)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(samples), 0), np.float32)

    def _click_rates(self, samples: Samples) -> Iterator[Feature]:
        folds = None if samples.user is None else self.columns.folds(samples)
        for name, values in self.columns.categories(samples, self.items):
            if name in self.rates:
                rate, shown = self.rates[name].rates(values, folds)
                yield f"{name}_click_rate", rate
                yield f"{name}_samples", np.log1p(shown)
