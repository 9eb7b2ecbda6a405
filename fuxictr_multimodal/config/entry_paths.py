"""Relative paths of an entry that is read from another folder than the one that FuxiCTR runs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.entry_settings import form_of
from fuxictr_multimodal.config.user_paths import user_path

# FuxiCTR runs in the folder above its configs, or in the one above that.
LEVELS = 3
FILES = ("train_data", "valid_data", "test_data", "item_data", "user_data")


def found_from(entry: Mapping[str, Any], config_dir: Path) -> dict[str, Any]:
    """The entry with paths that lead to its files.

    Paths are relative to the working directory. Where that has no such training data or log, they are all relative to
    the first folder that has it, of the config folder and those above it.

    Args:
        entry: of a dataset.
        config_dir: where it was read.
    """
    entry = dict(entry)
    form = form_of(entry)
    if form in ("built", "synthetic"):
        return entry
    log = entry.get("interactions")
    first = log.get("file") if isinstance(log, Mapping) else entry.get("train_data")
    if not isinstance(first, str) or user_path(first).is_absolute() or _is_there(Path(first)):
        return entry
    config_dir = config_dir.resolve()
    folders = [config_dir, *config_dir.parents][: LEVELS + 1]
    base = next((folder for folder in folders if _is_there(folder / first)), None)
    if base is None:
        return entry

    def moved(path: Any) -> Any:
        return str((base / path).resolve()) if isinstance(path, str) and not user_path(path).is_absolute() else path

    entry |= {key: moved(entry[key]) for key in (*FILES, "data_root") if key in entry}
    if isinstance(log, Mapping):
        entry["interactions"] = {**log, "file": moved(first)}
    return entry


def _is_there(path: Path) -> bool:
    # FuxiCTR names files without their ending, too; a glob has files.
    return path.exists() or any(True for _ in path.parent.glob(f"{path.name}*") if path.name)
