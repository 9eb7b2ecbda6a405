"""Synthetic multimodal CTR data whose click probability is a known rule."""

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
