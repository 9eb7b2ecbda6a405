"""The challenge's submission: `prediction.csv` with an id and a score a row, in a zip file.

Rules: one row for each row of the test file, the ids of that file, columns `ID` and the task's name, scores from 0 to
1.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import make_folder, replace_atomically

MEMBER = "prediction.csv"
TASKS = ("Task1", "Task2", "Task1&2")


def write_submission(path: Path, *, ids: np.ndarray, scores: np.ndarray, task: str, rows: int) -> None:
    """Write a submission and read it back.

    Args:
        path: the zip file.
        ids: `ID` of the test file, (rows,), in its order.
        scores: probabilities (rows,) float32; written so that they read back equal.
        task: name of the score column, one of `TASKS`.
        rows: rows that the test file has.

    Raises:
        DataError: the counts differ, an id is repeated, or a score is not in 0 to 1.
    """
    if task not in TASKS:
        raise DataError(f"task {task!r} is unknown; tasks are {', '.join(TASKS)}")
    if not len(ids) == len(scores) == rows:
        raise DataError(f"a submission needs {rows} rows; there are {len(ids)} ids and {len(scores)} scores")
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(same):
        raise DataError(
            f"ID {ids[order[same[0]]]} is in rows {order[same[0]]} and {order[same[0] + 1]}: each id is scored once"
        )
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"row {row}, ID {ids[row]}: score {scores[row]} is not in 0 to 1")
    text = io.BytesIO()
    pl.DataFrame({"ID": ids, task: scores.astype(np.float32)}).write_csv(text)
    make_folder(path.parent)
    with replace_atomically(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            # A fixed date: equal scores give equal bytes.
            archive.writestr(zipfile.ZipInfo(MEMBER, (2025, 1, 1, 0, 0, 0)), text.getvalue(), zipfile.ZIP_DEFLATED)
        _read_back(temporary, ids, scores, task)


def _read_back(path: Path, ids: np.ndarray, scores: np.ndarray, task: str) -> None:
    with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as member:
        table = pl.read_csv(member.read(), schema_overrides={"ID": pl.Int64, task: pl.Float32})
    same = table.columns == ["ID", task] and len(table) == len(ids)
    if not (same and (table["ID"].to_numpy() == ids).all() and (table[task].to_numpy() == scores).all()):
        raise DataError(f"{path.name}: the written file does not match the scores; is the disk full?")
