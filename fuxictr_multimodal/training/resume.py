"""Rules for resuming: a run keeps its own settings; the command line may repeat them, and increase some."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fuxictr_multimodal.config.changes import Change
from fuxictr_multimodal.errors import ConfigError


def named_keys(overrides: Iterable[str], seed: int | None) -> frozenset[str]:
    """Dotted keys of the settings that the command line names.

    >>> sorted(named_keys(["epochs=3", "synthetic.rows=9"], 5))
    ['epochs', 'seed', 'synthetic.rows']
    """
    keys = {text.partition("=")[0] for text in overrides}
    return frozenset(keys | ({"seed"} if seed is not None else set()))


def is_named(key: str, named: Iterable[str]) -> bool:
    """Whether the command line names a setting, a part of it, or a group that it belongs to.

    >>> [is_named("synthetic.rows", [name]) for name in ("synthetic", "synthetic.rows.x", "synthetic.seed", "syn")]
    [True, True, False, False]
    """
    return any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in named)


def own_settings(own: Mapping[str, Any], now: Mapping[str, Any], named: Iterable[str]) -> dict[str, Any]:
    """The settings of a run that is resumed.

    Args:
        own: those that it was started with.
        now: what configuration and command line say together.
        named: dotted keys that the command line names; these values are taken from `now`.

    >>> own_settings({"epochs": 2, "pairs": {"steps": 5, "rate": 1}}, {"epochs": 9, "pairs": {"steps": 7, "rate": 8}},
    ...              ["pairs.steps"])
    {'epochs': 2, 'pairs': {'steps': 7, 'rate': 1}}
    """
    found = copy.deepcopy(dict(own))
    for name in named:
        inside, source = found, now
        *groups, last = name.split(".")
        for group in groups:
            if not (isinstance(inside.get(group), dict) and isinstance(source.get(group), Mapping)):
                last = group
                break
            inside, source = inside[group], source[group]
        if last in source:
            inside[last] = json.loads(json.dumps(source[last]))
        else:
            inside.pop(last, None)
    return found


def growth(change: Change) -> str | None:
    """An objection to a number that becomes smaller; none where one of both is null."""
    numbers = all(isinstance(value, (int, float)) for value in (change.then, change.now))
    if not numbers or change.now >= change.then:
        return None
    return f" ({change.key.rpartition('.')[2]} may increase, not decrease)"


def refuse(found: Iterable[Change], objection: Callable[[Change], str | None], *, where: str, remedy: str) -> None:
    """Refuse settings that are not those of the run that is there.

    Args:
        found: how the settings differ from the run's own.
        objection: None where a change is allowed, else what the error adds to it (`""` for nothing).
        where: what is there, for the error: `x.state is left of a run`.
        remedy: what to do instead.

    Raises:
        ConfigError: naming each refused key with both values.
    """
    refused = [f"{change}{reason}" for change in found if (reason := objection(change)) is not None]
    if refused:
        raise ConfigError(f"{where} of another configuration ({', '.join(refused)}): {remedy}")


def kept_note(run: str, found: Iterable[Change]) -> str | None:
    """A line for the log where a resumed run has settings that the configuration has otherwise, None where not.

    Args:
        run: its name.
        found: from the run's settings to the configuration's.
    """
    told = [f"{change.key}: {change.then} (the configuration says {change.now})" for change in found]
    return f"{run} keeps its own settings: {', '.join(told)}" if told else None
