"""Item columns that are computed from behaviour: which ones a dataset's entry asks for, and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.recipes.cooccurrence import FOLDS, cooccurrence_vectors
from fuxictr_multimodal.data.recipes.user_events import UserEvents
from fuxictr_multimodal.data.store.manifest import FOLD_COL
from fuxictr_multimodal.errors import ConfigError

# Keys of a column that say how it is made; on disk it is made already.
KEYS = ("item_vectors", "window", "folds")
WIDTH = 64


@dataclass(frozen=True)
class BehaviourValues:
    """Values of the columns.

    Attributes:
        columns: (N, D) by name.
        folds: blocks 1 to K of the same, (N, K, D) by name; empty where one block serves all samples.
        facts: for the manifest, by name.
        fold_of_user: the fold of each counted user by its id; empty without folds.
    """

    columns: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    folds: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    fold_of_user: dict[Any, int] = field(default_factory=dict)

    def fold_column(self, users: Iterable[Any]) -> dict[str, NDArray[np.uint8]]:
        """The column of a split with the fold of each row's user, 0 for one that was not counted; none without folds.

        Args:
            users: the id of each row's user, (rows,).
        """
        if not self.folds:
            return {}
        return {FOLD_COL: np.fromiter((self.fold_of_user.get(user, 0) for user in users), dtype=np.uint8)}


@dataclass(frozen=True)
class BehaviourColumns:
    """The columns of an entry with `item_vectors`.

    Attributes:
        settings: keys of each column by its name: `pretrain_dim`, and `window` where it is set.
        folds: K of all of them.
        where: the dataset, for messages.
    """

    settings: Mapping[str, Mapping[str, Any]]
    folds: int
    where: str

    @classmethod
    def of(cls, columns: Sequence[dict[str, Any]], where: str) -> BehaviourColumns:
        """Take the keys off the columns of an entry, which are complete and checked.

        Raises:
            ConfigError: two columns have different numbers of folds.
        """
        settings: dict[str, dict[str, Any]] = {}
        for column in columns:
            taken = {key: column.pop(key) for key in KEYS if key in column}
            if taken:
                settings[column["name"]] = taken | {"pretrain_dim": column.setdefault("pretrain_dim", WIDTH)}
        return cls.of_settings(settings, where)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Mapping[str, Any]], where: str) -> BehaviourColumns:
        """See `of`."""
        folds = {taken.get("folds", FOLDS) for taken in settings.values()}
        if len(folds) > 1:
            raise ConfigError(
                f"{where}: columns {', '.join(map(repr, settings))} have different `folds`, but a sample has one fold: "
                "set the same number"
            )
        return cls(settings, folds.pop() if folds else FOLDS, where)

    def __contains__(self, name: object) -> bool:
        return name in self.settings

    def __bool__(self) -> bool:
        return bool(self.settings)

    def make(self, counted: Callable[[], UserEvents], *, items: int, max_len: int) -> BehaviourValues:
        """The values of all columns; without any, none, and nothing is counted.

        Args:
            counted: gives what training users did.
            items: rows of the item table, N.
            max_len: events of a history; without a `window`, pairs that one history can hold are counted.

        Raises:
            DataError: there are no pairs, or of users of one fold alone.
        """
        made = BehaviourValues()
        if not self.settings:
            return made
        events = counted()
        for name, settings in self.settings.items():
            found = cooccurrence_vectors(
                events,
                items=items,
                dim=settings["pretrain_dim"],
                max_len=max_len,
                window=settings.get("window"),
                folds=self.folds,
                where=f"{self.where}: column {name!r}",
            )
            made.columns[name], made.facts[name] = found.vectors, found.metadata
            if found.folds is not None:
                made.folds[name] = found.folds
                made.fold_of_user.update(zip(events.users, found.fold_of_user.tolist(), strict=True))
        return made
