"""Published learning curves for the page, read from a csv of figures with their source."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from fuxictr_multimodal.comparison.board import Board, Curve, Published
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.sizes import check_regular
from fuxictr_multimodal.text.decoding import to_utf8

COLUMNS = ("run", "epoch", "train_loss", "valid_auc", "source")


def with_published(board: Board, path: Path) -> Board:
    """Return the board with the curves of a csv; its columns are `COLUMNS`, one row per epoch.

    Raises:
        DataError: the file is missing, lacks a column, or holds a value that is not a number; or the board's own curves
            count steps, not epochs.
    """
    if board.curve_axis != "epoch":
        raise DataError(
            f"{path} counts epochs, but runs of {board.dataset_id} were evaluated within epochs: set eval_steps to null"
        )
    try:
        check_regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; results/published_microlens_1m.csv is one such file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    text = to_utf8(content, where=str(path)).decode("utf-8")
    # A spreadsheet leaves rows of separators alone; empty lines are skipped as it is.
    rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if any(row.values())]
    runs: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        for column in COLUMNS:
            if row.get(column) is None:
                raise DataError(f"{path}: column {column!r} is missing; needed are {', '.join(COLUMNS)}")
        runs.setdefault(row["run"], []).append(row)
    return dataclasses.replace(board, published=tuple(_curve(path, name, own) for name, own in runs.items()))


def _curve(path: Path, name: str, rows: list[dict[str, str]]) -> Published:
    columns = {}
    for column in ("epoch", "train_loss", "valid_auc"):
        values = []
        for row in rows:
            try:
                values.append(float(row[column]))
            except ValueError:
                raise DataError(
                    f"{path}: {column} of run {name!r}, epoch {row['epoch']!r} is {row[column]!r}, not a number"
                ) from None
        columns[column] = tuple(values)
    curve = Curve(seed=0, x=columns["epoch"], loss=columns["train_loss"], auc=columns["valid_auc"])
    return Published(name, rows[0]["source"], curve)
