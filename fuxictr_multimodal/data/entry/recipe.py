"""The entry in a dataset's manifest, and whether an entry still is the one that the dataset was built from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from fuxictr_multimodal.config.changes import changes
from fuxictr_multimodal.config.dataset_settings import DatasetSettings
from fuxictr_multimodal.data.entry.entry import FRAME, TABLES, Entry
from fuxictr_multimodal.data.entry.tables.files import files_of
from fuxictr_multimodal.data.entry.tables.texts import changed_encoder
from fuxictr_multimodal.data.store.store import Store
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import sha256

# Where data lies, how it is got, and what a run may choose for itself.
_NOT_OF_DATA = frozenset(
    "data_root obtain rebuild_dataset data_block_size data_format group_id max_len use_features feature_specs".split()
)
_LONGEST = 80


def recipe_of(entry: Entry) -> dict[str, Any]:
    """What the manifest keeps of the entry: all that decides what the dataset holds; `check_unchanged` reads it."""
    defaults = {key: field.default for key, field in DatasetSettings.model_fields.items()}
    written = {key: value for key, value in entry.written.items() if key not in _NOT_OF_DATA and value != defaults[key]}
    return {"builder": "entry", "entry": json.loads(json.dumps(written))}


def check_unchanged(store: Store, entry: Entry) -> None:
    """Refuse an entry that was edited since its dataset was built; datasets of scripts are not compared.

    An encoder of texts on this machine that was trained again meanwhile is a warning: finished runs need the dataset.

    Raises:
        DataError: naming the first key that differs, with both values.
    """
    built = store.manifest.recipe.get("entry")
    if not isinstance(built, Mapping):
        return
    then, now = _comparable(built), _comparable(recipe_of(entry)["entry"])
    found = [(change.key, change.then, change.now) for change in changes(then, now)]
    found = [change for change in found if not (_same_file(*change) or _same_content(store.manifest.sources, *change))]
    slots = entry.settings.max_len
    if slots is not None and slots > store.manifest.max_len > 0:
        found.append(("max_len", store.manifest.max_len, slots))
    if not found:
        _warn_of_changed_encoder(store, entry)
        return
    key, before, after = found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise DataError(
        f"{store.place} was built from another entry ({key}: {_short(before)} then, {_short(after)} now{more}): build "
        f"it again with `fxmm build --dataset-id {entry.dataset_id} --overwrite`, or give the edited entry another "
        "dataset_id"
    )


def _warn_of_changed_encoder(store: Store, entry: Entry) -> None:
    column = changed_encoder(entry, store.manifest.facts.get("vectors", {}))
    if column is not None:
        logging.warning(
            "%s: the encoder of column %r has other weights than when the dataset was built, and the dataset keeps its "
            "vectors: `fxmm build --dataset-id %s --overwrite` encodes the texts again",
            *(store.place, column, entry.dataset_id),
        )


def _comparable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Columns by name, so that a change names its column; what is off is not there, and the order counts."""
    columns: dict[str, Any] = {}
    for column in entry.get("feature_cols") or ():
        names = column["name"] if isinstance(column["name"], list) else [column["name"]]
        for name in names:
            if column.get("active", True):
                columns[name] = {key: value for key, value in column.items() if key not in ("name", "active")}
    label = entry.get("label_col")
    label = label[0] if isinstance(label, list) and label else label
    defaults = {key: field.default for key, field in DatasetSettings.model_fields.items()}
    entry = {key: value for key, value in entry.items() if value != defaults.get(key)}
    return {**entry, "feature_cols": columns, "order of feature_cols": list(columns), "label_col": label}


def _same_file(key: str, then: Any, now: Any) -> bool:
    """Whether two paths may be one file: a data frame, or one path is the end of the other.

    >>> _same_file("train_data", "./raw/train.csv", "/shop/raw/train.csv")
    True
    >>> _same_file("train_data", "./raw/train.csv", "./raw/train_2.csv")
    False
    """
    table = key.removesuffix(".file")
    if table not in TABLES:
        return False
    if FRAME in (then, now):
        return True
    if not (isinstance(then, str) and isinstance(now, str)):
        return False
    one, other = ([part for part in PurePath(path).parts if part not in (".", "..")] for path in (then, now))
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def _same_content(sources: Mapping[str, str], key: str, then: Any, now: Any) -> bool:
    """Whether files at another place, such as that of another machine, are those of which the dataset was built.

    Args:
        sources: SHA-256 of those, by table and file name; of the dataset's manifest.
        key: of the entry.
        then, now: the two places.
    """
    table = key.removesuffix(".file")
    if table not in TABLES or not (isinstance(then, str) and isinstance(now, str)):
        return False
    try:
        files = {f"{table}/{file.name}": file for file in files_of(now, data_format=None, where=table)}
        built = {name: digest for name, digest in sources.items() if name.startswith(f"{table}/")}
        return files.keys() == built.keys() and all(sha256(file) == built[name] for name, file in files.items())
    except (DataError, OSError):
        return False


def _short(value: Any) -> str:
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    # The end of a path tells more than its beginning.
    return f"...{text[-_LONGEST:]}" if isinstance(value, str) else f"{text[:_LONGEST]}..."
