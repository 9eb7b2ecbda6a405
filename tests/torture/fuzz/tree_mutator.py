"""Mutates what YAML and JSON hold: values replaced, removed, doubled, wrapped, renamed, and odd scalars."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Iterator, Sequence
from typing import Any

WORDS = (
    "", " ", "x", "\x00", "\ud800", "\u202e", "NaN", "null", "true", "1", "1e3", "-", "../x", "/", "a/b", "~", "*",
    "{x}", "%s", "é" * 10, "A" * 5000, "\n", "item_id", "label", "QIN", "DIN", "AUC", "int", "float", "str", "list",
    "categorical", "sequence", "numeric", "embedding", "text", "meta", "item", "user", "event", "cuda:99", "import os",
    "copy_from(x)", "time", "order", "column", "\u0663", "²",
)  # fmt: skip
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 0.0, 0.5, 1.0, 1.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, [], {}, [[]], [None], [0], ["a"], [1, "a"],
    {"a": 1}, {"name": "x"}, [{}], [{"name": "x"}],
)  # fmt: skip
# What YAML has beside; JSON does not.
OF_YAML: tuple[Any, ...] = (datetime.date(2025, 1, 1), datetime.datetime(2025, 1, 1, 3), b"\x00\xff", {1: 2}, {None: 1})


def mutated(tree: Any, others: Sequence[Any], rng: random.Random, *, yaml: bool = False) -> Any:
    """A copy of a tree of dicts, lists and scalars with one to five changes, most often one."""
    tree = copy.deepcopy(tree)
    for _ in range(min(5, 1 + int(rng.expovariate(1.2)))):
        found = list(places(tree))
        if not found:
            return _odd(rng, yaml)
        holder, key = rng.choice(found)
        _change(holder, key, others, rng, yaml)
    return tree


def smaller(tree: Any) -> Iterator[Any]:
    """The tree without one of its parts, outer parts first."""
    for number, (holder, _) in enumerate(list(places(tree))):
        del holder
        copied = copy.deepcopy(tree)
        inner, key = list(places(copied))[number]
        del inner[key]
        yield copied


def odd_scalar(rng: random.Random) -> Any:
    """A value of JSON that few expect."""
    return _odd(rng, False)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All holders with their keys, outer ones first."""
    left = [tree]
    while left:
        holder = left.pop(0)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else []
        for key in keys:
            yield holder, key
            left.append(holder[key])


def _odd(rng: random.Random, yaml: bool) -> Any:
    if yaml and rng.random() < 0.1:
        return copy.deepcopy(rng.choice(OF_YAML))
    if rng.random() < 0.45:
        return rng.choice(WORDS)
    return copy.deepcopy(rng.choice(SCALARS))


def _change(holder: Any, key: Any, others: Sequence[Any], rng: random.Random, yaml: bool) -> None:
    kind = rng.randrange(10)
    value = holder[key]
    if kind <= 3:
        holder[key] = _odd(rng, yaml)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        holder[key] = rng.choice(([value], {"a": value}, [value, value], str(value)[:2000], [[value]]))
    elif kind == 6 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(value) if rng.random() < 0.5 else _odd(rng, yaml))
    elif kind == 6:
        name = _odd(rng, yaml)
        holder[name if isinstance(name, str) else f"{key}x"] = copy.deepcopy(value)
    elif kind == 7 and isinstance(holder, dict):
        name = _odd(rng, yaml)
        name = name if name is None or (isinstance(name, str | int | float) and yaml) else str(name)[:100]
        holder[name] = holder.pop(key)
    elif kind == 8:
        # A value from elsewhere, of this tree or of another of its kind.
        inner = list(places(rng.choice(others) if others and rng.random() < 0.7 else holder))
        other, at = rng.choice(inner) if inner else (holder, key)
        holder[key] = copy.deepcopy(other[at])
    else:
        holder[key] = _near(value, rng)


def _near(value: Any, rng: random.Random) -> Any:
    """A value like it: a number beside it or its negative, a text with a character more or less."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        if abs(value) > 1e300:
            return -value
        return rng.choice((value + 1, value - 1, -value, value * 1000, value / 3, str(value), float(value)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        piece = rng.choice(WORDS)
        return rng.choice((value[:at] + piece + value[at:], value[:at], value[at:], value.upper(), value * 3))
    if isinstance(value, list):
        return rng.choice((value[::-1], value * 2, value[:1], value[1:], value * 40))
    if isinstance(value, dict):
        return list(value.values()) if rng.random() < 0.5 else list(value)
    return None
