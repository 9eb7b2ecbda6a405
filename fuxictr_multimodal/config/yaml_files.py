"""YAML files to entries: one safe, strict reader that names file and line."""

from __future__ import annotations

import copy
import datetime
import functools
import io
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import yaml

from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.system.untrusted.sizes import check_regular

_FLOAT_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
# Values of one file with its aliases written out: a few lines of nested aliases can stand for billions.
MOST_VALUES = 1_000_000
# Levels of lists and mappings: libyaml overflows the stack of the process at tens of thousands.
MOST_LEVELS = 100
MOST_BYTES = 32 << 20
MOST_INTEGER = 2**63 - 1


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_SafeLoader):
    """Safe YAML that refuses a key written twice in one mapping, where plain YAML keeps the last.

    A null that is replaced further down is no second value: FuxiCTR's own configs begin with such a list of defaults.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, where = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, Hashable):
                raise ConfigError(f"{where.name}, line {where.line + 1}: a key must be a name, found {key!r}")
            if key in seen:
                raise ConfigError(f"{where.name}, line {where.line + 1}: key {key!r} is written twice; keep one")
            if value_node.tag != "tag:yaml.org,2002:null":
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; refuse double keys, dates, and floats that YAML 1.1 reads as text (`1e-3`).

    Raises:
        ConfigError: naming the file and the line or key.
    """
    return copy.deepcopy(_shared_yaml(path))


def read_entries(files: Iterable[Path], what: str) -> dict[str, dict[str, Any]]:
    """Read all top-level entries of YAML files, each id in one of them only; callers must not change the result.

    Args:
        files: in the order of the entries.
        what: the ids are of, for the error: `expid`.

    Raises:
        ConfigError: an id that is not a plain name or is in two files, or an entry that is not a mapping.
    """
    entries: dict[str, dict[str, Any]] = {}
    origin: dict[str, Path] = {}
    for path in files:
        for name, entry in _shared_yaml(path).items():
            check_plain_name(name, f"{path}: {what}")
            if name in entries:
                raise ConfigError(f"{name!r} is defined in {origin[name]} and in {path}: keep one of them")
            if not isinstance(entry, dict):
                raise ConfigError(f"{path}: {name!r} must be a mapping of settings, found {entry!r}")
            entries[name], origin[name] = entry, path
    return entries


def experiment_names(entries: Iterable[str]) -> list[str]:
    """Names of the experiments among entries, sorted: all but `Base`."""
    return sorted(name for name in entries if name != "Base")


def check_expid(expid: str, entries: Iterable[str], where: Path | str) -> None:
    """Refuse an expid that has no entry, and name the nearest.

    Raises:
        ConfigError: for `Base` too, which is not an experiment.
    """
    if expid not in (known := experiment_names(entries)):
        raise ConfigError(f"expid {expid!r} is not in {where}. {did_you_mean(expid, known)}")


def is_number_as_text(text: str) -> bool:
    """Whether a text is one that entries refuse, quoted too: a number that YAML 1.1 takes for text.

    >>> is_number_as_text("1e3"), is_number_as_text("e3")
    (True, False)
    """
    return _FLOAT_AS_TEXT.fullmatch(text) is not None


def parse_value(text: str, where: str) -> Any:
    """Read a value of the command line as YAML; `1e-3` is a number, since there it cannot be meant as text.

    Raises:
        ConfigError: text that is not YAML, or a date.
    """
    if _FLOAT_AS_TEXT.fullmatch(text):
        return float(text)
    try:
        stream = io.StringIO(text)
        stream.name = where
        parsed = _content(stream, where)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: the value is not valid YAML") from None
    _check_scalars(parsed, where)
    return parsed


def _shared_yaml(path: Path) -> dict[str, Any]:
    """`read_yaml` without its own copy: callers must not change the result."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return _parsed(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, version: tuple[int, ...]) -> dict[str, Any]:
    """The content of a file; `version` tells a changed file from the one that was read before."""
    try:
        if (size := check_regular(path)) > MOST_BYTES:
            raise ConfigError(f"{path} has {size:,} bytes; a configuration may have {MOST_BYTES:,}")
        with path.open(encoding="utf-8-sig") as file:
            content = _content(file, str(path))
    except InputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    # A date or number that cannot be, such as 2025-13-01, is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of ids to settings, found {type(content).__name__}")
    _check_scalars(content, str(path))
    return content


def _content(file: TextIO, where: str) -> Any:
    """The content of a stream that can be read twice."""
    if any(depth > MOST_LEVELS for depth in _depths(file)):
        raise ConfigError(f"{where}: lists and mappings are nested deeper than {MOST_LEVELS} levels")
    file.seek(0)
    loader = _StrictLoader(file)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _depths(file: TextIO) -> Iterator[int]:
    """How many lists and mappings are open, after each event of a YAML stream; nothing is built of it."""
    events = yaml.parse(file, Loader=_StrictLoader)
    steps = (isinstance(e, yaml.CollectionStartEvent) - isinstance(e, yaml.CollectionEndEvent) for e in events)
    return itertools.accumulate(steps)


def _check_scalars(value: Any, where: str) -> None:
    """Refuse what YAML reads as something else than it looks like (`1e-3` as text), and what JSON has not.

    Args:
        value: what was read.
        where: for the error.

    Raises:
        ConfigError: for these, a value that holds itself, and one that aliases blow up.
    """
    left = iter(range(MOST_VALUES))
    for inner, inside in _walk(value, where, ()):
        if next(left, None) is None:
            raise ConfigError(f"{where}: with its aliases written out it holds more than {MOST_VALUES:,} values")
        if isinstance(inner, datetime.date):
            raise ConfigError(f"{inside}: YAML reads {inner} as a date: write it in quotes")
        if inner is not None and not isinstance(inner, bool | int | float | str | list | dict):
            raise ConfigError(f"{inside}: YAML reads it as {type(inner).__name__}: write a number, a text or a list")
        if isinstance(inner, int) and not -MOST_INTEGER <= inner <= MOST_INTEGER:
            raise ConfigError(
                f"{inside}: a whole number of more than 64 bits: write a smaller one, or a text in quotes"
            )
        if isinstance(inner, str) and _FLOAT_AS_TEXT.fullmatch(inner):
            mantissa, exponent = re.split("[eE]", inner)
            # YAML 1.1 wants a dot, and the sign of the exponent: 1.e3 is text, 1.e+3 is a number.
            number = f"{mantissa}{'' if '.' in mantissa else '.'}e{'+' if exponent[0].isdigit() else ''}{exponent}"
            raise ConfigError(f"{inside}: YAML 1.1 reads {inner} as text, not as a number; write {number}")


def _walk(value: Any, where: str, around: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    """All values inside a value, each with its place; `around` are the lists and mappings that hold it."""
    yield value, where
    if not isinstance(value, dict | list):
        return
    if any(value is outer for outer in around):
        raise ConfigError(f"{where}: a list or mapping holds itself: write its values out")
    for key in value if isinstance(value, dict) else ():
        # Names of entries are checked as names.
        if around and (isinstance(key, bool) or not isinstance(key, str | int | float)):
            raise ConfigError(f"{where}: a key is read as {key!r}, not as text: write it in quotes")
    for key, inner in value.items() if isinstance(value, dict) else ((None, inner) for inner in value):
        yield from _walk(inner, where if key is None else f"{where}: {key}", (*around, value))
