"""Errors that a user can act on, and the nearest-name hint that goes with them."""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator

from fuxictr_multimodal.text.escape import visible


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one sentence or two: it names the file, column, row, key or value, and what to do.
    Commands print it without a traceback and exit with status 2.
    """


class ConfigError(InputError):
    """A YAML file, an expid, a key or a value of a configuration is wrong."""


class DataError(InputError):
    """A raw file, a dataset on disk or a value in it is wrong."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or nothing where none is near.

    >>> nearest("learning_rte", ["learning_rate", "epochs"]), nearest("zzz", ["b", "a"])
    ("Did you mean 'learning_rate'?", '')
    """
    names = sorted(set(known))
    near = [other for other in names if other.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or the list of known names where none is near.

    >>> did_you_mean("gauc", ["AUC", "gAUC"])
    "Did you mean 'gAUC'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'Known: a, b.'
    """
    names = sorted(set(known))
    return nearest(name, names) or (f"Known: {', '.join(names)}." if names else "")


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turn an `InputError` into one line on stderr and exit status 2; let every other error speak in full."""
    try:
        yield
    except InputError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
