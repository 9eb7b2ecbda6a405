"""Results of `gpu_check.py` on disk as they come: a line of JSON each, and a table that is written anew each time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _gpu_runner import Check, Result


class Results:
    """Writes `results.jsonl` and `summary.md` below a folder.

    Lines of earlier runs stay until their check has run again. A check that did not begin, or was interrupted after it
    had passed before, leaves its line as it was; figures until the interruption are added to it.

    Args:
        folder: is made where there is none.
        checks: all that there are, in order.
        title: first line of the summary.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: its `results.jsonl` is not one of results.
    """

    def __init__(self, folder: Path, checks: Sequence[Check], title: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.title = folder, title
        self.what = {check.name: check.what for check in checks}
        self.earlier = _read(folder / "results.jsonl")
        self.lines = dict(self.earlier)
        self._write()

    def add(self, result: Result) -> None:
        """Write one more result to both files, through to the device."""
        result.figures = plain(result.figures)
        result.seconds = plain(result.seconds)
        line, earlier = result.as_dict(), self.earlier.get(result.name)
        if earlier and result.interrupted and earlier["status"] == "passed":
            if result.figures:
                figures = earlier["figures"] | {"interrupted": {"run": result.run, **result.figures}}
                self.lines[result.name] = earlier | {"figures": figures}
        elif not (earlier and result.out_of_time and result.status == "skipped"):
            self.earlier.pop(result.name, None)
            self.lines[result.name] = line
        self._write()

    def _write(self) -> None:
        known = [*(name for name in self.what if name in self.lines), *(n for n in self.lines if n not in self.what)]
        lines = [json.dumps(self.lines[name], allow_nan=False) + "\n" for name in known]
        replace(self.folder / "results.jsonl", "".join(lines))
        replace(self.folder / "summary.md", "\n".join(self._summary(known)) + "\n")

    def _summary(self, known: Sequence[str]) -> list[str]:
        lines = [f"# {self.title}", "", "| check | result | s | figures |", "|---|---|---|---|"]
        for name in [*self.what, *(name for name in known if name not in self.what)]:
            line, what = self.lines.get(name), self.what.get(name, "")
            if line is None:
                lines.append(f"| {name} | not yet | | {what} |")
                continue
            status = line["status"] + (f": {line['reason']}" if line["reason"] else "")
            if name in self.earlier:
                status += f" (earlier: {line.get('run') or 'date unknown'})"
            figures = "; ".join(_shown(line["figures"]))
            cells = (name, _cell(status), f"{line['seconds']:.0f}", f"{what}: {_cell(figures)}")
            lines.append("| " + " | ".join(cells) + " |")
        return lines


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of earlier runs, by the name of their check."""
    if not path.exists():
        return {}
    lines = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            line = json.loads(text)
            line["reason"], line["figures"].items(), float(line["seconds"]), line["status"]
            lines[str(line["name"])] = line
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"line {number} of {path} is no result: choose another --out") from None
    return lines


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
