"""Rows per second from the challenge's parquet files to a dataset on disk, and the peak memory.

Synthetic rows are written in the files of MicroLens_1M_MMCTR and built by its recipe: every id and label checked,
padding removed, item table, metadata, checksums of the sources and of the dataset. Items and test rows are in the
release's proportion unless given. Time ends when the dataset's files are on the device (fsync), not in the system's
cache. Each part runs in its own process; files lie in a temporary folder (`TMPDIR` chooses the disk), which is
removed.

The peak is reading the sources' bytes and writing the dataset's, with fsync, and nothing else.

    python benchmarks/build.py
    python benchmarks/build.py --rows 3600000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import copy_bytes, emit, in_its_own_process, peak_rss_mib, seconds, sync

from fuxictr_multimodal.data.jagged import offsets_from_lengths

ROOT = Path(__file__).resolve().parents[1]
DATASET = "MicroLens_1M_x1"
RELEASE_ROWS, RELEASE_TEST_ROWS, RELEASE_ITEMS = 3_600_000, 379_142, 91_717
PLAIN_ROWS = 100_000  # the reference goes through every history in Python
COLUMNS = ("user_id", "likes_level", "views_level", "item_id", "label")


def main() -> None:
    """Write the raw files, build them both ways, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="training rows; the challenge has 3,600,000")
    parser.add_argument("--valid-rows", type=int, default=10_000)
    parser.add_argument("--test-rows", type=int, help="default: in the release's proportion")
    parser.add_argument("--items", type=int, help="default: in the release's proportion, at least 1,000")
    options = parser.parse_args()
    share = options.rows / RELEASE_ROWS
    sizes = {
        "rows": options.rows,
        "valid_rows": options.valid_rows,
        "test_rows": options.test_rows or max(1000, round(share * RELEASE_TEST_ROWS)),
        "items": options.items or max(1000, round(share * RELEASE_ITEMS)),
    }
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), sizes)


def run(folder: Path, sizes: dict[str, int]) -> None:
    """Measure in `folder` and print the result."""
    raw, stores = folder / "raw", folder / "stores"
    in_its_own_process(write_raw, raw, sizes)
    built = in_its_own_process(build, raw, stores)
    plain = in_its_own_process(build_plain, raw, folder / "plain", stores)
    sources = [Path(path) for path in built.pop("sources")]
    written = [path for path in (stores / DATASET).rglob("*") if path.is_file()]
    read_bytes, written_bytes = (sum(path.stat().st_size for path in paths) for paths in (sources, written))
    copy = min(seconds(lambda: copy_bytes(sources, written, folder / "copy"), repeats=3))
    rows = sizes["rows"] + sizes["valid_rows"] + sizes["test_rows"]
    taken = built["build_s"] + built["sync_s"]
    emit(
        name="build",
        shapes={**sizes, "all_rows": rows},
        rows_per_s=rows / taken,
        ceiling=rows / copy,
        ceiling_is=f"{read_bytes:,} bytes of sources read and {written_bytes:,} written with fsync: {copy:.3g} s",
        ratio_to_plain=rows / taken / plain["rows_per_s"],
        plain_is=f"the first {plain['rows']:,} training rows by hand: row groups whole in memory, histories cut in a "
        "Python loop, each column written at once; no checks, item table, checksums, metadata or fsync",
        check=plain.pop("check"),
        build=built,
        plain=plain,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        written_bytes_per_row=written_bytes / rows,
        copy_s=copy,
    )


def write_raw(raw: Path, sizes: dict[str, int]) -> None:
    """Write the challenge's files, as `datasets/synthetic.py --format microlens_1m` does."""
    from fuxictr_multimodal.data.synthetic.challenge_files import release_spec, write_challenge_files

    write_challenge_files(release_spec(sizes), raw, progress=False)


def build(raw: Path, stores: Path) -> dict[str, Any]:
    """Build the dataset, as `datasets/microlens_1m.py --raw` does, and bring it to the device; importing is apart."""
    started = time.perf_counter()
    import fuxictr_multimodal.data.store.builder  # noqa: F401 (the recipe imports it when it needs it: not the build's time)
    from fuxictr_multimodal.data.recipes.microlens import challenge
    from fuxictr_multimodal.data.recipes.microlens.files import locate

    imported, imported_mib = time.perf_counter(), peak_rss_mib()
    config = ROOT / "config"
    challenge.build(raw=raw, dataset_id=DATASET, config_dir=config, data_root=stores, any_size=True, progress=False)
    built = time.perf_counter()
    for path in (stores / DATASET).iterdir():
        sync(path)
    return {
        "build_s": built - imported,
        "sync_s": time.perf_counter() - built,
        "import_s": imported - started,
        "peak_rss_mib": peak_rss_mib(),
        "peak_rss_mib_of_imports": imported_mib,
        "sources": [str(p) for p in locate(raw, challenge.files_of(DATASET, config_dir=config)).values()],
    }


def build_plain(raw: Path, out: Path, stores: Path) -> dict[str, Any]:
    """The training rows to one HDF5 file by the shortest way, timed; then compared with the dataset's."""
    import h5py
    import pyarrow.parquet as pq

    started = time.perf_counter()
    out.mkdir()
    with pq.ParquetFile(raw / DATASET / "train.parquet") as source:
        groups = -(-min(PLAIN_ROWS, source.metadata.num_rows) // source.metadata.row_group(0).num_rows)
        table = source.read_row_groups(range(groups), columns=[*COLUMNS, "item_seq"])
    histories = [[item for item in row if item != 0] for row in table["item_seq"].to_pylist()]
    with h5py.File(out / "train.h5", "w") as file:
        for name in COLUMNS:
            file[name] = table[name].to_numpy()
        file["history/values"] = np.array([item for history in histories for item in history], np.int32)
        file["history/offsets"] = offsets_from_lengths([*map(len, histories)])
    taken, peak = time.perf_counter() - started, peak_rss_mib()
    return {
        "rows": len(table),
        "rows_per_s": len(table) / taken,
        "peak_rss_mib": peak,
        "check": equal_rows(out / "train.h5", stores / DATASET / "train", len(table)),
    }


def equal_rows(plain: Path, split: Path, rows: int) -> str:
    """Assert that the dataset's first rows equal the reference's."""
    import h5py

    from fuxictr_multimodal.data.store import SplitReader

    with h5py.File(plain) as file, SplitReader(split) as reader:
        for name in COLUMNS:
            assert np.array_equal(file[name][:], reader.read(name, 0, rows)), name
        values, offsets = reader.read_history(0, rows)
        assert np.array_equal(file["history/values"][:], values)
        assert np.array_equal(file["history/offsets"][:], offsets)
    return f"{rows} training rows with {len(values)} history items equal the reference's"


if __name__ == "__main__":
    main()
