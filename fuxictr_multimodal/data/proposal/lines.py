"""YAML with a comment behind each value, which the YAML libraries cannot write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fuxictr_multimodal.config.yaml_files import is_number_as_text
from fuxictr_multimodal.text.escape import one_line

# YAML 1.1 takes 1e-05 as text.
_FLOAT = re.compile(r"^(-?\d+)(?:\.(\d+))?e([+-]?\d+)$")


@dataclass(frozen=True)
class Noted:
    """A value and the comment behind it.

    Attributes:
        value: as YAML writes it.
        comment: "" for none.
        off: whether the line is a comment itself, for the user to take up.
    """

    value: Any
    comment: str = ""
    off: bool = False


def block(settings: Mapping[str, Any], indent: int = 0) -> str:
    """Settings as lines of YAML; values are plain or `Noted`, and have a line of their own where they may be that.

    >>> print(block({"Shop": {"max_len": Noted(64, "most"), "cols": [Noted({"name": "a"}, "ids")]}}), end="")
    Shop:
        max_len: 64  # most
        cols:
            - {name: a}  # ids
    """
    space, text = "    " * indent, ""
    for key, given in settings.items():
        noted = given if isinstance(given, Noted) else Noted(given)
        head = f"{space}{'# ' if noted.off else ''}{flow(key)}:"
        if isinstance(noted.value, Mapping) and (indent == 0 or _has_notes(noted.value)):
            text += f"{head}{_behind(noted.comment)}\n{block(noted.value, indent + 1)}"
        elif isinstance(noted.value, list) and any(isinstance(entry, Noted) for entry in noted.value):
            text += f"{head}{_behind(noted.comment)}\n"
            for entry in noted.value:
                off = "# " if entry.off else ""
                text += f"{space}    {off}- {flow(entry.value)}{_behind(entry.comment)}\n"
        else:
            text += f"{head} {flow(noted.value)}{_behind(noted.comment)}\n"
    return text


def _has_notes(settings: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Noted) for value in settings.values())


def flow(value: Any) -> str:
    """A value in one line of YAML.

    >>> flow({"name": "a: b", "active": True, "lr": 1e-05, "to": None})
    "{name: 'a: b', active: True, lr: 1.e-05, to: null}"
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value)
    if isinstance(value, float):
        number = repr(value)
        found = _FLOAT.match(number)
        return f"{found[1]}.{found[2] or ''}e{found[3]}" if found else number
    if isinstance(value, str):
        if is_number_as_text(value):
            return f"'{value}'"
        # Inside of a list, so that commas and brackets get quotes.
        return yaml.safe_dump([value], default_flow_style=True, width=10**9, allow_unicode=True).strip()[1:-1]
    return str(value)


def _behind(comment: str) -> str:
    return f"  # {one_line(comment)}" if comment else ""
