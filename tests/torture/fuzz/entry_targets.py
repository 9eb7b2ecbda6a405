"""Targets of datasets: entries with their samples, logs, items and users, as files and as data frames; `fxmm init`."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tests.helpers import log_dataset, ready_samples, sequence_csv
from tests.torture.fuzz.byte_mutator import mutated
from tests.torture.fuzz.harness import Target
from tests.torture.fuzz.seeds import Written, of_bytes, shrink_bytes
from tests.torture.fuzz.tables import as_bytes, drawn, odd_frames, python_cells

Call = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def _samples() -> dict[str, pl.DataFrame]:
    frames = {}
    for number, split in enumerate(("train", "valid", "test")):
        frame = ready_samples.make_rows(number, 24)
        times = [None if ids is None else [1_690_000_000 + n for n in range(len(ids))] for ids in frame["clicks"]]
        frames[f"{split}_data"] = frame.with_columns(
            pl.Series("times", times, dtype=pl.List(pl.Int64)),
            at=pl.int_range(pl.len()) + 1_700_000_000,
            weight=pl.lit(0.5),
        )
    return {**frames, "item_data": ready_samples.make_items(), "user_data": ready_samples.make_users()}


SAMPLES_ENTRY: dict[str, Any] = {
    **ready_samples.entry_of(Path()),
    "event_cols": [{"name": "age", "history": "times", "target": "at", "bins": 3}],
    "weight_col": "weight",
}


def _log() -> dict[str, pl.DataFrame]:
    raw = log_dataset.make_raw()
    return {"interactions": raw["log"].head(80), "item_data": raw["items"], "user_data": raw["users"]}


LOG_ENTRY: dict[str, Any] = {
    **log_dataset.entry_of({"log": "log", "items": "items", "users": "users"}),
    "event_cols": [{"name": "hour"}, {"name": "weight", "bins": 3}, {"name": "age", "bins": 3}],
}


def _flat() -> dict[str, pl.DataFrame]:
    return {
        f"{split}_data": sequence_csv.frame_of(30, seed=seed) for seed, split in enumerate(("train", "valid", "test"))
    }


FLAT_ENTRY: dict[str, Any] = {
    **sequence_csv.dataset_entry(Path(), "Shop", Path())["Shop"], "dataset_id": "Shop",
    "feature_cols": [
        *sequence_csv.dataset_entry(Path(), "Shop", Path())["Shop"]["feature_cols"][1:],
        {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    ],
}  # fmt: skip
KINDS = {"samples": (SAMPLES_ENTRY, _samples), "log": (LOG_ENTRY, _log), "flat": (FLAT_ENTRY, _flat)}


def build_entry_of(work: Path, entry: dict[str, Any], tables: Callable[[], dict[str, pl.DataFrame]]) -> Any:
    """The dataset of files of these tables, and the parameters that name them."""
    from fuxictr_multimodal.data.entry.build import build_entry

    return build_entry(params_of(work, entry, tables))


def params_of(work: Path, entry: dict[str, Any], tables: Callable[[], dict[str, pl.DataFrame]]) -> dict[str, Any]:
    """An entry with its tables as parquet files, and where its dataset goes."""
    named: dict[str, Any] = {}
    for key, frame in tables().items():
        path = work / f"{key}.parquet"
        frame.write_parquet(path)
        named[key] = str(path)
    if "interactions" in named:
        named["interactions"] = {**entry["interactions"], "file": named["interactions"]}
    return {**entry, **named, "data_root": str(work / "data"), "embedding_dim": 4}


def _builder(work: Path) -> Callable[..., None]:
    """Builds the dataset of an entry and removes it."""
    from fuxictr_multimodal.data.entry.build import build_entry

    numbers = itertools.count()

    def build(entry: dict[str, Any], frames: dict[str, Any] | None = None) -> None:
        root = work / f"data{next(numbers)}"
        try:
            build_entry({**entry, "data_root": str(root)}, frames=frames)
        finally:
            left = [path.name for path in root.iterdir()] if root.is_dir() else []
            shutil.rmtree(root, ignore_errors=True)
        if [name for name in left if name.endswith(".building")]:
            raise RuntimeError(f"left behind: {left}")

    return build


def _frames_of(kind: str) -> Callable[[Path], Call]:
    """A dataset of data frames, one of which is odd."""
    entry, tables = KINDS[kind]

    def prepare(work: Path) -> Call:
        plain, build = tables(), _builder(work)
        build(entry, plain)

        def call(given: tuple[str, pl.DataFrame]) -> None:
            build(entry, {**plain, given[0]: given[1]})

        return drawn(odd_frames(plain)), call

    return prepare


def _pandas(work: Path) -> Call:
    """Frames of pandas, with objects of any kind in their columns."""
    import numpy as np
    import pandas as pd

    from tests.torture.fuzz.tables import CELLS

    plain, build = _samples(), _builder(work)
    objects = [*CELLS, pd.NaT, pd.NA, np.float32(2), np.datetime64("2025-01-01"), pd.Timestamp("2025-01-01", tz="UTC"),
               {"a": 1}, ["a"], (1, 2), np.array([1, 2]), 10**30, object, 1j, {1, 2}, pd.Timedelta("1s")]  # fmt: skip

    def make(rng: random.Random) -> tuple[str, str, list[tuple[int, Any]], str]:
        name = rng.choice(sorted(plain))
        column = rng.choice(plain[name].columns)
        cells = [(rng.randrange(plain[name].height), rng.choice(objects)) for _ in range(rng.choice((1, 1, 2, 40)))]
        return name, column, cells, rng.choice(("object", "object", "category", "string", "index"))

    def call(given: tuple[str, str, list[tuple[int, Any]], str]) -> None:
        name, column, cells, kind = given
        frame = plain[name].to_pandas()
        values = frame[column].astype(object)
        for row, cell in cells:
            values.iat[row] = cell
        try:
            frame[column] = values if kind in ("object", "index") else values.astype(kind)
        except (TypeError, ValueError):
            frame[column] = values
        if kind == "index":
            frame = frame.set_index(column)
        build(SAMPLES_ENTRY, {**plain, name: frame})

    return make, call


def _files_of(kind: str, suffix: str) -> Callable[[Path], Call]:
    """A dataset of files, one of which has odd bytes."""
    entry, tables = KINDS[kind]

    def prepare(work: Path) -> Call:
        plain, build = tables(), _builder(work)
        folder = work / "raw"
        folder.mkdir(parents=True)
        contents = {
            key: as_bytes(joined(frame) if suffix != ".parquet" else frame, suffix) for key, frame in plain.items()
        }
        paths = {}
        for key, content in contents.items():
            paths[key] = folder / f"{key}{suffix}"
            paths[key].write_bytes(content)
        write = Written(work / "odd", suffix)
        lists = {key: [content] for key, content in contents.items()}

        def make(rng: random.Random) -> tuple[str, bytes]:
            key = rng.choice(sorted(contents))
            return key, mutated(contents[key], [contents[rng.choice(sorted(contents))], *lists[key]], rng)

        def call(given: tuple[str, bytes]) -> None:
            files = {**paths, given[0]: write(given[1])}
            named = {key: str(path) for key, path in files.items()}
            if "interactions" in named:
                named["interactions"] = {**entry["interactions"], "file": named["interactions"]}
            build({**entry, **named, "data_format": suffix[1:]})

        call(
            ("train_data", contents["train_data"]) if "train_data" in contents else ("item_data", contents["item_data"])
        )
        return make, call

    return prepare


def joined(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists as texts with a splitter, as csv files have them."""
    return frame.with_columns(
        pl.Series(
            c.name,
            [
                None if v is None else ("|" if c.name == "tags" else "^").join("" if x is None else str(x) for x in v)
                for v in python_cells(c)
            ],
        )
        for c in frame.get_columns()
        if c.dtype == pl.List
    )


