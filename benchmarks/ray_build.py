"""Seconds of a build by Ray against one process, memory of the process that starts it, and what kills cost.

A log of events and ready samples are made up, each of as many samples as asked for, and built by both engines, each in
a process of its own. The datasets are compared: hash of the manifest, bytes of each file, and each column as it is
read. Then a worker is killed (SIGKILL) while samples are written, and last the process that builds: the next build must
find nothing half-written. Seconds with Ray include its start and end; the build alone is `build_s`,
and `cpu_s` is what the building process itself computes, which bounds the gain from more workers.

    python benchmarks/ray_build.py
    python benchmarks/ray_build.py --samples 5000000 --workers 8
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common import copy_bytes, emit, in_its_own_process, peak_rss_mib, seconds

MAX_LEN = 64
KINDS = ("log", "samples")
# After its parent is gone, Ray ends by itself within this.
RAY_END_SECONDS = 60


def main() -> None:
    """Make the data, build it in all ways, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="of each kind of data")
    parser.add_argument("--workers", type=int, default=2, help="cores of Ray and of the local build")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Measure in `folder` and print the result."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        in_its_own_process(make_data, folder, kind, options.samples)
        local = in_its_own_process(build, folder, kind, "local", options.workers)
        by_ray = in_its_own_process(build, folder, kind, "ray", options.workers)
        same = compared(folder / "local" / kind, folder / "ray" / kind)
        killed = in_its_own_process(build_with_a_killed_worker, folder, kind, options.workers)
        assert local["hash"] == by_ray["hash"] == killed["hash"]
        same_again = compared(folder / "local" / kind, folder / "ray" / kind)
        assert same == same_again
        found[kind] = {
            "local": local,
            "ray": by_ray,
            "columns_equal": same,
            "ray_with_a_killed_worker": killed,
            "driver_killed": killed_driver(folder, kind, options.workers, local["hash"]),
        }
    every = [found[kind] for kind in KINDS]
    taken, alone = (sum(one[engine]["seconds"] for one in every) for engine in ("ray", "local"))
    sources = [path for path in folder.iterdir() if path.suffix == ".parquet"]
    written = [path for path in (folder / "local").rglob("*") if path.is_file()]
    copy = min(seconds(lambda: copy_bytes(sources, written, folder / "copy"), repeats=2))
    rows = len(KINDS) * options.samples
    emit(
        name="ray_build",
        shapes={"samples": options.samples, "workers": options.workers},
        rows_per_s=rows / taken,
        ceiling=rows / copy,
        ceiling_is="the bytes of the files read and those of the datasets written with fsync",
        ratio_to_plain=alone / taken,
        plain_is="the build of one process on as many cores",
        check="manifest hash, bytes of all files and values of all columns are equal, also after kill -9 of a worker, "
        "and of the next build after kill -9 of the building process",
        load_average=os.getloadavg()[0],
        kinds=found,
    )


