"""Targets of new rows: files to score, of every kind of dataset, and `predict` with a trained run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tests.torture.fuzz.byte_mutator import mutated
from tests.torture.fuzz.entry_targets import KINDS, joined, params_of
from tests.torture.fuzz.harness import Target
from tests.torture.fuzz.seeds import Written, shrink_bytes
from tests.torture.fuzz.tables import as_bytes, drawn, odd_frames

Call = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def _rows_of(frame: pl.DataFrame) -> Callable[[Any], tuple[str, bytes]]:
    """Makes files of new rows: bytes of csv and parquet that are damaged, and odd tables in order."""
    plain = {".csv": as_bytes(joined(frame), ".csv"), ".parquet": as_bytes(frame, ".parquet")}
    odd = drawn(odd_frames({"rows": frame}))

    def make(rng: random.Random) -> tuple[str, bytes]:
        suffix = rng.choice((".csv", ".parquet"))
        if rng.random() < 0.5:
            return suffix, mutated(plain[suffix], [plain[suffix]], rng)
        return suffix, as_bytes(odd(rng)[1], suffix)

    return make


def _read(work: Path, reading: Any, params: Mapping[str, Any], frame: pl.DataFrame) -> Call:
    """Reads all batches of a file of new rows."""
    from fuxictr_multimodal.scoring.new_samples import new_samples

    writes = {suffix: Written(work / "rows", suffix) for suffix in (".csv", ".parquet")}

    def call(given: tuple[str, bytes]) -> None:
        rows = new_samples(writes[given[0]](given[1]), reading, params=params)
        for batch in rows:
            assert len(batch)
        rows.columns(["user_id", "item_id", "row_id"])

    for suffix in writes:
        call((suffix, as_bytes(frame if suffix == ".parquet" else joined(frame), suffix)))
    return _rows_of(frame), call


def _new_rows(kind: str) -> Callable[[Path], Call]:
    """New rows of a dataset that was built from an entry."""

    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.data.entry.build import build_entry
        from fuxictr_multimodal.data.store.feature_map import load_feature_map
        from fuxictr_multimodal.scoring.raw_rows import Reading

        params = params_of(work, *KINDS[kind])
        store = build_entry(params)
        feature_map = load_feature_map(store.dir, "Shop", params)
        max_len = store.manifest.max_len
        frames = KINDS[kind][1]()
        rows = frames["test_data" if "test_data" in frames else "interactions"].head(20)
        return _read(work, Reading(store, feature_map, 8, max_len), params, rows)

    return prepare


def _script_rows(work: Path) -> Call:
    """New rows of a dataset that a script built."""
    from fuxictr_multimodal.data.store import Store
    from fuxictr_multimodal.data.store.feature_map import load_feature_map
    from fuxictr_multimodal.scoring.raw_rows import Reading
    from tests.helpers import store_build

    store_build.build(work / "data", group_id="user_id")
    store = Store.open(work / "data", "tiny")
    columns, values, offsets = store_build.split_rows(20, 3)
    frame = pl.DataFrame(
        {
            **{name: pl.Series(column.tolist()) for name, column in columns.items()},
            "item_seq": [values[a:b].tolist() for a, b in itertools.pairwise(offsets)],
        }
    )
    feature_map = load_feature_map(store.dir, "tiny", {"embedding_dim": 4})
    return _read(work, Reading(store, feature_map, 8, 6), {"dataset_id": "tiny", "feature_cols": []}, frame)


def _predict(work: Path) -> Call:
    """`predict` of a trained run, from its YAML to the file of scores."""
    from fuxictr_multimodal.scoring.scores import predict
    from tests.helpers import shop, trained_shop

    run = trained_shop.train(work / "shop")
    writes = {suffix: Written(work / "rows", suffix) for suffix in (".csv", ".parquet")}
    frame = shop.log(12)

    def call(given: tuple[str, bytes]) -> None:
        predict(config_dir=run.config, expid=run.expid, data=writes[given[0]](given[1]), out=work / "scores.parquet")

    call((".parquet", as_bytes(frame, ".parquet")))
    return _rows_of(frame), call


def shrink_file(given: tuple[str, bytes]) -> Any:
    """Smaller files of the same name."""
    return ((given[0], smaller) for smaller in shrink_bytes(given[1]))


TARGETS = (
    Target("rows samples", 800, _new_rows("samples"), shrink_file),
    Target("rows log", 800, _new_rows("log"), shrink_file),
    Target("rows flat", 800, _new_rows("flat"), shrink_file),
    Target("rows script", 800, _script_rows, shrink_file),
    Target("predict", 150, _predict, shrink_file),
)
