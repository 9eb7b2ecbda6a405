"""Score large parquet files on a Ray cluster: workers load the run once, and score pieces of the files.

A piece names rows of the files; the worker reads them by itself, so a cluster must see the files, the dataset and the
run at the same paths. Pieces begin where the reader of one process begins a batch: on as many threads, one, the scores
are the same to the last bit, however many workers there are.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.tables.file_print import FilePrint
from fuxictr_multimodal.data.entry.tables.files import files_of, format_of
from fuxictr_multimodal.data.recipes.parquet_input import BATCH_ROWS
from fuxictr_multimodal.errors import DataError, InputError
from fuxictr_multimodal.scoring.new_rows import NewRows
from fuxictr_multimodal.scoring.raw_rows import RawRows
from fuxictr_multimodal.scoring.trained_run import LoadedRun, TrainedRun
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.system.ray_cluster import Refused, in_order, ray_at

# A piece has at least so many rows where its file has, so that opening it costs little; several for each worker even
# out their load. It is what the readers of one process read at once.
LEAST_ROWS, MOST_ROWS = BATCH_ROWS, 15 * BATCH_ROWS
PIECES_A_WORKER = 4


@dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    Attributes:
        file: its absolute path.
        first: the first row.
        rows: their number.
        all: whether the file has no others.
        print: of the file that the command opened.
    """

    file: str
    first: int
    rows: int
    all: bool
    print: FilePrint | None = field(default=None, compare=False)


Piece = tuple[Rows, ...]


@dataclass
class RayScores:
    """Scores of rows in their order, (N,) float32, and counts as in `RawRows`."""

    scores: NDArray[np.float32]
    unknown: Counter[str] = field(default_factory=Counter)
    cut_histories: int = 0


def score_with_ray(
    run: TrainedRun, rows: RawRows, data: Path, *, history_column: str | None = None, address: str | None = None
) -> RayScores:
    """Score new samples with the workers of a cluster, or of this machine.

    Args:
        run: names configs and weights by absolute paths.
        rows: the samples, opened here, where what is wrong with their columns was found.
        data: a parquet file, a folder of parts or a glob.
        history_column: column of the main history, where it has another name.
        address: of a Ray cluster; None starts Ray on this machine and ends it afterwards.

    Raises:
        InputError: a value of the samples is wrong, named as in reading them here; the cluster cannot be reached; or
            workers ended again and again.
    """
    files = [file.resolve() for file in files_of(data, data_format=None, where="--data")]
    if format_of(files[0], "--data") != "parquet":
        raise DataError(
            f"--data {data}: --engine ray reads parquet: write the samples as parquet, or leave out --engine"
        )
    found = RayScores(np.empty(rows.num_samples, np.float32))
    at = 0
    with ray_at(address) as ray:
        workers = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        # One process begins again with each file where a script built the dataset.
        pieces = pieces_of(files, workers=workers, across=not isinstance(rows, NewRows))
        work = PieceScorer(run, history_column, str(Path.cwd()))
        with Line(rows.num_samples, "scoring", unit="row") as line:
            for _, answer in in_order(ray, work, pieces, what="scored"):
                if isinstance(answer, Refused):
                    _read_to_the_error(rows)
                    raise InputError(answer.text)
                size = len(answer.scores)
                found.scores[at : at + size] = answer.scores[: rows.num_samples - at]
                found.unknown.update(answer.unknown)
                found.cut_histories += answer.cut_histories
                at += size
                line.update(size)
    if at != rows.num_samples:
        raise DataError(f"{data}: {at:,} rows were scored of {rows.num_samples:,}: the files changed meanwhile")
    return found


def pieces_of(files: list[Path], *, workers: int, across: bool) -> list[Piece]:
    """The rows of the files in pieces, in order.

    Args:
        files: parquet files.
        workers: that share the pieces.
        across: whether a piece has rows of several files; else one begins with each file.
    """
    sizes = [pq.read_metadata(file).num_rows for file in files]
    share = -(-sum(sizes) // (workers * PIECES_A_WORKER))
    most = min(-(-share // LEAST_ROWS) * LEAST_ROWS, MOST_ROWS)
    pieces: list[Piece] = []
    piece: list[Rows] = []
    room = most
    for file, size in zip(files, sizes, strict=True):
        first, opened = 0, FilePrint.of(file)
        while first < size:
            rows = min(room, size - first)
            piece.append(Rows(str(file), first, rows, all=rows == size, print=opened))
            first, room = first + rows, room - rows
            if not room or (first == size and not across):
                pieces.append(tuple(piece))
                piece, room = [], most
    return [*pieces, tuple(piece)] if piece else pieces


class PieceScorer:
    """The work of a process, which loads the run at its first piece.

    Args:
        run: names configs and weights by absolute paths.
        history_column: column of the main history, where it has another name.
        folder: to which paths in the configs are relative.
    """

    def __init__(self, run: TrainedRun, history_column: str | None, folder: str) -> None:
        self._run, self._history_column, self._folder = run, history_column, folder
        self._loaded: LoadedRun | None = None

    def __call__(self, piece: Piece) -> RayScores:
        """Scores of a piece."""
        for rows_of in piece:
            if rows_of.print is not None:
                rows_of.print.check(rows_of.file)
        if self._loaded is None:
            self._loaded = self._load()
        with as_files(piece) as data:
            rows: Any = self._loaded.samples(data, self._history_column)
            scores = self._loaded.trainer("folded").predict(rows).scores.astype(np.float32)
        return RayScores(scores, rows.unknown, rows.cut_histories)

    def _load(self) -> LoadedRun:
        import torch

        torch.set_num_threads(1)
        os.chdir(self._folder)
        return self._run.load(self._run.experiment())


@contextmanager
def as_files(piece: Piece) -> Iterator[Path]:
    """A file, or a folder of them, with the rows of a piece alone, removed afterwards; memory is one batch of rows."""
    if len(piece) == 1 and piece[0].all:
        yield Path(piece[0].file)
        return
    with tempfile.TemporaryDirectory(prefix="fxmm-") as folder:
        for number, rows in enumerate(piece):
            _copy(rows, Path(folder, f"{number:05d}.parquet"))
        yield Path(folder)


def _copy(rows: Rows, path: Path) -> None:
    """Write some rows of a file to another one."""
    with pq.ParquetFile(rows.file) as source:
        ends = np.cumsum([source.metadata.row_group(n).num_rows for n in range(source.metadata.num_row_groups)])
        groups = range(
            int(np.searchsorted(ends, rows.first, side="right")),
            int(np.searchsorted(ends, rows.first + rows.rows)) + 1,
        )
        # The first row of the groups that are read.
        at = int(ends[groups[0] - 1]) if groups[0] else 0
        with pq.ParquetWriter(path, source.schema_arrow) as target:
            for batch in source.iter_batches(batch_size=LEAST_ROWS, row_groups=list(groups)):
                start, stop = max(rows.first - at, 0), min(rows.first + rows.rows - at, batch.num_rows)
                if start < stop:
                    target.write_batch(batch.slice(start, stop - start))
                at += batch.num_rows


def _read_to_the_error(rows: RawRows) -> None:
    """Raise what a worker met in a piece as reading the files here has it: with their names and rows."""
    for _ in rows:
        pass
