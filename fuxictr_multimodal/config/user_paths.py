"""Paths as users write them, in YAML, in `--set` and on the command line: `~` is the home folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from fuxictr_multimodal.errors import ConfigError

# What file systems allow: bytes of one name, and of a whole path.
LONGEST_NAME, LONGEST_PATH = 255, 4095


def user_path(text: Any) -> Path:
    """Read a path; a shell leaves the `~` of `--out=~/x` and of a YAML value as it is.

    Raises:
        ConfigError: no text, `~name` of a user whom this machine does not have, a NUL character, or a name that no file
            system holds.

    >>> user_path("~/x").is_absolute(), user_path("data")
    (True, PosixPath('data'))
    """
    if not isinstance(text, str | Path):
        raise ConfigError(f"{text!r} is not a path: write it as text")
    try:
        path = Path(text).expanduser()
        size, longest = len(os.fsencode(path)), max(map(len, map(os.fsencode, path.parts)), default=0)
    except RuntimeError:
        raise ConfigError(f"{str(text)!r}: there is no home folder of that name; write the full path") from None
    except UnicodeEncodeError:
        raise ConfigError(f"{str(text)!r} is not a path: it holds half a character") from None
    if size > LONGEST_PATH or longest > LONGEST_NAME:
        raise ConfigError(f"'{str(text)[:40]}...' is not a path: a name may have {LONGEST_NAME} bytes")
    if "\0" in str(path):
        raise ConfigError(f"{str(text)!r} is not a path: it holds a NUL character")
    return path


def with_home(text: Any) -> str:
    """A configured path with `~` as the home folder.

    Others stay as they are written: that is how reports of finished runs have them.

    >>> with_home("./data/")
    './data/'
    """
    path = user_path(text)
    return str(path) if str(text).startswith("~") else text


def path_argument(text: str) -> Path:
    """`user_path` of a command's argument: argparse shows the words of no other error.

    >>> path_argument("~nobody-of-this-name")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: '~nobody-of-this-name': there is no home folder of that name; write the full path
    """
    try:
        return user_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
