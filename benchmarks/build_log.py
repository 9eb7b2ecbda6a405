"""Events per second from a log of events to a dataset on disk, and the peak memory.

A log with text ids, three context columns and a users file is made up and built by its entry: two passes over the
file, codes of users and items, labels, a split by time, histories without a look ahead, vocabularies of the context
columns, item table, ids, checksums. Time ends when the dataset's files are on the device (fsync). Each part runs in its
own process; files lie in a temporary folder (`TMPDIR` chooses the disk), which is removed.

The peak is reading the log's bytes and writing the dataset's, with fsync, and nothing else. The reference is the same
samples made in polars in memory by the shortest way: histories by a group of the sorted log and slices of it.

    python benchmarks/build_log.py
    python benchmarks/build_log.py --events 10000000 --items 1000000
    python benchmarks/build_log.py --format csv --beside-fuxictr
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common import copy_bytes, emit, in_its_own_process, peak_rss_mib, seconds, sync

DATASET = "Log"
MAX_LEN = 64
CONTEXT = {"device": 5, "city": 2_000, "page": 300}


def main() -> None:
    """Make the log, build it, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--items", type=int, help="default: a tenth of the events")
    parser.add_argument("--users", type=int, help="default: one for 120 events, of which half are clicks")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--negatives", type=int, default=0, help="drawn for each positive; 0 has explicit ones only")
    parser.add_argument("--age", action="store_true", help="with the age of each history event")
    parser.add_argument("--beside-fuxictr", action="store_true", help="build the context columns of it by FuxiCTR too")
    options = parser.parse_args()
    if options.beside_fuxictr and options.format != "csv":
        parser.error("--beside-fuxictr reads csv: add --format csv")
    options.items = options.items or max(100, options.events // 10)
    options.users = options.users or max(20, options.events // 120)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Measure in `folder` and print the result."""
    in_its_own_process(make_log, folder, options)
    with peak_of_children() as peak:
        built = in_its_own_process(build, folder, options)
    written = [path for path in (folder / DATASET).rglob("*") if path.is_file()]
    log = folder / f"log.{options.format}"
    read_bytes, written_bytes = log.stat().st_size, sum(path.stat().st_size for path in written)
    copy = min(seconds(lambda: copy_bytes([log], written, folder / "copy"), repeats=3))
    plain = None if options.negatives else in_its_own_process(build_plain, folder, options)
    check = in_its_own_process(check_negatives, folder, options) if plain is None else plain.pop("check")
    taken = built["build_s"] + built["sync_s"]
    more: dict[str, Any] = {}
    if options.beside_fuxictr:
        with peak_of_children() as peak_fuxictr:
            theirs = in_its_own_process(build_by_fuxictr, folder, options)
        rate = options.events / theirs["build_s"]
        more["fuxictr"] = {
            **theirs,
            "events_per_s": rate,
            "peak_pss_of_tree_mib": max(peak_fuxictr),
            "ratio_to_fuxictr": options.events / taken / rate,
            "fuxictr_is": "FeatureProcessor and build_dataset (Ray) on the same rows as two csv files, users and items "
            "as categories; FuxiCTR makes neither histories nor splits, and its start of Ray counts",
        }
    emit(
        name="build_log",
        shapes={name: getattr(options, name) for name in ("events", "items", "users", "format", "negatives", "age")},
        rows_per_s=options.events / taken,
        ceiling=options.events / copy,
        ceiling_is=f"{read_bytes:,} bytes of the log read and {written_bytes:,} written with fsync: {copy:.3g} s",
        ratio_to_plain=None if plain is None else options.events / taken / (options.events / plain["build_s"]),
        plain_is="histories of the same log in polars and numpy in memory, written as one npz a column: no checks, "
        "vocabularies, item table, checksums or fsync",
        check=check,
        build={**built, "peak_pss_of_tree_mib": max(peak)},
        plain=plain,
        **more,
    )


def make_log(folder: Path, options: argparse.Namespace) -> None:
    """Write the log in the order of time, and the users."""
    import polars as pl

    rng = np.random.Generator(np.random.PCG64(1))
    events = options.events
    users = pl.Series("user", [f"user_{n:09d}" for n in range(options.users)])
    items = pl.Series("item", [f"item-{n:07d}" for n in rng.permutation(options.items)])
    frame = pl.DataFrame(
        [
            users.gather(rng.integers(0, options.users, events)).alias("user_id"),
            items.gather((options.items * rng.random(events) ** 3).astype(np.int64)).alias("item_id"),
            pl.Series("timestamp", 1_600_000_000 + np.cumsum(rng.integers(1, 3, events))),
            pl.Series("click", rng.integers(0, 2, events)),
            *(
                pl.Series(name, [f"{name} {n}" for n in range(size)]).gather(
                    (size * rng.random(events) ** 2).astype(np.int64)
                )
                for name, size in CONTEXT.items()
            ),
        ]
    )
    frame = frame.rename(dict(zip(frame.columns[4:], CONTEXT, strict=True)))
    if options.format == "csv":
        frame.write_csv(folder / "log.csv")
    else:
        frame.write_parquet(folder / "log.parquet")
    if options.beside_fuxictr:
        first = train_rows(options)
        for name, part in (("train", frame[:first]), ("valid", frame[first:])):
            (folder / "fuxictr").mkdir(exist_ok=True)
            part.write_csv(folder / "fuxictr" / f"{name}.csv")
    ages = rng.choice(["18-24", "25-34", "35-44", "45+"], options.users)
    pl.DataFrame([users.alias("user_id"), pl.Series("age_group", ages)]).write_csv(folder / "users.csv")


def train_rows(options: argparse.Namespace) -> int:
    """Rows of the training split: times are distinct."""
    return int(np.ceil(round(0.9 * options.events, 6)))


def entry_of(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The log's entry, as in a file of `config/dataset_config/`."""
    column = {"active": True, "dtype": "str", "type": "categorical"}
    return {
        "dataset_id": DATASET,
        "data_root": str(folder),
        "data_format": options.format,
        "interactions": {
            "file": str(folder / f"log.{options.format}"),
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "label": "click",
        },
        "split": {"by": "time", "valid": 0.1, "test": 0},
        "user_data": str(folder / "users.csv"),
        "group_id": "user_id",
        "max_len": MAX_LEN,
        **({"negatives": {"ratio": options.negatives}} if options.negatives else {}),
        **({"event_cols": [{"name": "age"}]} if options.age else {}),
        "feature_cols": [
            {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
            {"name": "item_id", **column, "source": "item"},
            *({"name": name, **column} for name in CONTEXT),
            {"name": "age_group", **column, "source": "user"},
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }


def build(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build the dataset, as the first run of an experiment does, and bring it to the device; importing is apart."""
    started = time.perf_counter()
    import fuxictr_multimodal.data.entry.log.dataset  # noqa: F401 (imported when it is needed: not the build's time)
    from fuxictr_multimodal.data.entry.build import build_entry

    imported, imported_mib = time.perf_counter(), peak_rss_mib()
    before = resource.getrusage(resource.RUSAGE_SELF)
    store = build_entry(entry_of(folder, options))
    built, load = time.perf_counter(), os.getloadavg()[0]
    spent = resource.getrusage(resource.RUSAGE_SELF)
    for path in store.dir.rglob("*"):
        sync(path)
    splits = store.manifest.splits
    return {
        "build_s": built - imported,
        "sync_s": time.perf_counter() - built,
        "cpu_s": spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime,
        "load_average": load,
        "import_s": imported - started,
        "peak_rss_mib": peak_rss_mib(),
        "peak_rss_mib_of_imports": imported_mib,
        "samples": sum(split.rows for split in splits.values()),
        "mean_history": splits["train"].history_length.mean,
    }


def build_plain(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Samples of the log by the shortest way, timed; then compared with the dataset's."""
    import polars as pl

    from fuxictr_multimodal.data.store import Store

    started = time.perf_counter()
    log = folder / f"log.{options.format}"
    frame = pl.read_csv(log) if options.format == "csv" else pl.read_parquet(log)
    users, items = frame["user_id"].rank("dense").to_numpy(), frame["item_id"]
    order = np.argsort(users, kind="stable")  # the log is in the order of time, which no two events share
    clicked = frame["click"].to_numpy()[order] == 1
    before = np.cumsum(clicked) - clicked
    first = np.searchsorted(users[order], users[order])
    start = np.maximum(before[first], before - MAX_LEN)
    pool = order[clicked]
    starts, stops = np.empty_like(start), np.empty_like(before)
    starts[order], stops[order] = start, before
    lengths = stops - starts
    where = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    values = pool[where]
    np.savez(folder / "plain.npz", values=values, lengths=lengths, clicked=frame["click"].to_numpy())
    taken = time.perf_counter() - started
    store, at, value = Store.open(folder, DATASET), 0, 0
    ids = store.ids("item_id")
    assert ids is not None
    codes = ids.codes(items)
    for split in store.manifest.splits:
        with store.reader(split) as reader:
            for row, stop in reader.blocks:
                found, offsets = reader.read_history(row, stop)
                mine = slice(at, at + stop - row)
                assert np.array_equal(np.diff(offsets), lengths[mine])
                assert np.array_equal(found, codes[values[value : value + len(found)]])
                assert np.array_equal(reader.read("item_id", row, stop), codes[mine])
                assert np.array_equal(reader.read("label", row, stop), frame["click"].to_numpy()[mine])
                at, value = mine.stop, value + len(found)
    assert at == options.events
    check = f"the histories, labels and items of all {at:,} samples equal the reference's"
    return {"build_s": taken, "peak_rss_mib": peak_rss_mib(), "check": check}


def check_negatives(folder: Path, options: argparse.Namespace) -> str:
    """Assert that each click is followed by its negatives, of which its user has none in the log."""
    import polars as pl

    from fuxictr_multimodal.data.store import Store

    log = folder / f"log.{options.format}"
    frame = pl.read_csv(log) if options.format == "csv" else pl.read_parquet(log)
    pairs = frame.select("user_id", "item_id").unique()
    store, drawn = Store.open(folder, DATASET), 0
    users, items = store.ids("user_id"), store.ids("item_id")
    assert users is not None
    assert items is not None
    for split in store.manifest.splits:
        with store.reader(split) as reader:
            names = ("user_id", "item_id", "label")
            user, item, label = (reader.read(name, 0, reader.rows) for name in names)
        clicks = np.flatnonzero(label == 1)
        rows = (clicks[:, None] + np.arange(1, 1 + options.negatives)).ravel()
        assert not label[rows].any()
        assert (user[rows] == np.repeat(user[clicks], options.negatives)).all()
        found = pl.DataFrame({"user_id": users.originals(user[rows]), "item_id": items.originals(item[rows])})
        assert found.join(pairs, on=["user_id", "item_id"], how="semi").is_empty()
        drawn += len(rows)
    assert drawn == options.negatives * int(frame["click"].sum())
    return f"none of the {drawn:,} negatives is an item that its user has in the log"


def build_by_fuxictr(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The same rows by FuxiCTR's own processor; its codes of the context columns are then compared with ours."""
    import polars as pl
    from fuxictr.preprocess import FeatureProcessor, build_dataset

    from fuxictr_multimodal.data.store import Store

    started = time.perf_counter()
    names = ["user_id", "item_id", *CONTEXT]
    columns = [{"name": name, "active": True, "dtype": "str", "type": "categorical"} for name in names]
    label = {"name": "click", "dtype": "float"}
    processor = FeatureProcessor(columns, label, dataset_id="theirs", data_root=str(folder))
    train, valid, _ = build_dataset(
        processor,
        train_data=str(folder / "fuxictr" / "train.csv"),
        valid_data=str(folder / "fuxictr" / "valid.csv"),
        data_format="csv",
    )
    taken = time.perf_counter() - started
    store = Store.open(folder, DATASET)
    vocabularies = [json.loads((place / "feature_vocab.json").read_text()) for place in (store.dir, folder / "theirs")]
    for name in CONTEXT:
        assert vocabularies[0][name] == vocabularies[1][name], name
    if not options.negatives:
        for split, path in (("train", train), ("valid", valid)):
            theirs = pl.read_parquet(path)
            with store.reader(split) as reader:
                for name in CONTEXT:
                    assert np.array_equal(reader.read(name, 0, reader.rows), theirs[name].to_numpy()), (split, name)
    return {"build_s": taken, "check": "vocabularies and codes of the context columns are equal"}


@contextlib.contextmanager
def peak_of_children(every: float = 0.2) -> Iterator[list[float]]:
    """Sample the memory of all processes below this one; the largest sum in MiB is the largest entry of the list.

    Memory that processes share, as Ray's do, counts once (proportional set size).
    """
    found, done = [0.0], threading.Event()

    def total() -> float:
        size = 0
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                rollup = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
                size += int(rollup.split("\nPss:")[1].split()[0])
        return size / 1024

    def watch() -> None:
        while not done.wait(every):
            found.append(total())

    thread = threading.Thread(target=watch, daemon=True)
    if Path("/proc/self/smaps_rollup").is_file():
        thread.start()
    try:
        yield found
    finally:
        done.set()


if __name__ == "__main__":
    main()
