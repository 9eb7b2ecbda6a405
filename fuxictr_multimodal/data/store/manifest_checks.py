"""Types and ranges of a manifest's fields: what a reader allocates, joins to a path or looks up by them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.errors import DataError

SPLIT_NAMES = frozenset({"train", "valid", "test"})
DTYPES = frozenset({"uint8", "int32", "int64", "float32", "float64"})
ROLES = frozenset({"label", "weight", "target", "event", "context", "meta", "item", "fold"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_manifest(manifest: Any, where: str) -> None:
    """Refuse a manifest that its writer cannot have written.

    Args:
        manifest: a `Manifest` as it was read; its module imports this one.
        where: the file, for the error.

    Raises:
        DataError: naming the key and its value.
    """

    def refuse_unless(holds: bool, key: str, value: Any) -> None:
        if not holds:
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
            raise DataError(f"{where}: {key} cannot be {shown}: the file is damaged; {BUILD_AGAIN}")

    refuse_unless(_is_text(manifest.dataset_id), "dataset_id", manifest.dataset_id)
    refuse_unless(_is_whole(manifest.max_len), "max_len", manifest.max_len)
    refuse_unless(_is_whole(manifest.items) and manifest.items > 0, "items", manifest.items)
    refuse_unless(_is_text(manifest.split_method), "split_method", manifest.split_method)
    for key in ("group_id", "item_col"):
        value = getattr(manifest, key)
        refuse_unless(value is None or _is_text(value), key, value)
    for name, counts in manifest.splits.items():
        refuse_unless(name in SPLIT_NAMES, "a split", name)
        for key in ("rows", "positives", "users", "items"):
            value = getattr(counts, key)
            refuse_unless(
                (value is None and key in ("positives", "users")) or _is_whole(value), f"{name}: {key}", value
            )
        length = counts.history_length
        for key in ("p50", "p95", "max"):
            refuse_unless(_is_whole(getattr(length, key)), f"{name}: history_length: {key}", getattr(length, key))
        refuse_unless(_is_number(length.mean), f"{name}: history_length: mean", length.mean)
        refuse_unless(_is_number(counts.padding_share), f"{name}: padding_share", counts.padding_share)
        # The table of statistics divides by it.
        refuse_unless(counts.rows > 0 or counts.positives is None, f"{name}: rows", counts.rows)
    for key in ("columns", "item_columns", "event_columns"):
        for column in getattr(manifest, key):
            _check_column(column, key, refuse_unless)
    _check_folds(manifest, refuse_unless)
    _check_paths(manifest.files, refuse_unless)
    for key in ("ids", "behaviours"):
        names = getattr(manifest, key)
        refuse_unless(isinstance(names, list), key, names)
        for name in names:
            refuse_unless(_is_name(name), key, name)
    for key in ("label_col", "normalizers", "sources", "recipe", "facts"):
        refuse_unless(isinstance(getattr(manifest, key), dict), key, getattr(manifest, key))
    columns = manifest.feature_cols
    refuse_unless(isinstance(columns, list) and all(isinstance(c, dict) for c in columns), "feature_cols", columns)


def _check_column(column: Any, key: str, refuse_unless: Callable[[bool, str, Any], None]) -> None:
    refuse_unless(_is_name(column.name), f"{key}: name", column.name)
    where = f"{key}: {column.name}"
    refuse_unless(column.dtype in DTYPES, f"{where}: dtype", column.dtype)
    refuse_unless(column.role in ROLES, f"{where}: role", column.role)
    refuse_unless(all(map(_is_whole, column.shape)), f"{where}: shape", column.shape)


def _check_folds(manifest: Any, refuse_unless: Callable[[bool, str, Any], None]) -> None:
    """Samples have a fold where items have values for each of them, and only there."""
    of_items = [column for column in manifest.item_columns if column.role == "fold"]
    for column in of_items:
        # K and the width; all with the same K.
        fits = len(column.shape) == 2 and column.shape[0] == of_items[0].shape[0] > 0
        refuse_unless(fits, f"item_columns: {column.name}: shape", column.shape)
    names = [column.name for column in manifest.columns if column.role == "fold"]
    refuse_unless(len(names) == bool(of_items), "columns of role 'fold'", names)


def _check_paths(files: Any, refuse_unless: Callable[[bool, str, Any], None]) -> None:
    refuse_unless(isinstance(files, dict), "files", files)
    for name, digest in files.items():
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
        refuse_unless(bool(name) and inside and str(path) == name, "a file", name)
        refuse_unless(isinstance(digest, str) and bool(_SHA256.fullmatch(digest)), f"{name}: its SHA-256", digest)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    """Whether a text can be an HDF5 dataset, and a file where it is joined to a folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not any(c in value for c in "/\0")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
