"""What the caller of a build promises about its splits, checked on the finished files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.id_columns import IdColumns
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Promises:
    """Splits that share no user, or that follow each other in time.

    Attributes:
        disjoint: columns of which no value may occur in two splits.
        ordered_by: meta column of times: no row may be older than one of an earlier split.
        ordered_within: compare times only within each value of this column.
    """

    disjoint: Sequence[str]
    ordered_by: str | None
    ordered_within: str | None

    def check(self, paths: Mapping[str, Path], ids: IdColumns, *, where: str) -> None:
        """Refuse splits that break a promise.

        Args:
            paths: the finished splits, in order.
            ids: what codes stand for, for messages.
            where: the dataset, for messages.

        Raises:
            DataError: a promise is broken, or names what is not a column.
        """
        with contextlib.ExitStack() as stack:
            readers = {split: stack.enter_context(SplitReader(path)) for split, path in paths.items()}
            columns = {name: column for name, column in readers["train"].columns.items() if not column.shape}
            for name in (*self.disjoint, *filter(None, [self.ordered_by, self.ordered_within])):
                if name not in columns:
                    raise DataError(f"{where}: {name!r} is not a column of the splits. {did_you_mean(name, columns)}")
            if self.ordered_by is not None and columns[self.ordered_by].role != "meta":
                raise DataError(f"{where}: ordered_by {self.ordered_by!r} must be a meta column")
            for name in self.disjoint:
                validation.check_disjoint(readers, name, ids.get(name))
            if self.ordered_by is not None:
                within = self.ordered_within
                validation.check_ordered(readers, self.ordered_by, within, ids.get(within))
