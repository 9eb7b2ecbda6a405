"""Names that become file names: one rule for expids, run names and dataset ids."""

from __future__ import annotations

import re
from typing import Any

from fuxictr_multimodal.errors import ConfigError

# Separators of any system, what Windows refuses in a file name, what makes a list or a glob of `--expid`, control
# characters, and bytes that are not text.
_REFUSED = re.compile(r'[/\\:*?"<>|,\[\]\x00-\x1f\x7f-\x9f\ud800-\udfff]')
# Devices of Windows, whatever follows the dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DATASET_ID = re.compile(r"\w[\w.-]*")
# File systems allow 255 bytes; the suffixes of a run's files need the rest.
LONGEST_BYTES = 200


def check_plain_name(name: Any, what: str) -> str:
    """Return `name` if it can be a file name of its own on any system; it never leaves the folder it is joined to.

    Args:
        name: the name as it was read; YAML may have read it as a number or a date.
        what: what it names and where it was read, for the error: `expid in config/model_config.yaml`.

    Raises:
        ConfigError: not text, empty, a separator or control character inside, a dot or space at an end, too long, or
            the name of a device.

    >>> check_plain_name("QIN_demo@learning_rate=1e-3", "run name")
    'QIN_demo@learning_rate=1e-3'
    >>> check_plain_name("../x", "run name")
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: run name '../x' holds '/': use letters, digits and _ - . @ = + only
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what} {name!r} is read as {type(name).__name__}, not as text: write it in quotes")
    refused = _REFUSED.search(name)
    if refused:
        raise ConfigError(f"{what} {name!r} holds {refused[0]!r}: use letters, digits and _ - . @ = + only")
    if not name or name != name.strip() or name.startswith(".") or name.endswith("."):
        raise ConfigError(f"{what} {name!r} must not be empty, nor start or end with a dot or a space")
    if _DEVICE.fullmatch(name):
        raise ConfigError(f"{what} {name!r} is a device on Windows: choose another name")
    if len(name.encode()) > LONGEST_BYTES:
        raise ConfigError(f"{what} {name[:40]!r}... is longer than {LONGEST_BYTES} bytes: shorten it")
    return name


def check_dataset_id(name: str) -> str:
    """Return `name` if a dataset can be built under it: a plain name of letters, digits, `_`, `.` and `-`.

    Raises:
        ConfigError: it has other characters, or is no plain name.
    """
    if not _DATASET_ID.fullmatch(name):
        raise ConfigError(f"dataset {name!r}: a dataset_id has letters, digits, _, . and - only")
    return check_plain_name(name, "dataset_id")
