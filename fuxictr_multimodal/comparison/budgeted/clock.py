"""The time of a comparison over all its starts, and what a repeated command must know: one JSON file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import write_json
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

SAVE_SECONDS = 5.0


@dataclass
class Clock:
    """Counts the seconds of the wall clock, those of earlier starts included.

    Attributes:
        path: of the state.
        budget: seconds in all.
        arguments: what was asked for; a repeated command must ask for the same.
        used: seconds of earlier starts.
        known: what else is kept: the build of the dataset, the models, their speeds.
    """

    path: Path
    budget: float
    arguments: dict[str, Any]
    used: float = 0.0
    known: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _saved: float = -1e9

    @classmethod
    def open(cls, path: Path, *, budget: float, arguments: dict[str, Any]) -> Clock:
        """Begin, or resume what the file says.

        Raises:
            ConfigError: the file is of a comparison with other arguments; says which differ.
        """
        if not path.is_file():
            return cls(path, budget, arguments)
        try:
            state = read_json_file(path)
            before, used, known = state["arguments"], float(state["seconds"]), dict(state["known"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is damaged: remove the folder {path.parent}, or give another --out") from None
        differing = [
            f"{key}: {_text(before.get(key))} there, {_text(value)} now"
            for key, value in arguments.items()
            if before.get(key) != value
        ]
        if differing:
            raise ConfigError(
                f"{path.parent} holds a comparison with other arguments ({'; '.join(differing)}): repeat them to "
                "resume it, or give another --out"
            )
        return cls(path, budget, arguments, used, known)

    @property
    def elapsed(self) -> float:
        """Seconds used so far."""
        return self.used + time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; below 0 where it is overdrawn."""
        return self.budget - self.elapsed

    def tick(self) -> None:
        """Save now and then: a killed command has used its time, too."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the state."""
        self._saved = time.monotonic()
        write_json(self.path, {"arguments": self.arguments, "seconds": round(self.elapsed, 1), "known": self.known})


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