def _shrink_pair(given: tuple[str, bytes]) -> Any:
    return ((given[0], smaller) for smaller in shrink_bytes(given[1]))


def _scans(suffix: str) -> Callable[[Path], Call]:
    """A table alone, with all types that columns are declared as."""

    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.data.entry.tables.files import scan

        frames = {**_samples(), **{f"log {key}": frame for key, frame in _log().items()}}
        plain = [frame if suffix == ".parquet" else joined(frame) for frame in frames.values()]
        seeds = [as_bytes(frame, suffix) for frame in plain]
        odd = drawn(odd_frames({name: frame.head(12) for name, frame in frames.items()}))
        write, raw = Written(work / "odd", suffix), of_bytes(seeds)
        kinds = ("int", "float", "str", "list", "any")

        def make(rng: Any) -> tuple[bytes, dict[str, str]]:
            columns = rng.choice(plain).columns
            dtypes = {name: rng.choice(kinds) for name in columns if rng.random() < 0.6}
            if rng.random() < 0.25:
                name, frame = odd(rng)
                dtypes = {column: rng.choice(kinds) for column in frames[name].columns}
                return as_bytes(frame, suffix), dtypes
            return raw(rng), dtypes

        def call(given: tuple[bytes, dict[str, str]]) -> None:
            content, dtypes = given
            table = scan(write(content), dtypes=dtypes, where="table", optional=[*dtypes][:2])
            table.read()

        return make, call

    return prepare


