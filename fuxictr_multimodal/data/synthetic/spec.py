"""What synthetic data to generate: a checked `synthetic:` block and the sizes that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuxictr_multimodal.config.binder import bind
from fuxictr_multimodal.config.dataset_settings import SyntheticSettings
from fuxictr_multimodal.data.synthetic.sizes import DerivedSizes


class SyntheticSpec(DerivedSizes, SyntheticSettings):
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
