"""An entry with its frames: typed settings, complete columns, and the tables that it names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fuxictr_multimodal.config.binder import bind
from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS, DatasetSettings
from fuxictr_multimodal.config.entry_settings import Form, form_of
from fuxictr_multimodal.data.entry.tables.files import Table, scan
from fuxictr_multimodal.data.recipes.behaviour_columns import KEYS as BEHAVIOUR_KEYS
from fuxictr_multimodal.data.recipes.behaviour_columns import WIDTH as BEHAVIOUR_WIDTH
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourColumns
from fuxictr_multimodal.data.store.feature_cols import (
    check_feature_cols,
    check_item_vectors,
    check_label_col,
    check_not_fold,
)
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

TABLES = ("train_data", "valid_data", "test_data", "interactions", "item_data", "user_data")
# A frame in place of a file, in the recipe of the dataset.
FRAME = "a data frame"
# History slots where the entry sets none.
MAX_LEN = 64
# The encoder of texts that needs no other, and the width of its vectors.
TFIDF = "tfidf"
TEXT_WIDTH = 64
# FuxiCTR's own files of a dataset lie in `<data_root>/<dataset_id>`; ours are then beside them, in `<dataset_id>_h5`.
FEATURE_MAP = "feature_map.json"
BESIDE = "_h5"
_COPY = re.compile(r"copy_from\(\s*([^()\s]+)\s*\)")
# Keys of a column that say how it is made; on disk it is made already.
_MAKING = ("preprocess", "embedding_file", "encoder", *BEHAVIOUR_KEYS)


@dataclass(frozen=True)
class Entry:
    """A dataset's entry, checked.

    Attributes:
        dataset_id: name of the dataset.
        settings: its settings.
        written: the entry as it is written, for the recipe.
        frames: data frames in place of files, by key.
    """

    dataset_id: str
    settings: DatasetSettings
    written: Mapping[str, Any]
    frames: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, params: Mapping[str, Any], frames: Mapping[str, Any] | None = None) -> Entry:
        """Check an entry, or the parameters of a run.

        Args:
            params: with `dataset_id`; keys that are not of a dataset are not read.
            frames: data frames of polars or pandas in place of the files of `TABLES`.

        Raises:
            ConfigError: a key or a value is wrong.
        """
        dataset_id = params["dataset_id"]
        where = f"dataset {dataset_id!r}"
        frames = frames or {}
        written = {key: value for key, value in params.items() if key in DATASET_KEYS and value is not None}
        for name in frames:
            if name not in TABLES:
                raise ConfigError(f"{where}: frames: {name!r} is no table of an entry. {did_you_mean(name, TABLES)}")
        written = with_frames(written, frames)
        settings = bind(DatasetSettings, written, where)
        columns = _named(settings.feature_cols)
        log = settings.interactions
        names = [c["name"] for c in columns if _has_name(c)] if isinstance(columns, list) else []
        if log is not None and "item_col" not in written and settings.item_col not in names:
            written["item_col"] = log.item
            settings = bind(DatasetSettings, written, where)
        return cls(dataset_id, settings, written, frames)

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"dataset {self.dataset_id!r}"

    @property
    def form(self) -> Form:
        """What the entry is made of."""
        return form_of(self.written)

    @cached_property
    def columns(self) -> Columns:
        """The columns, complete."""
        return Columns.of(self.settings, self.where, flat=self.form == "flat")

    @cached_property
    def group_col(self) -> str | None:
        """Column of grouped metrics: by default `user_id`; one that a run's `Base` names and the data lacks is none."""
        name = self.settings.group_id or "user_id"
        known = [c["name"] for c in (*self.columns.samples, *self.columns.users)]
        if name in known:
            return name
        if self.settings.group_id is not None:
            print(f"group_id: {name!r} is no active column of the samples: there are no grouped metrics")
        return None

    @property
    def user_col(self) -> str:
        """Column of users: by which `user_data` is joined and `by: user` splits."""
        log = self.settings.interactions
        return self.settings.user_col or (log.user if log is not None else self.settings.group_id) or "user_id"

    def within(self, name: str) -> str:
        """A table's name behind that of the dataset, which the name of a data frame has already."""
        return name if name.startswith(f"{self.where}: ") else f"{self.where}: {name}"

    def table(self, key: str, dtypes: Mapping[str, str], *, optional: Collection[str] = ()) -> Table:
        """Open one of `TABLES`; see `scan`."""
        source = getattr(self.settings, key)
        source = self.frames.get(key, source.file if key == "interactions" else source)
        if isinstance(source, str) and source == FRAME:
            raise DataError(f"{self.where}: {key} was a data frame, which is not kept")
        return scan(
            source,
            dtypes=dtypes,
            where=f"{self.where}: {key}",
            data_format=self._format_of(key),
            optional=optional,
            sep=self.settings.sep or ",",
        )

    def _format_of(self, key: str) -> str | None:
        # Items and users may come in another format than the samples.
        known = self.settings.data_format
        return known if key not in ("item_data", "user_data") else None


