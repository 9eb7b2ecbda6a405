"""Names and notes from elsewhere that are shown: HTML, Markdown, csv and terminals take them as text."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.hostile.evaluated import REPORT
from tests.torture.hostile.manifests import LEADERBOARD
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.worlds import edit_json

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e"


def page(change: Callable[[Any], object]) -> Callable[[Place], Callable[[], None]]:
    """A leaderboard page of a report from elsewhere: no tag of the report may be one of the page."""

    def write(place: Place) -> Callable[[], None]:
        edit_json(REPORT, change)
        return lambda: _shown("page.html", lambda text: not re.search(r"<script>alert|<img src=x", text))

    return write


def table(name: str, change: Callable[[Any], object]) -> Callable[[Place], Callable[[], None]]:
    """A table of a report from elsewhere: one row a run, and no control character is left."""

    def fine(text: str) -> bool:
        rows = list(csv.reader(text.splitlines())) if name.endswith(".csv") else []
        broken = len({len(row) for row in rows}) > 1
        return not broken and not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]|<script>", text)

    def write(place: Place) -> Callable[[], None]:
        edit_json(REPORT, change)
        return lambda: _shown(name, fine)

    return write


def _shown(name: str, fine: Callable[[str], bool]) -> None:
    from fuxictr_multimodal.cli.main import main

    main([*LEADERBOARD, "--out", name])
    assert fine(Path(name).read_text(encoding="utf-8")), f"{name} holds what the report injects"


def printed(change: Callable[[Any], object]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        edit_json(REPORT, change)
        return LEADERBOARD

    return write


def _set(key: str, value: str) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        if key in found:
            found[key] = value
        found["config"][key] = value

    return change


FORMULA = "programs read the value of a cell as it is; spreadsheets must import it as text, as SECURITY.md says"
HARMLESS = "it is escaped where it is shown"
CASES: list[Case] = with_name(
    "shown",
    [
        *(
            Case(f"a tag as {key} on a page", page(_set(key, SCRIPT)), "name|run|report|model", accepted=HARMLESS)
            for key in ("model", "note", "experiment")
        ),
        *(
            Case(f"a formula as {key} in csv", table("board.csv", _set(key, "=HYPERLINK(1)")), "", accepted=FORMULA)
            for key in ("model", "note", "experiment")
        ),
        *(
            Case(
                f"escapes as {key} in a Markdown table",
                table("board.md", _set(key, ESCAPES + SCRIPT)),
                "",
                accepted=HARMLESS,
            )
            for key in ("model", "note", "experiment")
        ),
        *(
            Case(f"escapes as {key} on the terminal", printed(_set(key, ESCAPES)), "", accepted=HARMLESS)
            for key in ("model", "note", "experiment")
        ),
        Case(
            "escapes in an error about a report",
            printed(lambda r: r.update(dataset_id=ESCAPES)),
            "no report",
        ),
    ],
)
