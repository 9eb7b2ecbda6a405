"""Named sources for training and evaluation: texts by language, pairs, triplets and scored pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import ConfigError

# As two letters, and as three, which benchmarks write.
ENGLISH = ("en", "eng")


@dataclass(frozen=True)
class Pairs:
    """Row i on the left means what row i on the right means; `negatives[i]`, if any, look alike but do not."""

    left: list[str]
    right: list[str]
    negatives: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: Sequence[int]) -> Pairs:
        """Some rows, in the given order."""
        negatives = None if self.negatives is None else [self.negatives[i] for i in rows]
        return Pairs([self.left[i] for i in rows], [self.right[i] for i in rows], negatives)


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs with a human score of their likeness from 0 to 1."""

    left: list[str]
    right: list[str]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: Sequence[int]) -> ScoredPairs:
        """Some rows, in the given order."""
        return ScoredPairs([self.left[i] for i in rows], [self.right[i] for i in rows], self.score[list(rows)])


@dataclass(frozen=True)
class Source:
    """One named source: its texts by language, and pairs or scored pairs where the format has them."""

    name: str
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    pairs: Pairs | None = None
    scored: ScoredPairs | None = None

    def need_pairs(self) -> Pairs:
        """The pairs.

        Raises:
            ConfigError: if the source has none.
        """
        if self.pairs is None:
            raise ConfigError(f"source {self.name!r} has no pairs: choose a source with pairs")
        return self.pairs

    def need_scored(self) -> ScoredPairs:
        """The scored pairs.

        Raises:
            ConfigError: if the source has none.
        """
        if self.scored is None:
            raise ConfigError(f"source {self.name!r} has no scored pairs: choose a source with scored pairs")
        return self.scored
