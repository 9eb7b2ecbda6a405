"""Remove evaluation texts and duplicates from training sources, and count both.

Texts are compared by `key`: letters, marks and numbers only, case folded: a full stop or a capital hides nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bilingual_embedding.data.texts import Source
from fuxictr_multimodal.text.words import drop_invisible, word_characters


def key(text: str) -> str:
    """The form in which two texts count as the same.

    Letters, marks (vowel signs, accents) and numbers stay. Case, punctuation, symbols, invisible characters, and the
    way a character is composed do not count.

    >>> key("A man is  singing!") == key("a MAN is singing.")
    True
    >>> key("दिन") == key("दीन")
    False
    """
    folded = unicodedata.normalize("NFKC", drop_invisible(text)).casefold()
    # Folding decomposes some letters. It also leaves a second dot on the i that comes of a capital with a dot.
    folded = unicodedata.normalize("NFKC", folded).replace("i\u0307", "i")
    return _between_words().sub(" ", folded).strip()


@functools.cache
def _between_words() -> re.Pattern[str]:
    return re.compile(f"(?:[^{word_characters()}]|_)+")


def keys(texts: Iterable[str]) -> set[str]:
    """Keys of many texts, the empty one left out."""
    return {key(text) for text in texts} - {""}


@dataclass
class Counts:
    """Row counts of one kind of one source: read, dropped by reason, kept."""

    read: int = 0
    empty: int = 0
    contaminated: int = 0
    duplicates: int = 0
    kept: int = 0


def clean(source: Source, forbidden: set[str]) -> tuple[Source, dict[str, Counts]]:
    """Drop rows with an empty text, with a text of `forbidden`, or that are duplicates; in this order.

    Returns:
        The source and counts by kind: `pairs`, `scored`, `texts.<language>`. Texts longer than a sentence are dropped
        when they are forbidden as a whole, not when they quote one.
    """
    counts: dict[str, Counts] = {}
    texts = {}
    for language, column in source.texts.items():
        rows, counts[f"texts.{language}"] = _kept([column], forbidden)
        texts[language] = [column[i] for i in rows]
    pairs, scored = source.pairs, source.scored
    if pairs is not None:
        # Hard negatives are trained on too: any number of columns is checked.
        negatives = list(zip(*pairs.negatives, strict=True)) if pairs.negatives else []
        rows, counts["pairs"] = _kept([pairs.left, pairs.right, *negatives], forbidden, identity=2)
        pairs = pairs.take(rows)
    if scored is not None:
        rows, counts["scored"] = _kept([scored.left, scored.right], forbidden)
        scored = scored.take(rows)
    return Source(source.name, texts, pairs, scored), counts


def _kept(
    columns: Sequence[Sequence[str]], forbidden: set[str], *, identity: int | None = None
) -> tuple[list[int], Counts]:
    """Rows to keep; the first `identity` columns (all by default) define a duplicate."""
    counts = Counts(read=len(columns[0]))
    seen: set[tuple[str, ...]] = set()
    rows = []
    for number, row in enumerate(zip(*columns, strict=True)):
        found = tuple(key(text) for text in row)
        if not all(found):
            counts.empty += 1
        elif not forbidden.isdisjoint(found):
            counts.contaminated += 1
        elif found[:identity] in seen:
            counts.duplicates += 1
        else:
            seen.add(found[:identity])
            rows.append(number)
    counts.kept = len(rows)
    return rows, counts
