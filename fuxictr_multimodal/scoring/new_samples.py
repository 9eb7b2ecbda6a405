"""New samples to score, read as the dataset was built: from a log, from samples that are ready, or by a script."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_multimodal.data.entry.tables.files import SUFFIXES
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.scoring.csv_samples import typed_csv
from fuxictr_multimodal.scoring.entry_rows import EntryRows, entry_of
from fuxictr_multimodal.scoring.log_rows import LogRows
from fuxictr_multimodal.scoring.new_rows import NewRows
from fuxictr_multimodal.scoring.raw_rows import RawRows


def new_samples(
    path: Path, *, params: Mapping[str, Any], store: Store, history_column: str | None = None, **options: Any
) -> RawRows:
    """Open new samples.

    Args:
        path: csv or parquet, a file, a folder of parts or a glob.
        params: of the run.
        store: its dataset.
        history_column: column of the main history, where it has another name.
        options: further arguments of `RawRows`.

    Raises:
        DataError: the samples are missing or of another form.
    """
    names = options["feature_map"].features
    events = [column.name for column in store.manifest.event_columns if column.name in names]
    entry = entry_of(params, store, events)
    options |= {"store": store, "history_column": history_column, "events": events}
    if entry is None:
        return _of_script(path, store, history_column, options)
    if entry.form == "log":
        return LogRows(path, entry=entry, **options)
    return EntryRows(path, entry=entry, **options)


def _of_script(path: Path, store: Store, history_column: str | None, options: dict[str, Any]) -> NewRows:
    """Samples of a dataset without an entry; csv becomes parquet, which has types."""
    if not _is_csv(path):
        return NewRows(path, **options)
    frame = typed_csv(path, store, options["feature_map"], events=options["events"], history_column=history_column)
    folder = tempfile.mkdtemp(prefix="fxmm-")
    try:
        typed = Path(folder, path.name.replace("*", "_"))
        frame.write_parquet(typed)
        rows = NewRows(typed, **options)
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
