"""Titles and tags of synthetic items: made-up words, so that an item's text says what its content is."""

from __future__ import annotations

import numpy as np

from fuxictr_multimodal.data.synthetic.spec import SyntheticSpec
from fuxictr_multimodal.data.synthetic.world import World, generator

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
WORDS_PER_CLUSTER = 20
COMMON_WORDS = 500
TITLE_WORDS = 5
OWN_WORD_SHARE = 0.6
# The parts of a generator's key that are not splits and blocks.
TEXT_KEY = 4


def word(number: int) -> str:
    """A pronounceable word of at least two syllables; other numbers give other words.

    >>> [word(n) for n in (0, 1, 70, 4900)]
    ['baba', 'daba', 'bada', 'babada']
    """
    syllables = ""
    while number or len(syllables) < 4:
        number, syllable = divmod(number, len(CONSONANTS) * len(VOWELS))
        syllables += CONSONANTS[syllable % len(CONSONANTS)] + VOWELS[syllable // len(CONSONANTS)]
    return syllables


def topic(cluster: int) -> str:
    """Name of a content cluster."""
    return word(cluster).capitalize()


def make_titles(spec: SyntheticSpec, world: World) -> list[str]:
    """A title of each item, "" for padding: words of its cluster and common ones, then its tags as hashtags."""
    rng = generator(spec, TEXT_KEY)
    shape = (spec.items, TITLE_WORDS)
    first_common = spec.num_interests
    first_own = first_common + COMMON_WORDS + world.cluster[1:, None] * WORDS_PER_CLUSTER
    words = np.where(
        rng.random(shape) < OWN_WORD_SHARE,
        first_own + rng.integers(WORDS_PER_CLUSTER, size=shape),
        first_common + rng.integers(COMMON_WORDS, size=shape),
    )
    lengths = rng.integers(2, TITLE_WORDS + 1, size=spec.items)
    titles = [""]
    for numbers, length, tags in zip(words.tolist(), lengths.tolist(), world.tags[1:].tolist(), strict=True):
        hashtags = [f"#{word(tag)}" for tag in tags if tag]
        titles.append(" ".join([*map(word, numbers[:length]), *hashtags]).capitalize())
    return titles
