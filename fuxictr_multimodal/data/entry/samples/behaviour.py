"""Training histories of ready samples, for item columns that behaviour makes, and the fold of each sample's user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import MAX_LEN, Entry
from fuxictr_multimodal.data.entry.samples.histories import JaggedIds
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourValues
from fuxictr_multimodal.data.recipes.user_events import LongestHistories, UserEvents
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.manifest import FOLD_COL
from fuxictr_multimodal.errors import DataError


@dataclass(frozen=True)
class UserFolds:
    """The fold of each user.

    Attributes:
        column: of the samples that names the user.
        users: that have a fold.
        folds: of each of them, and 0 at the end, for all others, (users + 1,).
    """

    column: str
    users: IdMap
    folds: NDArray[np.uint8]

    def of(self, chunk: pl.DataFrame) -> dict[str, NDArray[np.uint8]]:
        """The column of the fold, (rows,)."""
        # An unknown user has the code -1.
        return {FOLD_COL: self.folds[self.users.codes(chunk[self.column])]}


class SampleBehaviour:
    """Collects what training users did, in the first pass over the samples.

    Args:
        entry: says which columns behaviour makes, and who a sample's user is.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._asked = entry.columns.by_behaviour(entry.where)
        self._longest = LongestHistories()
        # The items of all samples are numbered after the pass.
        self._items: IdMap | None = None

    @property
    def columns(self) -> list[str]:
        """Columns that are read for it."""
        return [self._entry.user_col] if self._asked else []

    def add(
        self,
        chunk: pl.DataFrame,
        targets: pl.Series,
        histories: Mapping[str, JaggedIds],
        rows: NDArray | None,
        *,
        where: str,
        first_row: int,
    ) -> None:
        """Add the training samples among some: those of `rows`, all of them where that is None.

        Args:
            chunk: the samples.
            targets: their items.
            histories: theirs.
            rows: places of training samples among them.
            where: the table, for messages.
            first_row: row of the table that the samples begin with.

        Raises:
            DataError: a training sample has no user, so that its fold is not known.
        """
        if not self._asked:
            return
        history = next(iter(histories.values()))
        self._items = IdMap.of(history.ids) if self._items is None else self._items.extended(history.ids)
        history = history.coded(self._items)
        users, codes = chunk[self._entry.user_col], self._items.codes(targets)
        if rows is not None:
            history, users, codes = replace(history, raw={}).take(rows), users.gather(rows), codes[rows]
        if users.null_count():
            place = int(users.is_null().arg_max() or 0)
            row = first_row + (place if rows is None else int(rows[place]))
            raise DataError(
                f"{where}: column {users.name!r}, row {row} (counted from 0): the training sample has no user, but "
                f"{', '.join(map(repr, self._asked.settings))} (item_vectors) must not tell a user its own targets: "
                "remove such samples, or leave the column out"
            )
        self._longest.add(users, history.codes, history.offsets, codes)

    def add_held_out(self, chunk: pl.DataFrame, targets: pl.Series, rows: NDArray | None) -> None:
        """Add the samples of valid or test among some, so that none of them reads its own target."""
        if not self._asked:
            return
        users = chunk[self._entry.user_col]
        if rows is not None:
            users, targets = users.gather(rows), targets.gather(rows)
        self._items = IdMap.of(targets) if self._items is None else self._items.extended(targets)
        self._longest.add_held_out(users, self._items.codes(targets))

    def make(self, ids: IdMap) -> tuple[BehaviourValues, UserFolds | None]:
        """The values of the columns for all items, and the folds where samples need them.

        Raises:
            DataError: there are no pairs of items.
        """
        max_len = self._entry.settings.max_len or MAX_LEN
        made = self._asked.make(lambda: self._counted(ids), items=len(ids), max_len=max_len)
        if not made.folds:
            return made, None
        users = IdMap.of(pl.Series(list(made.fold_of_user)))
        return made, UserFolds(self._entry.user_col, users, np.array([*made.fold_of_user.values(), 0], dtype=np.uint8))

    def _counted(self, ids: IdMap) -> UserEvents:
        """What training users did, with the items as these ids number them."""
        counted = self._longest.events()
        if self._items is None:
            return counted
        return replace(counted, items=ids.codes(self._items.ids)[counted.items].astype(np.int32))
