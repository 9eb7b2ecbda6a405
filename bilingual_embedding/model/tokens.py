"""Token ids of many texts without padding, on the host: a table of rows and batches under a token budget.

Symbols: N texts, T tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths, slices

Numbers = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class TokenTable:
    """Rows of tokens, one after the other.

    Attributes:
        ids: (T,) int32.
        words: (T,) int32, the number of a token's word in its text, -1 for special tokens.
        offsets: (N + 1,) int64, row i is `ids[offsets[i]:offsets[i + 1]]`.
        ngrams: hashed character n-grams of the same rows, for encoders that read them.
    """

    ids: NDArray[np.int32]
    words: NDArray[np.int32]
    offsets: NDArray[np.int64]
    ngrams: JaggedArrays | None = None

    @classmethod
    def from_lists(cls, ids: Sequence[Numbers], words: Sequence[Numbers] | None = None) -> TokenTable:
        """Concatenate rows; without `words` every token is its own word.

        >>> table = TokenTable.from_lists([[1, 7, 2], [1, 2]])
        >>> len(table), table.lengths.tolist(), table.row(0).tolist()
        (2, [3, 2], [1, 7, 2])
        """
        words = [np.arange(len(row)) for row in ids] if words is None else words
        empty = np.zeros(0, dtype=np.int32)
        return cls(
            ids=np.concatenate([empty, *ids]).astype(np.int32),
            words=np.concatenate([empty, *words]).astype(np.int32),
            offsets=offsets_from_lengths([len(row) for row in ids]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """Token ids of one row, a view."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> TokenTable:
        """A table of some rows, in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64)
        where, offsets = slices(self.offsets[rows], self.lengths[rows])
        ngrams = None if self.ngrams is None else _rows_of(self.ngrams, rows)
        return TokenTable(ids=self.ids[where], words=self.words[where], offsets=offsets, ngrams=ngrams)

    def places(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the tokens of some rows in the table."""
        rows = np.asarray(rows, dtype=np.int64)
        return slices(self.offsets[rows], self.lengths[rows])[0]

    @classmethod
    def joined(cls, tables: Sequence[TokenTable]) -> TokenTable:
        """All rows of some tables, in order.

        >>> TokenTable.joined([TokenTable.from_lists([[5]]), TokenTable.from_lists([[6, 7]])]).offsets.tolist()
        [0, 1, 3]
        """
        return cls(
            ids=np.concatenate([table.ids for table in tables]),
            words=np.concatenate([table.words for table in tables]),
            offsets=offsets_from_lengths(np.concatenate([table.lengths for table in tables])),
            ngrams=_joined([table.ngrams for table in tables]),
        )

    def windows(self, max_length: int) -> TokenTable:
        """Rows above `max_length` cut into pieces, each with the first and last token of its row around it, no n-grams.

        >>> TokenTable.from_lists([[1, 5, 6, 7, 2], [1, 8, 2]]).windows(4).ids.tolist()
        [1, 5, 6, 2, 1, 7, 2, 1, 8, 2]
        """
        ids: list[Numbers] = []
        words: list[Numbers] = []
        for start, stop in zip(self.offsets, self.offsets[1:], strict=False):
            row, numbers = self.ids[start:stop], self.words[start:stop]
            body = range(1, len(row) - 1, max_length - 2) if len(row) > max_length else range(1)
            for first in body:
                inside = slice(first, min(first + max_length - 2, len(row) - 1)) if len(row) > max_length else None
                pieces = [(x[:1], x[inside], x[-1:]) if inside else (x,) for x in (row, numbers)]
                ids.append(np.concatenate(pieces[0]))
                words.append(np.concatenate(pieces[1]))
        return TokenTable.from_lists(ids, words)


def batches_by_length(lengths: NDArray[np.int64], *, max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers in batches of at most `max_tokens` tokens (or one row), longest rows first.

    The longest come first so that a memory limit is met at once and the progress speeds up, never slows down.

    >>> [batch.tolist() for batch in batches_by_length(np.array([2, 5, 3, 9]), max_tokens=8)]
    [[3], [1, 2], [0]]
    """
    order = np.argsort(-lengths, kind="stable")
    start, tokens = 0, 0
    for place, row in enumerate(order):
        if tokens + lengths[row] > max_tokens and place > start:
            yield order[start:place]
            start, tokens = place, 0
        tokens += lengths[row]
    if start < len(order):
        yield order[start:]


def _rows_of(ngrams: JaggedArrays, rows: NDArray[np.int64]) -> JaggedArrays:
    where, offsets = slices(ngrams.offsets[rows], np.diff(ngrams.offsets)[rows])
    return JaggedArrays(ngrams.values[where], offsets)


def _joined(parts: Sequence[JaggedArrays | None]) -> JaggedArrays | None:
    """The rows of all parts; None where a part has none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    lengths = np.concatenate([np.diff(part.offsets) for part in known])
    return JaggedArrays(np.concatenate([part.values for part in known]), offsets_from_lengths(lengths))
