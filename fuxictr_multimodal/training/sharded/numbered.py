"""Folders of rows, one a writing, named by numbers: a file names the one that belongs to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fuxictr_multimodal.system import ranks


class NumberedFolders:
    """The folders `<root>/<number>/`.

    Args:
        root: that holds them, and nothing else.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, number: int) -> Path:
        """The folder of a number."""
        return self._root / str(number)

    def following(self) -> int:
        """A number above all that are there, the same on all ranks, which all call this."""
        return ranks.decided_by_first(lambda: max(self._numbers(), default=0) + 1)

    def remove_but(self, *kept: int | None) -> None:
        """Remove the folders of other numbers."""
        for number in self._numbers():
            if number not in kept:
                shutil.rmtree(self.path(number), ignore_errors=True)

    def _numbers(self) -> list[int]:
        return [int(found.name) for found in self._root.glob("*") if found.name.isdecimal()]
