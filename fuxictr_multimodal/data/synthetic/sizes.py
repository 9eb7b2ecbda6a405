"""Sizes of synthetic data that follow from those of its `synthetic:` block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuxictr_multimodal.data.store.manifest import SPLITS


class DerivedSizes:
    """What follows from the sizes that a subclass has, which `SyntheticSettings` describes."""

    if TYPE_CHECKING:
        rows: int
        valid_rows: int
        test_rows: int
        items: int
        seed: int
        tags: int
        interests: int
        rows_per_user: int
        mean_history: float
        max_len: int

    @property
    def num_tags(self) -> int:
        """Size of the tag vocabulary without padding."""
        return self.tags or max(10, round(self.items * 11_739 / 91_717))

    @property
    def num_interests(self) -> int:
        """Content clusters."""
        return self.interests or max(8, min(400, self.items // 30))

    def rows_of(self, split: str) -> int:
        """Samples of a split."""
        return {"train": self.rows, "valid": self.valid_rows, "test": self.test_rows}[split]

    def users_of(self, split: str) -> int:
        """Users of a split; the last one may have fewer samples."""
        return -(-self.rows_of(split) // self.rows_per_user)

    def first_user(self, split: str) -> int:
        """Id of the first user of a split; ids run on from split to split, so no user is in two."""
        return 1 + sum(self.users_of(name) for name in SPLITS[: SPLITS.index(split)])
