"""Rows per second of `MultimodalDataLoader` on rows shaped like MicroLens_1M_MMCTR, against a reference loader.

The peak of the resident mode is copying the bytes of a row once through memory, in one large piece; a shuffled row
is many small pieces, so latency and not bandwidth decides. The streaming mode must read the file as well. Each mode
runs in its own process, so that its peak memory is its own.

    python benchmarks/loader.py --rows 3600000
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _common import copy_bytes_per_s, emit, in_its_own_process, median_seconds, peak_rss_mib, read_bytes_per_s
from _split import MAX_LEN, make_loader, write_split

PLAIN_ROWS = 100_000  # the reference loader pads in a Python loop: few rows suffice to time it
COLUMNS = ["label", "user_id", "likes_level", "views_level"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the split; the challenge has 3,600,000")
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs, after one that is not timed")
    parser.add_argument("--shuffle-window", type=int, default=32, help="blocks shuffled together")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), **vars(arguments))


def run(folder: Path, *, rows: int, batch_size: int, epochs: int, shuffle_window: int) -> None:
    """Write a split, measure both modes and the reference loader on it, and print the result."""
    mean_length = in_its_own_process(write_split, folder / "train", rows)
    in_its_own_process(write_split, folder / "plain", min(rows, PLAIN_ROWS))
    sizes = {"batch_size": batch_size, "shuffle_window": shuffle_window}
    modes = {
        mode: in_its_own_process(measure, folder / "train", mode, sizes, epochs) for mode in ("resident", "streaming")
    }
    plain = in_its_own_process(measure_plain, folder / "plain", sizes)
    # A row as it is yielded: user int64, two levels, target, float label, the history and its offset.
    row_bytes = 8 + 4 + 4 + 4 + 4 + 4 * mean_length + 8
    copied = copy_bytes_per_s() / row_bytes
    file_row_bytes = (folder / "train.h5").stat().st_size / rows
    read = read_bytes_per_s(folder / "train.h5") / file_row_bytes
    modes["resident"]["ceiling"], modes["streaming"]["ceiling"] = copied, 1 / (1 / copied + 1 / read)
    for mode, figures in modes.items():
        figures["ceiling_fraction"] = figures["rows_per_s"] / figures["ceiling"]
        figures["ratio_to_plain"] = figures["rows_per_s"] / plain[mode]
    emit(
        name="loader",
        shapes={
            "rows": rows,
            "max_len": MAX_LEN,
            "mean_length": mean_length,
            "row_bytes": row_bytes,
            **sizes,
            "epochs": epochs,
        },
        rows_per_s=modes["resident"]["rows_per_s"],
        ceiling=copied,
        ceiling_is="bytes of a yielded row at the rate of a large copy in memory",
        ratio_to_plain=modes["resident"]["ratio_to_plain"],
        plain_is=f"tests/helpers/padded_loader.py on {plain['rows']} rows: padded rows gathered from memory "
        "(resident), "
        "or read, padded and gathered (streaming)",
        check=plain["check"],
        modes=modes,
    )


def measure(path: Path, mode: str, sizes: dict[str, Any], epochs: int) -> dict[str, float]:
    """Time whole shuffled epochs of one mode."""
    started = time.perf_counter()
    loader = make_loader(path, mode=mode, **sizes)
    opened = time.perf_counter() - started
    epoch = median_seconds(lambda: sum(len(batch) for batch in loader), repeats=epochs)
    return {
        "rows_per_s": loader.num_samples / epoch,
        "epoch_s": epoch,
        "open_s": opened,
        "peak_rss_mib": peak_rss_mib(),
    }


def measure_plain(path: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    """Rows per second of the reference loader, whose batches must equal the loader's.

    `resident` is gathering from memory alone; `streaming` is reading, padding and gathering.
    """
    from fuxictr_multimodal.data.order import epoch_rows
    from fuxictr_multimodal.data.store import SplitReader

    source = Path(__file__).parents[1] / "tests" / "helpers" / "padded_loader.py"
    reference = SimpleNamespace(**runpy.run_path(str(source)))
    with SplitReader(path) as reader:
        order = epoch_rows(reader.blocks, seed=1, epoch=0, window=sizes["shuffle_window"])
    batches = reference.padded_batches(
        [path.with_suffix(".h5")],
        [*COLUMNS, "item_id"],
        order=order,
        batch_size=sizes["batch_size"],
        max_len=MAX_LEN,
    )
    started = time.perf_counter()
    first = next(batches)
    padded = time.perf_counter()
    rest = list(batches)
    ended = time.perf_counter()
    compared = 0
    for expected, batch in zip([first, *rest], make_loader(path, mode="streaming", **sizes), strict=True):
        given = {name: batch.features[name] for name in COLUMNS}
        given |= {"item_id": batch.target, "history": batch.history.to_padded(MAX_LEN)}
        assert all(np.array_equal(expected[name], given[name].numpy()) for name in expected)
        compared += len(batch)
    return {
        "rows": len(order),
        "resident": (len(order) - len(first["label"])) / (ended - padded),
        "streaming": len(order) / (ended - started),
        "check": f"{compared} rows in {1 + len(rest)} batches equal the reference loader's",
    }


if __name__ == "__main__":
    main()