def make_data(folder: Path, kind: str, rows: int) -> None:
    """Write the user's parquet files."""
    import polars as pl

    rng = np.random.Generator(np.random.PCG64(1))
    items = pl.Series("item", [f"item-{n:07d}" for n in range(max(100, rows // 10))])
    users = pl.Series("user", [f"user_{n:09d}" for n in range(max(20, rows // 50))])

    def some(ids: pl.Series, count: int, skew: int = 1) -> pl.Series:
        return ids.gather((len(ids) * rng.random(count) ** skew).astype(np.int64))

    columns = [
        some(users, rows).alias("user_id"),
        some(items, rows, 3).alias("item_id"),
        some(pl.Series([f"city {n}" for n in range(300)]), rows, 2).alias("city"),
        pl.Series("price", rng.random(rows)),
        pl.Series("label", rng.integers(0, 2, rows).astype(np.float64)),
    ]
    if kind == "log":
        columns.append(pl.Series("time", 1_600_000_000 + np.cumsum(rng.integers(0, 3, rows))))
    else:
        lengths = rng.integers(0, MAX_LEN + 1, rows)
        flat = pl.DataFrame({"row": np.repeat(np.arange(rows), lengths), "clicks": some(items, int(lengths.sum()), 3)})
        lists = flat.group_by("row", maintain_order=True).agg("clicks")
        lists = pl.DataFrame({"row": np.arange(rows)}).join(lists, on="row", how="left", maintain_order="left")
        columns.append(lists["clicks"])
    pl.DataFrame(columns).write_parquet(folder / f"{kind}.parquet", row_group_size=100_000)


def entry_of(folder: Path, kind: str) -> dict[str, Any]:
    """The entry, as in a file of `config/dataset_config/`."""
    text = {"active": True, "dtype": "str", "type": "categorical"}
    number = {"active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"}
    common = {
        "dataset_id": kind,
        "data_root": str(folder),
        "data_format": "parquet",
        "group_id": "user_id",
        "max_len": MAX_LEN,
        "feature_cols": [
            {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
            {"name": "item_id", **text, "source": "item"},
            {"name": "city", **text},
            {"name": "price", **number},
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }
    file = str(folder / f"{kind}.parquet")
    if kind == "samples":
        split = {"by": "user", "valid": 0.1, "test": 0.1}
        return {**common, "train_data": file, "history_col": "clicks", "split": split}
    log = {"file": file, "user": "user_id", "item": "item_id", "time": "time", "label": "label"}
    return {**common, "interactions": log, "event_cols": [{"name": "age"}], "split": {"by": "time", "valid": 0.1}}


def build(folder: Path, kind: str, engine: str, workers: int) -> dict[str, Any]:
    """Build the dataset in this process; importing is apart."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    import fuxictr_multimodal.data.entry.log.dataset
    import fuxictr_multimodal.data.entry.samples.dataset  # noqa: F401 (imported when it is needed: not the build's time)
    from fuxictr_multimodal.data.entry.build import build_entry
    from fuxictr_multimodal.system.ray_cluster import ray_at

    imported_mib, started, before = peak_rss_mib(), time.perf_counter(), time.process_time()
    with ray_at(None) if engine == "ray" else contextlib.nullcontext():
        ready = time.perf_counter()
        store = build_entry(entry_of(folder, kind), data_root=folder / engine, engine=engine, overwrite=True)
        built = time.perf_counter()
    return {
        "seconds": time.perf_counter() - started,
        "build_s": built - ready,
        # Of this process alone: with Ray, what workers cannot take off it.
        "cpu_s": time.process_time() - before,
        "peak_rss_mib": peak_rss_mib(),
        "peak_rss_mib_of_imports": imported_mib,
        "hash": store.manifest.hash,
    }


def build_with_a_killed_worker(folder: Path, kind: str, workers: int) -> dict[str, Any]:
    """Build by Ray, and kill a worker while samples are written."""
    killed: list[int] = []

    def kill() -> None:
        workers_now = [one for one in psutil.Process().children(recursive=True) if _title(one).startswith("ray::_work")]
        if workers_now:
            os.kill(workers_now[0].pid, signal.SIGKILL)
            killed.append(workers_now[0].pid)

    stop = threading.Event()
    watcher = threading.Thread(target=when_written, args=(folder, kind, kill, lambda: bool(killed) or stop.is_set()))
    watcher.start()
    found = build(folder, kind, "ray", workers)
    stop.set()
    watcher.join()
    assert killed, "no worker was there to be killed"
    return {**found, "killed": len(killed)}


def killed_driver(folder: Path, kind: str, workers: int, expected: str) -> dict[str, Any]:
    """Kill the process that builds by Ray; look at what is left, and build again."""
    root = folder / "ray"
    shutil.rmtree(root / kind)
    process = multiprocessing.get_context("spawn").Process(target=build, args=(folder, kind, "ray", workers))
    process.start()
    below: list[psutil.Process] = []

    def kill() -> None:
        below.extend(psutil.Process(process.pid).children(recursive=True))
        process.kill()

    when_written(folder, kind, kill, lambda: bool(below))
    process.join()
    _, alive = psutil.wait_procs(below, timeout=RAY_END_SECONDS)
    assert not (root / kind).exists()
    left = sorted(path.name for path in root.iterdir())
    again = in_its_own_process(build, folder, kind, "ray", workers)
    assert again["hash"] == expected
    assert not [path.name for path in root.iterdir() if "building" in path.name]
    # Where nobody reaps orphans, they stay as zombies.
    running = [_title(one) for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not running, running
    return {"left_for_the_next_build_to_remove": left, "next_build_s": again["seconds"]}


def when_written(folder: Path, kind: str, act: Callable[[], None], done: Callable[[], bool]) -> None:
    """Act while the first samples are being written, until it is done."""
    writing = folder / "ray" / f".{kind}.building" / "train" / "part-00000.h5"
    while not done():
        if writing.exists():
            act()
        time.sleep(0.05)


def compared(one: Path, other: Path) -> int:
    """Assert that two datasets are equal in each value of each column; the number of columns."""
    from fuxictr_multimodal.data.store import Store

    stores = [Store.open(place.parent, place.name) for place in (one, other)]
    assert stores[0].manifest == stores[1].manifest
    columns = 0
    for split in stores[0].manifest.splits:
        with stores[0].reader(split) as here, stores[1].reader(split) as there:
            events = [column.name for column in stores[0].manifest.event_columns]
            for name in here.columns:
                assert np.array_equal(here.read(name, 0, here.rows), there.read(name, 0, there.rows)), (split, name)
            ours, theirs = (reader.read_jagged(0, reader.rows, events=events) for reader in (here, there))
            assert np.array_equal(ours.values, theirs.values)
            assert np.array_equal(ours.offsets, theirs.offsets)
            for name in events:
                assert np.array_equal(ours.events[name], theirs.events[name])
            columns += len(here.columns) + 2 + len(events)
    return columns


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


if __name__ == "__main__":
    main()
