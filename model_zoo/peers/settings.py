"""Checks of the settings of a peer: a bad value is one sentence with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fuxictr_multimodal.errors import ConfigError


def check_counts(**values: Any) -> None:
    """Each is a whole number of at least 1.

    >>> check_counts(num_heads=2)

    Raises:
        ConfigError: one is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_rates(**values: Any) -> None:
    """Each is a dropout rate, from 0 to below 1.

    Raises:
        ConfigError: one is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ConfigError(f"{name} must be a number from 0 to below 1, got {value!r}")


def checked_widths(name: str, value: Any) -> list[int]:
    """The widths of the layers of an MLP; an empty list is an MLP of its output alone.

    Raises:
        ConfigError: not a list of whole numbers of at least 1.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{name} must be a list of widths such as [128, 64], got {value!r}")
    for width in value:
        check_counts(**{name: width})
    return list(value)


def check_heads(num_heads: int, width: int, what: str) -> None:
    """Heads share a width evenly.

    Raises:
        ConfigError: they do not.
    """
    if width % num_heads:
        raise ConfigError(f"num_heads={num_heads} does not divide {what}, {width}: change it or embedding_dim")
