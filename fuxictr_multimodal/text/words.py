"""Words of any script: letters with their marks, and numbers, where the `re` of Python cuts a word at a vowel sign."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

# Unicode's Default_Ignorable_Code_Point: soft hyphens, joiners, direction marks, variation selectors, fillers.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def drop_invisible(text: str) -> str:
    """The text without characters that show nothing, so that texts which look the same are the same.

    >>> drop_invisible("Schiff\\u00adfahrt")
    'Schifffahrt'
    """
    return _INVISIBLE.sub("", text)


@functools.cache
def word_characters() -> str:
    r"""What stands between `[` and `]` in a pattern of one character of a word: `\w` and all marks.

    >>> re.findall(f"[{word_characters()}]+", "दिन, naïve_1!")
    ['दिन', 'naïve_1']
    """
    marks = (code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M"))
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return r"\w" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