def with_frames(entry: Mapping[str, Any], frames: Collection[str]) -> dict[str, Any]:
    """An entry that names data frames where it would name files."""
    written = dict(entry)
    for name in frames:
        written[name] = {**written.get(name, {}), "file": FRAME} if name == "interactions" else FRAME
    if "train_data" in frames:
        written.setdefault("data_format", "parquet")
    return written


@dataclass(frozen=True)
class Columns:
    """The active columns of an entry by where they come from.

    Attributes:
        store: all of them as they are on disk.
        own: that of the item's own id; None in a flat dataset.
        items: other columns of the item table.
        users: columns of `user_data`; empty where there is none.
        samples: the others of the splits.
        histories: columns of histories, the main one first.
        label: name of the label.
        raw: name in the files, where it is another one.
        making: keys that say how a column is made, by name.
        splitters: what is between the values of a list that is written as text, by name.
    """

    store: tuple[dict[str, Any], ...]
    own: dict[str, Any] | None
    items: tuple[dict[str, Any], ...]
    users: tuple[dict[str, Any], ...]
    samples: tuple[dict[str, Any], ...]
    histories: tuple[str, ...]
    label: str
    raw: Mapping[str, str]
    making: Mapping[str, Mapping[str, Any]]
    splitters: Mapping[str, str]

    @classmethod
    def of(cls, settings: DatasetSettings, where: str, *, flat: bool) -> Columns:
        """Complete the columns of an entry, which is `flat` without items.

        Raises:
            ConfigError: a column is wrong.
        """
        written: Any = settings.feature_cols
        given = _named(written)
        if not isinstance(given, list) or not all(_has_name(column) for column in given):
            check_feature_cols(written, where)  # says what is wrong
        making = {c["name"]: {key: c[key] for key in _MAKING if key in c} for c in given}
        raw = {name: _copied(keys["preprocess"], f"{where}: column {name!r}") for name, keys in making.items()
               if "preprocess" in keys}  # fmt: skip
        plain = [{key: value for key, value in c.items() if key not in _MAKING} for c in given]
        columns = [column for column in check_feature_cols(plain, where) if column["active"]]
        labels: Any = settings.label_col
        label = check_label_col(labels, where)["name"]
        check_not_fold(settings.weight_col, f"{where}: weight_col")
        for event in settings.event_cols or ():
            check_not_fold(event.name, f"{where}: event_cols")
        names = settings.history_col
        histories = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        if len({*histories}) < len(histories):
            raise ConfigError(f"{where}: history_col names a column twice: {', '.join(histories)}")
        splitters = {c["name"]: c["splitter"] for c in columns if "splitter" in c}
        # FuxiCTR's form describes a history as a sequence that shares the embedding of the item.
        columns = [c for c in columns if c["name"] not in histories]
        own = None
        if not flat:
            own = next((c for c in columns if c["name"] == settings.item_col), None)
            if own is None or own["type"] != "categorical":
                raise ConfigError(
                    f"{where}: item_col {settings.item_col!r} must be an active column of type categorical. "
                    f"{did_you_mean(settings.item_col, [c['name'] for c in columns])}"
                )
            own["source"] = "item"
            own.pop("vocab_size", None)
        for column in columns:
            _complete(column, making[column["name"]], settings, where, flat=flat)
        others = [c for c in columns if c is not own]
        items = [c for c in others if own is not None and c.get("source") == "item"]
        joined = settings.user_data is not None
        users = [c for c in others if joined and c.get("source") == "user"]
        samples = [c for c in others if c not in items and c not in users and c.get("source") != "event"]
        return cls(tuple(columns), own, tuple(items), tuple(users), tuple(samples), histories, label, raw, making,
                   splitters)  # fmt: skip

    def dtypes(self, columns: Collection[Mapping[str, Any]]) -> dict[str, str]:
        """Types of columns in the files, by the names that they have there; see `scan`."""
        return {self.raw_name(c): self._dtype_of(c) for c in columns if self.in_tables(c)}

    def in_tables(self, column: Mapping[str, Any]) -> bool:
        """Whether the column's values are in the tables of the entry."""
        making = self.making[column["name"]]
        return "embedding_file" not in making and "item_vectors" not in making

    def by_behaviour(self, where: str) -> BehaviourColumns:
        """The columns of the item table that training behaviour makes.

        Raises:
            ConfigError: their settings do not go together.
        """
        made = {c["name"]: c for c in self.items if "item_vectors" in self.making[c["name"]]}
        return BehaviourColumns.of_settings(
            {name: {**self.making[name], "pretrain_dim": c["pretrain_dim"]} for name, c in made.items()}, where
        )

    def raw_name(self, column: Mapping[str, Any]) -> str:
        """The column's name in the files."""
        return self.raw.get(column["name"], column["name"])

    def _dtype_of(self, column: Mapping[str, Any]) -> str:
        if "encoder" in self.making[column["name"]]:
            return "str"
        return "list" if column["type"] in ("sequence", "embedding") else column["dtype"]


