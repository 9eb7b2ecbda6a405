"""The rows of sharded tables in a folder, one file for each rank that wrote them; any number of ranks reads them.

`torch.distributed.checkpoint` keeps its metadata in a pickle, which is code to whoever reads it. These files hold
tensors and numbers, and are read as states are. Several machines need a folder that all of them see.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuxictr_multimodal.errors import DataError, InputError
from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.system.torch_files import is_finite, read_torch
from fuxictr_multimodal.training.sharded.table import ShardedTable
from fuxictr_multimodal.training.state_file import damage_named

_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.pt")


def write_rows(folder: Path, tables: Mapping[str, ShardedTable], *, states: bool) -> None:
    """Write the tables, each rank its rows, into a folder; one of this name is replaced. All ranks call it.

    Args:
        folder: of these files alone.
        tables: by name, the same on all ranks.
        states: whether what their optimizers keep is written too.

    Raises:
        Unwritable: on all ranks, if one of them cannot write.
    """
    here = ranks.current()

    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)

    ranks.decided_by_first(make)
    content = {name: _content(table, states=states) for name, table in tables.items()}
    with failing_together():
        path = folder / f"rank-{here.rank}-of-{here.world_size}.pt"
        with replace_atomically(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)


def read_rows(folder: Path, tables: Mapping[str, ShardedTable], *, states: bool, remedy: str) -> None:
    """Take up the rows of this rank from what `write_rows` wrote, on whatever number of ranks.

    Args:
        folder: of the files.
        tables: by name.
        states: whether what their optimizers keep is read too.
        remedy: what the user can do.

    Raises:
        DataError: files are missing, damaged, or of other tables.
    """
    for table in tables.values():
        table.resumed = None
    lacking = {name: len(table.weight) for name, table in tables.items()}
    for path, part, parts in _files(folder, remedy):
        if not any(_overlap(_block(table.rows, part, parts), table) for table in tables.values()):
            continue
        with damage_named(path):
            content = read_torch(path, remedy=remedy)
            if content.keys() != tables.keys():
                raise ValueError(f"it is of the tables {', '.join(content)}, not of {', '.join(tables)}")
            for name, table in tables.items():
                lacking[name] -= _take(name, table, content[name], states=states)
                if states and "gradient" in content[name]:
                    _take_gradient(name, table, content[name]["gradient"])
    for name, count in lacking.items():
        if count:
            raise DataError(f"{folder} lacks {count:,} rows of the table {name}: {remedy}")


def rows_in(folder: Path, remedy: str) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """All rows that `write_rows` wrote, piece by piece: the file, the name of the table, and what the file has of it.

    Raises:
        DataError: files are missing or damaged.
    """
    lacking: dict[str, int] = {}
    for path, _, _ in _files(folder, remedy):
        with damage_named(path):
            content = read_torch(path, remedy=remedy)
            for name, part in content.items():
                lacking[name] = lacking.get(name, part["rows"]) - len(part["weight"])
                if part["weight"].dtype != torch.float32 or not is_finite(part["weight"]):
                    raise ValueError(f"weight of the table {name} does not fit, or is not finite")
        for name, part in content.items():
            yield path, name, part
    for name, count in lacking.items():
        if count:
            raise DataError(f"{folder} lacks {count:,} rows of the table {name}: {remedy}")


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An `InputError` of one rank within the block is raised on all of them; those that have none wait for it here."""
    failure: InputError | None = None
    try:
        yield
    except InputError as error:
        failure = error
    failures = [found for found in ranks.all_of(failure) if found is not None]
    if failures:
        raise failures[0]


def _content(table: ShardedTable, *, states: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"rows": table.rows, "first": table.first, "weight": table.weight.detach()}
    content["names"] = table.names
    if states:
        content["states"] = table.updates.state()
        table.settle()
        if table.waiting is not None:
            rows_U, grad_UP = table.waiting
            content["gradient"] = {"rows": rows_U + table.first, "values": grad_UP}
    return content


def _files(folder: Path, remedy: str) -> list[tuple[Path, int, int]]:
    """The files, each with its rank and the number of ranks that wrote; all of one writing are there."""
    found = [(path, match) for path in folder.glob("*.pt") if (match := _FILE.fullmatch(path.name))]
    files = sorted((int(match[1]), int(match[2]), path) for path, match in found)
    if not files:
        raise DataError(f"{folder} holds no rows of sharded tables: {remedy}")
    if [(part, parts) for part, parts, _ in files] != [(part, len(files)) for part in range(len(files))]:
        raise DataError(f"{folder} holds {len(files)} files of a writing by {files[0][1]} processes: {remedy}")
    return [(path, part, parts) for part, parts, path in files]


def _block(rows: int, part: int, parts: int) -> range:
    """The rows that torchrec gives to a rank."""
    size = -(-rows // parts)
    return range(min(part * size, rows), min((part + 1) * size, rows))


def _overlap(block: range, table: ShardedTable) -> range:
    return range(max(block.start, table.first), min(block.stop, table.first + len(table.weight)))


def _take(name: str, table: ShardedTable, content: Mapping[str, Any], *, states: bool) -> int:
    """Copy what a file holds of the rows of this rank; returns how many these are."""
    if content["rows"] != table.rows:
        raise ValueError(f"its table {name} has {content['rows']:,} rows, that of the run {table.rows:,}")
    targets = {"weight": table.weight.detach(), **(table.updates.state() if states else {})}
    found = {"weight": content["weight"], **(content["states"] if states else {})}
    if found.keys() != targets.keys():
        raise ValueError(f"of the table {name} it holds {', '.join(found)}, not {', '.join(targets)}")
    first, count = content["first"], len(content["weight"])
    taken = _overlap(range(first, first + count), table)
    for key, target in targets.items():
        value: Tensor = found[key]
        if value.dtype != target.dtype or value.shape[1:] != target.shape[1:] or not is_finite(value):
            raise ValueError(f"{key} of the table {name} does not fit, or is not finite")
        if not target.dim():
            target.copy_(value)
        elif taken and len(value) == count:
            here, there = taken.start - table.first, taken.start - first
            target[here : here + len(taken)] = value[there : there + len(taken)]
        elif taken:
            raise ValueError(f"{key} of the table {name} has {len(value)} rows, not {count}")
    return len(taken)


def _take_gradient(name: str, table: ShardedTable, found: Mapping[str, Tensor]) -> None:
    """Let what a file holds of the gradients of this rank's rows wait for the end of their window again."""
    rows, values = found["rows"], found["values"]
    if rows.shape != values.shape[:1] or values.shape[1:] != table.weight.shape[1:] or not is_finite(values):
        raise ValueError(f"the gradient of the table {name} does not fit, or is not finite")
    own = (rows >= table.first) & (rows < table.first + len(table.weight))
    here = rows[own].to(table.weight.device) - table.first, values[own].to(table.weight)
    if table.resumed is None:
        table.resumed = here
    else:
        (rows_U, grad_UP), (more, grads) = table.resumed, here
        table.resumed = torch.cat([rows_U, more]), torch.cat([grad_UP, grads])