def _shrink_scan(given: tuple[bytes, dict[str, str]]) -> Any:
    for name in given[1]:
        yield given[0], {key: kind for key, kind in given[1].items() if key != name}
    for smaller in shrink_bytes(given[0]):
        yield smaller, given[1]


def _proposals(work: Path) -> Call:
    """`fxmm init` looks at files of which it knows nothing."""
    from fuxictr_multimodal.data.proposal.write import propose

    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.rename({"item_id": "item"}) if frame.columns == ["item_id", "brand"] else frame

    contents: list[tuple[str, dict[str, bytes]]] = []
    for tables in (_samples, _log, _flat):
        for suffix in (".parquet", ".csv"):
            frames = {key: frame if suffix == ".parquet" else joined(frame) for key, frame in tables().items()}
            contents.append((suffix, {key: as_bytes(renamed(frame), suffix) for key, frame in frames.items()}))
    odd = drawn(st.one_of([odd_frames(tables()) for tables in (_samples, _log, _flat)]))
    numbers = itertools.count()

    def make(rng: Any) -> tuple[str, dict[str, bytes]]:
        suffix, files = rng.choice(contents)
        chosen = dict(files)
        key = rng.choice(sorted(chosen))
        if rng.random() < 0.5:
            chosen[key] = mutated(chosen[key], [*files.values()], rng)
        else:
            chosen[key] = as_bytes(odd(rng)[1], suffix)
        return suffix, chosen

    def call(given: tuple[str, dict[str, bytes]]) -> None:
        suffix, files = given
        folder = work / f"raw{next(numbers)}"
        folder.mkdir()
        paths = [folder / f"{key}{suffix}" for key in files]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content)
        try:
            propose([*map(str, paths)], dataset_id="Shop", config_dir=folder / "config")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    for plain in contents:
        call(plain)
    return make, call


def _entries(work: Path) -> Call:
    """Odd entries over files that are as they should be: what binds is built."""
    from fuxictr_multimodal.config.expids import check_dataset_entry
    from fuxictr_multimodal.config.of_settings import plain as plain_of
    from tests.torture.fuzz import tree_mutator

    build = _builder(work)
    plain: dict[str, dict[str, Any]] = {}
    tables_of = {}
    for kind, (entry, tables) in KINDS.items():
        tables_of[kind] = tables()
        plain[kind] = {key: value for key, value in entry.items() if key not in ("dataset_id", "data_root")}

    def make(rng: random.Random) -> tuple[str, dict[str, Any]]:
        kind = rng.choice(sorted(plain))
        entry = tree_mutator.mutated(plain[kind], [*plain.values()], rng, yaml=True)
        return kind, entry if isinstance(entry, dict) else {}

    def call(given: tuple[str, dict[str, Any]]) -> None:
        kind, entry = given
        checked = check_dataset_entry("Shop", plain_of({"data_root": "data", **entry}, "the entry"), "the entry")
        keys = {key for key in tables_of[kind] if key in checked}
        build(checked, {key: frame for key, frame in tables_of[kind].items() if key in keys})

    for kind, entry in plain.items():
        call((kind, entry))
    return make, call


def _shrink_entry(given: tuple[str, dict[str, Any]]) -> Any:
    from tests.torture.fuzz.tree_mutator import smaller

    return ((given[0], entry) for entry in smaller(given[1]))


TARGETS = (
    Target("scan csv", 8_000, _scans(".csv"), _shrink_scan),
    Target("scan parquet", 8_000, _scans(".parquet"), _shrink_scan),
    Target("build samples frames", 600, _frames_of("samples")),
    Target("build log frames", 600, _frames_of("log")),
    Target("build flat frames", 600, _frames_of("flat")),
    Target("build pandas", 500, _pandas),
    Target("build samples csv", 400, _files_of("samples", ".csv"), _shrink_pair),
    Target("build samples parquet", 400, _files_of("samples", ".parquet"), _shrink_pair),
    Target("build log csv", 400, _files_of("log", ".csv"), _shrink_pair),
    Target("build flat parquet", 300, _files_of("flat", ".parquet"), _shrink_pair),
    Target("build entries", 1_500, _entries, _shrink_entry),
    Target("init", 600, _proposals),
)
