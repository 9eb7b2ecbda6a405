"""What synthetic data to generate: the settings of a `synthetic:` block and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuxictr_multimodal.config.binder import bind
from fuxictr_multimodal.config.dataset_settings import SyntheticSettings
from fuxictr_multimodal.data.store.manifest import SPLITS


class SyntheticSpec(SyntheticSettings):
    """What to generate. The same spec gives the same bytes."""

    @classmethod
    def from_dict(cls, block: Mapping[str, Any], *, where: str = "synthetic") -> SyntheticSpec:
        """Read a `synthetic:` block.

        Raises:
            ConfigError: an unknown key (nearest named), a missing one, or a value out of range.

        >>> SyntheticSpec.from_dict({"rows": 100, "valid_rows": 50, "itmes": 30})
        Traceback (most recent call last):
            ...
        fuxictr_multimodal.errors.ConfigError: synthetic: unknown key 'itmes'. Did you mean 'items'?
        """
        return bind(cls, block, where)

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
