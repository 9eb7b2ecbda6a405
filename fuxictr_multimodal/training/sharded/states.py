"""The rows of sharded tables beside the states of a training: `<run>.state.tables/<number>/`, one folder a state.

A folder is complete before the state that names it takes its place, and is removed after no state names it: whenever a
run is killed, each of its states has its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_multimodal.training.run_names import tables_of_states
from fuxictr_multimodal.training.sharded.numbered import NumberedFolders
from fuxictr_multimodal.training.sharded.rows_files import read_rows, write_rows
from fuxictr_multimodal.training.sharded.tables import ShardedTables
from fuxictr_multimodal.training.state_file import REMEDY


class TableStates:
    """What sharded tables add to a state: the number of the folder with their rows.

    Args:
        tables: whose rows.
        state: the file of the last state; each process must see its folder.
    """

    def __init__(self, tables: ShardedTables, state: Path) -> None:
        self.tables = tables
        self._folders = NumberedFolders(tables_of_states(state))
        # Of the last state that was written or taken up, and of the one that is being written.
        self._kept: int | None = None
        self._new = 0

    def gathered(self) -> dict[str, Any]:
        """Write the rows; all ranks call it.

        Raises:
            Unwritable: on all ranks, if one of them cannot write.
        """
        self._new = self._folders.following()
        write_rows(self._folders.path(self._new), self.tables.tables, states=True)
        return {"rows": self._new}

    def written(self) -> None:
        """The state of the last `gathered` has taken its place: only its rows and those of the one before are kept."""
        self._folders.remove_but(self._new, self._kept)
        self._kept = self._new

    def take_up(self, state: Mapping[str, Any] | None) -> None:
        """Give this rank its rows.

        Raises:
            DataError: files are missing or damaged.
            ValueError: the state has no rows.
        """
        if state is None:
            raise ValueError("it has no rows of sharded tables")
        number = int(state["rows"])
        read_rows(self._folders.path(number), self.tables.tables, states=True, remedy=REMEDY)
        self._kept = number
