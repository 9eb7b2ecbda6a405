"""Errors of ranking that a caller can act on, and the nearest-name hint that goes with them."""

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """A request or an item that a caller gave is wrong; the message is one sentence that names what."""


class FolderError(ValueError):
    """An exported folder is missing, damaged or of another form, or its model is at fault; one sentence says how."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """End of a sentence with the nearest known name, or with all of them where none is near.

    >>> did_you_mean("huor", ["hour", "user_id"]), did_you_mean("zzz", ["b", "a"]), did_you_mean("zzz", [])
    ("; did you mean 'hour'?", '; known are a, b', '')
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) if isinstance(name, str) else []
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(names)}" if names else ""