def _named(feature_cols: Any) -> list[dict[str, Any]]:
    """One mapping a column, names written out; what is wrong with one is found later."""
    if not isinstance(feature_cols, list | tuple):
        return feature_cols
    complete = []
    for column in feature_cols:
        names = column.get("name") if isinstance(column, Mapping) else None
        several = names if isinstance(names, list) else [names]
        complete += [{**column, "name": name} for name in several] if isinstance(column, Mapping) else [column]
    return complete


def _has_name(column: Any) -> bool:
    return isinstance(column, Mapping) and isinstance(column.get("name"), str)


def _copied(text: Any, where: str) -> str:
    found = _COPY.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(
            f"{where}: preprocess {text!r} names a function of a Python class: only copy_from(<column>) is known; make "
            "the column in the data and leave `preprocess` out"
        )
    return found[1]


def _complete(
    column: dict[str, Any], making: dict[str, Any], settings: DatasetSettings, where: str, *, flat: bool
) -> None:
    """Set what a column has from the entry, and what its type on disk is."""
    name = f"{where}: column {column['name']!r}"
    if column["type"] in ("categorical", "sequence") and settings.min_categr_count != 1:
        column.setdefault("min_categr_count", settings.min_categr_count)
    encoder = making.get("encoder", TFIDF)
    if not isinstance(encoder, str) or not encoder.strip():
        raise ConfigError(f"{name}: encoder {encoder!r} is no name of an encoder: write it as text, such as {TFIDF}")
    for key, kind in (("embedding_file", "embedding"), ("encoder", "text")):
        if key in making and (column["type"] != kind or flat or column.get("source") != "item"):
            raise ConfigError(f"{name}: {key} is for a column of type {kind} with `source: item`")
    if any(key in making for key in BEHAVIOUR_KEYS):
        if flat or "embedding_file" in making:
            reason = "comes with vectors already" if "embedding_file" in making else "needs items and histories"
            raise ConfigError(f"{name}: item_vectors is for another kind of column: this one {reason}")
        check_item_vectors({**column, **{key: making[key] for key in BEHAVIOUR_KEYS if key in making}}, name)
        # The default of `user_col` may be a request or a session, in whose fold the user's other samples are not.
        group = settings.group_id
        if settings.interactions is None and settings.user_col is None and group not in (None, "user_id"):
            raise ConfigError(
                f"{name}: item_vectors needs `user_col`, the column that names the user of each sample: `group_id` is "
                f"{group!r}, which may be something else, such as a request"
            )
        column.setdefault("pretrain_dim", BEHAVIOUR_WIDTH)
    if column["type"] == "text":
        if flat or column.get("source") != "item":
            raise ConfigError(f"{name}: type text is for columns with `source: item`")
        making.setdefault("encoder", TFIDF)
        column |= {"type": "embedding", "dtype": "float"}
        # Vectors of another encoder have a width of their own, which the item table tells.
        if encoder == TFIDF:
            column.setdefault("pretrain_dim", TEXT_WIDTH)
