"""Synthetic multimodal CTR data whose click probability is a known rule.

The names load at first use: the rule and the rows need numpy alone, the dataset and its settings much more.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuxictr_multimodal.data.synthetic.dataset import build_from_config, build_synthetic, spec_of
    from fuxictr_multimodal.data.synthetic.rows import Block, blocks
    from fuxictr_multimodal.data.synthetic.rule import click_probability
    from fuxictr_multimodal.data.synthetic.spec import SyntheticSpec
    from fuxictr_multimodal.data.synthetic.world import World, make_world

__all__ = [
    "Block",
    "SyntheticSpec",
    "World",
    "blocks",
    "build_from_config",
    "build_synthetic",
    "click_probability",
    "make_world",
    "spec_of",
]
_MODULES = {
    "dataset": ("build_from_config", "build_synthetic", "spec_of"),
    "rows": ("Block", "blocks"),
    "rule": ("click_probability",),
    "spec": ("SyntheticSpec",),
    "world": ("World", "make_world"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
