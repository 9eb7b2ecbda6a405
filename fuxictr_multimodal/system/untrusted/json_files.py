"""JSON that somebody else wrote: no constants beside the standard, no key twice, bounded depth and size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fuxictr_multimodal.system.untrusted.sizes import check_regular, check_size

# Python objects take about this many times the bytes of their JSON.
OBJECT_RATIO = 10


def parse_json(text: str | bytes) -> Any:
    """Read JSON text.

    Raises:
        ValueError: it is not JSON; NaN, Infinity or a number beyond float64; a key twice in one object; nested too
            deeply.

    >>> parse_json('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_file(path: Path) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        ValueError: as `parse_json`; DataError, which is one, where the file is no regular one or too large.
        OSError: it cannot be read.
    """
    size = check_regular(path)
    check_size(str(path), OBJECT_RATIO * size, size)
    return parse_json(path.read_text(encoding="utf-8"))


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!r} is written twice")
    return found
