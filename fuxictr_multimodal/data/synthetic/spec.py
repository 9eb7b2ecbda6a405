"""What synthetic data to generate: sizes and a seed, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.errors import ConfigError, did_you_mean

MOST_ROWS = 2**31 - 1
LIMITS = {
    "items": (20, 2**24),
    "seed": (0, 2**63 - 1),
    "tags": (0, 2**24),
    "interests": (0, 2**16),
    "rows_per_user": (1, 1024),
    "max_len": (1, 2**16),
}
EXAMPLES = {"rows": 100_000, "valid_rows": 10_000, "test_rows": 10_000, "items": 3_000}


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What to generate; the `synthetic:` block of a dataset YAML. The same spec gives the same bytes.

    Attributes:
        rows, valid_rows, test_rows: rows of each split.
        items: items without the padding row; ids are 1..items.
        seed: seed of everything.
        tags: size of the tag vocabulary without padding; 0 scales it with `items` (11,739 at 91,717 items).
        interests: content clusters; 0 scales them with `items`.
        rows_per_user: rows that share a user and a history.
        mean_history: mean length of a history, before the cut at `max_len`.
        max_len: history slots.

    Raises:
        ConfigError: naming the key and the value, if a value is out of its range.
    """

    rows: int
    valid_rows: int
    test_rows: int
    items: int
    seed: int = 1
    tags: int = 0
    interests: int = 0
    rows_per_user: int = 4
    mean_history: float = 9.6
    max_len: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            kinds, kind = ((int, float), "number") if name == "mean_history" else ((int,), "whole number")
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ConfigError(f"synthetic: {name} must be a {kind}, found {value!r}")
            least, most = LIMITS.get(name, (1, MOST_ROWS))
            if not least <= value <= most:
                raise ConfigError(f"synthetic: {name} must lie between {least} and {most}, found {value!r}")
        if self.mean_history > self.max_len:
            raise ConfigError(
                f"synthetic: mean_history must not exceed max_len, found {self.mean_history} and {self.max_len}"
            )
        if 2 * self.interests > self.items:
            raise ConfigError(
                f"synthetic: interests must be at most half of items, found {self.interests} and {self.items}"
            )

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
        if not isinstance(block, Mapping):
            raise ConfigError(f"{where}: expected a mapping of settings, found {block!r}")
        known = {field.name: field for field in fields(cls)}
        for key in block:
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}. {did_you_mean(str(key), known)}")
        for name, field in known.items():
            if field.default is MISSING and name not in block:
                raise ConfigError(f"{where}: key {name!r} is missing; write for example {name}: {EXAMPLES[name]}")
        return cls(**block)

    @property
    def num_tags(self) -> int:
        """Size of the tag vocabulary without padding."""
        return self.tags or max(10, round(self.items * 11_739 / 91_717))

    @property
    def num_interests(self) -> int:
        """Content clusters."""
        return self.interests or max(8, min(400, self.items // 30))

    def rows_of(self, split: str) -> int:
        """Rows of a split."""
        return {"train": self.rows, "valid": self.valid_rows, "test": self.test_rows}[split]

    def users_of(self, split: str) -> int:
        """Users of a split; the last one may have fewer rows."""
        return -(-self.rows_of(split) // self.rows_per_user)

    def first_user(self, split: str) -> int:
        """Id of the first user of a split; ids run on from split to split, so no user is in two."""
        return 1 + sum(self.users_of(name) for name in SPLITS[: SPLITS.index(split)])
