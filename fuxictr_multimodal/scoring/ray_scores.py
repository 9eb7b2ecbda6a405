"""Score large parquet files with Ray Data: pieces of the files go to workers, each of which has loaded the run once.

A piece is a few row groups of a file. Its number is all that a worker gets; it reads the piece by itself, so a
cluster must see the files, the dataset and the run at the same paths.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.tables.files import files_of, format_of
from fuxictr_multimodal.errors import DataError, InputError
from fuxictr_multimodal.scoring.raw_rows import RawRows
from fuxictr_multimodal.scoring.trained_run import TrainedRun
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.system.ray_cluster import ray_at

# A piece has at least so many rows where its file has, so that opening it costs little; several for each worker even
# out their load.
LEAST_ROWS, MOST_ROWS = 65_536, 1_000_000
PIECES_A_WORKER = 4


@dataclass(frozen=True)
class Piece:
    """Some row groups of a file.

    Attributes:
        file: its absolute path.
        groups: numbers of the row groups; none for all of them.
        rows: in these.
    """

    file: str
    groups: list[int]
    rows: int


@dataclass
class RayScores:
    """Scores of all rows in their order, (N,) float32, and counts as in `RawRows`."""

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
        InputError: a value of the samples is wrong, named as in reading them here; the cluster cannot be reached; or a
            worker died.
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
        pieces = pieces_of(files, workers=workers)
        with Line(rows.num_samples, "scoring", unit="row") as line:
            for answer in _answers(run, pieces, history_column, workers=min(workers, len(pieces))):
                if "error" in answer:
                    _read_to_the_error(rows)
                    raise InputError(answer["error"])
                scores = np.frombuffer(answer["scores"], np.float32)
                found.scores[at : at + len(scores)] = scores
                facts = json.loads(answer["facts"])
                found.unknown.update(facts["unknown"])
                found.cut_histories += facts["cut_histories"]
                at += len(scores)
                line.update(len(scores))
    if at != rows.num_samples:
        raise DataError(f"{data}: {at:,} rows were scored of {rows.num_samples:,}: the files changed meanwhile")
    return found


def pieces_of(files: list[Path], *, workers: int) -> list[Piece]:
    """The files in pieces, in order; no piece has rows of two files, whose columns may differ in their types."""
    groups = []
    for file in files:
        with pq.ParquetFile(file) as opened:
            metadata = opened.metadata
            groups.append([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
    share = -(-sum(map(sum, groups)) // (workers * PIECES_A_WORKER))
    wanted = min(max(share, LEAST_ROWS), MOST_ROWS)
    pieces = []
    for file, sizes in zip(files, groups, strict=True):
        begin, rows = 0, 0
        for number, size in enumerate(sizes, start=1):
            rows += size
            if rows and (rows >= wanted or number == len(sizes)):
                every = begin == 0 and number == len(sizes)
                pieces.append(Piece(str(file), [] if every else list(range(begin, number)), rows))
                begin, rows = number, 0
    return pieces


class PieceScorer:
    """A worker: it loads the run once, then scores one piece after the other.

    What is wrong with the input is an answer: Ray would wrap an exception into a page of traces.
    """

    def __init__(self, run: TrainedRun, history_column: str | None, folder: str) -> None:
        import torch

        logging.disable(logging.WARNING)
        torch.set_num_threads(1)
        self._history_column, self._error = history_column, ""
        try:
            os.chdir(folder)
            self._run = run.load(run.experiment())
            self._trainer = self._run.trainer("folded")
        except (InputError, OSError) as error:
            self._error = str(error)

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        """Scores of a piece as bytes of float32, and counts as JSON; or the error."""
        if self._error:
            return {"error": self._error}
        try:
            with _as_file(Piece(piece["file"], [int(n) for n in piece["groups"]], int(piece["rows"]))) as file:
                rows: Any = self._run.samples(file, self._history_column)
                scores = self._trainer.predict(rows).scores.astype(np.float32)
        except (InputError, OSError) as error:
            return {"error": str(error)}
        facts = {"unknown": rows.unknown, "cut_histories": rows.cut_histories}
        return {"scores": scores.tobytes(), "facts": json.dumps(facts)}


def _answers(
    run: TrainedRun, pieces: list[Piece], history_column: str | None, *, workers: int
) -> Iterator[dict[str, Any]]:
    """Answers of the workers in the order of the pieces."""
    from ray.data import ActorPoolStrategy, DataContext, from_items
    from ray.exceptions import ActorDiedError, RayError

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset = from_items([asdict(piece) for piece in pieces], override_num_blocks=len(pieces))
    with warnings.catch_warnings():
        # Ray 2.60 announces a new way to say the last two, which it does not have yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        answers = dataset.map(
            PieceScorer,
            fn_constructor_args=(run, history_column, str(Path.cwd())),
            compute=ActorPoolStrategy(size=workers),
            num_cpus=1,
            # Else a worker that dies on a piece is started again and again.
            max_restarts=0,
            max_task_retries=0,
        )
    try:
        yield from answers.iter_rows()
    except ActorDiedError:
        raise InputError(
            "--engine ray: a worker's process ended while it scored, most often for want of memory: start Ray with "
            "fewer CPUs on such a machine"
        ) from None
    except RayError as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"--engine ray: a worker failed: {reason[-1] if reason else type(error).__name__}") from None


@contextmanager
def _as_file(piece: Piece) -> Iterator[Path]:
    """A file with the rows of a piece alone, removed afterwards; memory is one batch of rows."""
    if not piece.groups:
        yield Path(piece.file)
        return
    with tempfile.TemporaryDirectory(prefix="fxmm-") as folder:
        path = Path(folder, Path(piece.file).name)
        with pq.ParquetFile(piece.file) as source, pq.ParquetWriter(path, source.schema_arrow) as target:
            for batch in source.iter_batches(batch_size=LEAST_ROWS, row_groups=piece.groups):
                target.write_batch(batch)
        yield path


def _read_to_the_error(rows: RawRows) -> None:
    """Raise what a worker met in a piece as reading the files here has it: with their names and rows."""
    for _ in rows:
        pass
