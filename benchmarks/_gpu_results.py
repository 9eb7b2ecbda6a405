"""Results of `gpu_check.py` on disk as they come: a line of JSON each, and a table that is written anew each time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _gpu_runner import Check, Result


class Results:
    """Writes `results.jsonl` and `summary.md` below a folder.

    Args:
        folder: is made; files of an earlier run are replaced.
        checks: those that will run.
        title: first line of the summary.
    """

    def __init__(self, folder: Path, checks: list[Check], title: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.title = folder, title
        self.what = {check.name: check.what for check in checks}
        self.results: list[Result] = []
        self._lines = (folder / "results.jsonl").open("w", encoding="utf-8")
        self._summary()

    def add(self, result: Result) -> None:
        """Write one more result to both files, through to the device."""
        result.figures = plain(result.figures)
        result.seconds = plain(result.seconds)
        self.results.append(result)
        self._lines.write(json.dumps(result.as_dict(), allow_nan=False) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._summary()

    def close(self) -> None:
        """Close the file of lines."""
        self._lines.close()

    def _summary(self) -> None:
        found = {result.name: result for result in self.results}
        lines = [f"# {self.title}", "", "| check | result | s | figures |", "|---|---|---|---|"]
        for name, what in self.what.items():
            result = found.get(name)
            if result is None:
                lines.append(f"| {name} | not yet | | {what} |")
                continue
            status = result.status + (f": {result.reason}" if result.reason else "")
            figures = "; ".join(_shown(result.figures))
            cells = (name, _cell(status), f"{result.seconds:.0f}", f"{what}: {_cell(figures)}")
            lines.append("| " + " | ".join(cells) + " |")
        new = self.folder / ".summary.md.new"
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        new.replace(self.folder / "summary.md")


def plain(value: Any) -> Any:
    """A value as JSON has it: four significant digits, more would be noise, and text for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    return str(value)


def _shown(figures: Mapping[str, Any], before: str = "") -> list[str]:
    shown = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            shown += _shown(value, f"{before}{name}.")
        else:
            shown.append(f"{before}{name} {value:,}" if isinstance(value, int | float) else f"{before}{name} {value}")
    return shown


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
