"""Errors that a user can act on, and the nearest-name hint that goes with them."""

import difflib
from collections.abc import Iterable, Mapping


class InputError(ValueError):
    """The user's input is wrong.

    The message is one sentence or two: it names the file, column, row, key or value, and what to do.
    Commands print it without a traceback and exit with status 2.
    """


class ConfigError(InputError):
    """A YAML file, an expid, a key or a value of a configuration is wrong."""


class DataError(InputError):
    """A raw file, a dataset on disk or a value in it is wrong."""


class Unwritable(DataError, OSError):
    """A file cannot be written: the disk is full, a quota is reached, the place is read-only, or the disk fails.

    Attributes:
        strerror: the reason alone, as the system says it.
    """

    # As `OSError` it would print a number and no file.
    __str__ = Exception.__str__


class TrainingDiverged(InputError):
    """The loss or a score is not finite; the best checkpoint, and earlier stages, are untouched."""


class RankLost(InputError):
    """Another process that trains the same model has ended, or does not answer; what was saved is kept."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or nothing where none is near.

    >>> nearest("learning_rte", ["learning_rate", "epochs"]), nearest("zzz", ["b", "a"])
    ("Did you mean 'learning_rate'?", '')
    """
    names = sorted(set(known))
    name = str(name)
    near = [other for other in names if other.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or the list of known names if none is near.

    >>> did_you_mean("gauc", ["AUC", "gAUC"])
    "Did you mean 'gAUC'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'Known: a, b.'
    """
    names = sorted(set(known))
    return nearest(name, names) or (f"Known: {', '.join(names)}." if names else "")


def check_removed(given: Iterable[str], removed: Mapping[str, str], where: str) -> None:
    """Refuse a setting that earlier versions had.

    Args:
        given: names of settings.
        removed: names that are no longer settings, each with the reason and what to do.
        where: file and entry, for the error.

    Raises:
        ConfigError: naming the setting.

    >>> check_removed({"speed": 2}, {"speed": "it has no effect: leave it out"}, "expid 'a'")
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: expid 'a': the setting 'speed' was removed: it has no effect: leave it out
    """
    for name in given:
        if name in removed:
            raise ConfigError(f"{where}: the setting {name!r} was removed: {removed[name]}")
