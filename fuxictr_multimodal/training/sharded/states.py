"""The rows of sharded tables beside the states of a training: `<run>.state.tables/step-<n>/`, one folder a state.

A folder is complete before the state that names it takes its place, and is removed after no state names it: whenever a
run is killed, each of its states has its rows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.training.run_names import tables_of_states
from fuxictr_multimodal.training.sharded.rows_files import read_rows, write_rows
from fuxictr_multimodal.training.sharded.tables import ShardedTables
from fuxictr_multimodal.training.state_file import REMEDY


class TableStates:
    """The rows that belong to the states of one training. All ranks call everything at the same time.

    Args:
        tables: whose rows.
        state: the file of the last state.
    """

    def __init__(self, tables: ShardedTables, state: Path) -> None:
        self.tables = tables
        self.folder = tables_of_states(state)
        self._kept: str | None = None

    def write(self, step: int) -> str:
        """Write the rows after a step; the state has to store the name that is returned.

        Raises:
            Unwritable: on all ranks.
        """
        name = f"step-{step}"
        write_rows(self.folder / name, self.tables.tables, states=True)
        return name

    def written(self, name: str) -> None:
        """A state with this name has taken its place: remove the rows of all but it and the one before it."""
        before, self._kept = self._kept, name
        if not ranks.current().first:
            return
        for path in self.folder.iterdir():
            if path.name not in (name, before):
                shutil.rmtree(path, ignore_errors=True)

    def read(self, name: str) -> None:
        """Take up the rows that belong to a state.

        Raises:
            DataError: they are missing or damaged.
        """
        read_rows(self.folder / Path(name).name, self.tables.tables, states=True, remedy=REMEDY)
        self._kept = name
