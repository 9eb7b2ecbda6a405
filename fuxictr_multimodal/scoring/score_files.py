"""Files of scores: one csv or parquet file, or a folder of parquet parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import make_folder, replace_atomically, sync, sync_tree
from fuxictr_multimodal.system.writing import writing

SUFFIXES = (".parquet", ".csv")
PART_ROWS = 1_000_000


def check_out(out: Path, *, parts: bool) -> None:
    """Refuse a place that scores cannot be written to.

    Args:
        out: that the user named.
        parts: whether it may be a folder of parts, which has no suffix.

    Raises:
        ConfigError: it is of another kind, or in use.
    """
    if parts and not out.suffix:
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise ConfigError(f"--out {out} exists: name a new folder for the parts, or remove it first")
        return
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: scores are written as {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: pass a file")


def write_scores(out: Path, frame: pl.DataFrame) -> None:
    """Write a file, or the parts of a folder where the name has no suffix; a killed process leaves neither."""
    make_folder(out.parent)
    if out.suffix:
        with replace_atomically(out) as temporary:
            _write(frame, temporary, out.suffix.lower())
        return
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    make_folder(unfinished)
    try:
        for number, part in enumerate(frame.iter_slices(PART_ROWS)):
            name = f"part-{number:05d}.parquet"
            with writing(out / name, temporary=unfinished / name):
                _write(part, unfinished / name, ".parquet")
        sync_tree(unfinished)
        with writing(out, temporary=unfinished):
            unfinished.replace(out)  # an empty folder gives way
            sync(out.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write(frame: pl.DataFrame, path: Path, suffix: str) -> None:
    if suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
