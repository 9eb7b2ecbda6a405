"""New samples to score, read as the dataset was built: from a log, from samples that are ready, or by a script."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_multimodal.data.entry.tables.files import SUFFIXES
from fuxictr_multimodal.scoring.csv_samples import typed_csv
from fuxictr_multimodal.scoring.entry_rows import EntryRows, entry_of
from fuxictr_multimodal.scoring.log_rows import LogRows
from fuxictr_multimodal.scoring.new_rows import NewRows
from fuxictr_multimodal.scoring.raw_rows import RawRows, Reading
from fuxictr_multimodal.system.writing import writing


def new_samples(
    path: Path, reading: Reading, *, params: Mapping[str, Any], history_column: str | None = None
) -> RawRows:
    """Open new samples.

    Args:
        path: csv or parquet, a file, a folder of parts or a glob.
        reading: the dataset and the model that they are read for.
        params: of the run.
        history_column: column of the main history, where it has another name.

    Raises:
        DataError: the samples are missing or of another form.
    """
    entry = entry_of(params, reading.store, reading.events)
    if entry is None:
        return _of_script(path, reading, history_column)
    kind = LogRows if entry.form == "log" else EntryRows
    return kind(path, reading, entry=entry, history_column=history_column)


def _of_script(path: Path, reading: Reading, history_column: str | None) -> NewRows:
    """Samples of a dataset without an entry; csv becomes parquet, which has types."""
    if not _is_csv(path):
        return NewRows(path, reading, history_column=history_column)
    frame = typed_csv(path, reading, history_column=history_column)
    folder = tempfile.mkdtemp(prefix="fxmm-")
    try:
        typed = Path(folder, path.name.replace("*", "_"))
        with writing(typed):
            frame.write_parquet(typed)
        rows = NewRows(typed, reading, history_column=history_column)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # The file is needed as long as the samples are.
    weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return rows


def _is_csv(path: Path) -> bool:
    if path.is_file():
        files = [path]
    else:
        files = sorted(path.iterdir() if path.is_dir() else path.parent.glob(path.name))
    return any(file.name.lower().endswith(SUFFIXES["csv"]) for file in files)
