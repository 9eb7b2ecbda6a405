"""Which run a state belongs to: a state of another one, copied over it, would be trained on without a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.changes import changes
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.training.state_file import REMEDY


@dataclass(frozen=True)
class Owner:
    """What a run computes, as each of its states says it.

    Attributes:
        settings: of the run.
        may_differ: whether a setting, by its dotted key, may change when the run is resumed.
        data: hash of the dataset; empty where the settings alone say what is read.
        up_to_date: turns settings of a state into those of this version, which may know more keys.
    """

    settings: Mapping[str, Any]
    may_differ: Callable[[str], bool]
    data: str = ""
    up_to_date: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def as_dict(self) -> dict[str, Any]:
        """What a state stores, in the types of JSON."""
        return {"settings": json.loads(json.dumps(self.settings)), "data": self.data}

    def refuse_another(self, found: Mapping[str, Any] | None, path: Path) -> None:
        """Refuse a state of another run.

        Args:
            found: what the state stores; None is that of an earlier version, which stored nothing.
            path: of the state.

        Raises:
            DataError: naming the file, and each setting that differs with both values.
        """
        if found is None:
            return
        try:
            theirs = self.up_to_date(found["settings"])
        except ConfigError as error:
            raise DataError(f"{path} is of a run with other settings ({error}): {REMEDY}") from None
        differing = [
            f"{change.key}: {change.then} there, {change.now} here"
            for change in changes(theirs, self.settings)
            if not self.may_differ(change.key)
        ]
        if found["data"] != self.data:
            differing.append("it has read another build of the dataset")
        if differing:
            raise DataError(f"{path} is of another run ({', '.join(differing)}): {REMEDY}")
