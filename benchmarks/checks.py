"""What the checks of a dataset cost: seconds at its open, of a full verification, and of the values of an epoch.

`recorded` opens a dataset whose files matched before, `unrecorded` hashes them all, `verified` hashes them and checks
all values. Values are checked while an epoch is read: in percent of reading that epoch, and of training on it at the
speed of some steps of QIN.

    python benchmarks/checks.py --rows 3600000 --batch-size 1024
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import emit, median_seconds, seconds
from _qin import TAGS, TAGS_PER_ITEM, arguments, at_least_1, challenge_batch, challenge_model, measure
from _split import LEVELS, MAX_LEN, PIECE

from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.data.store.integrity import SETTLED_NS
from fuxictr_multimodal.data.store.ranges import Ranges

DATASET = "checks"
CATEGORY = {"active": True, "dtype": "int", "type": "categorical"}
FEATURE_COLS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": ["likes_level", "views_level"], **CATEGORY, "vocab_size": LEVELS},
    {"name": "item_id", **CATEGORY, "source": "item"},
    {"name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "vocab_size": TAGS, "source": "item"},
    {"name": "item_emb_d128", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=at_least_1, default=300_000, help="rows of train; the challenge has 3,600,000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root, options.rows, options.items, options.mean_length)
        time.sleep(SETTLED_NS / 1e9)
        run(root, options)


def run(root: Path, options: Any) -> None:
    """Measure, and print the result."""
    record = root / f".{DATASET}.verified.json"

    def without_record() -> None:
        record.unlink()
        Store.open(root, DATASET)

    store = Store.open(root, DATASET)
    unrecorded = median_seconds(without_record, repeats=3)
    recorded = median_seconds(lambda: Store.open(root, DATASET), repeats=20)
    verified = seconds(store.verify, repeats=1)[0]
    checking, checked_bytes = seconds_of_checks(store)
    feature_map = load_feature_map(store.dir, DATASET, {"group_id": "user_id"})
    loader = MultimodalDataLoader(feature_map, store.dir / "train", batch_size=8192, shuffle=True, mode="streaming")
    reading = median_seconds(lambda: sum(len(batch) for batch in loader), repeats=3)
    model = challenge_model(options, form="fast")
    batches = [challenge_batch(options, seed=seed).to(model.device) for seed in range(3)]
    step = measure(batches, model.train_step, repeats=options.repeats, warm_up=1)
    training = step["s"] * options.rows / options.batch_size
    block = np.ones(round(PIECE * options.mean_length), np.int32)
    sizes = [(store.dir / name).stat().st_size for name in store.manifest.files]
    emit(
        name="checks",
        shapes={
            "rows": options.rows,
            "items": options.items,
            "mean_length": store.manifest.splits["train"].history_length.mean,
            "batch_size": options.batch_size,
            "files": len(sizes),
            "megabytes": sum(sizes) / 1e6,
        },
        rows_per_s=options.rows / checking,
        ceiling=block.nbytes / median_seconds(block.max, repeats=20) / (checked_bytes / options.rows),
        ceiling_is="bytes of a row at the rate of numpy's max over the items of a block, which are in the cache",
        ratio_to_plain=(reading - checking) / reading,
        plain_is="the same epoch without the checks: its seconds less those of the checks, over its seconds",
        check=f"{len(sizes)} files match the manifest, and all values are in range",
        open_s={"recorded": recorded, "unrecorded": unrecorded, "verified": verified},
        epoch_s={"checks": checking, "reading": reading, "training": training},
        percent_of_reading=100 * checking / reading,
        percent_of_training=100 * checking / training,
    )


def seconds_of_checks(store: Store) -> tuple[float, int]:
    """Seconds that the checks of one epoch take on values just read, and how many bytes they look at."""
    feature_map = load_feature_map(store.dir, DATASET, {"group_id": "user_id"})
    feature_map.items, feature_map.longest_history = store.manifest.items, store.manifest.max_len
    taken, looked_at = [], 0
    with store.reader("train") as reader:
        ranges = Ranges.of(reader, feature_map)
        for start, stop in reader.blocks:
            columns = {name: reader.read(name, start, stop) for name in reader.columns}
            history = reader.read_jagged(start, stop)
            looked_at += sum(values.nbytes for values in columns.values()) + history.values.nbytes
            began = time.perf_counter()
            for name, values in columns.items():
                ranges.check(reader, name, values, start)
            ranges.check_jagged(reader, history, start)
            taken.append(time.perf_counter() - began)
    # Other work on the machine hits single blocks.
    return statistics.median(taken) * len(taken), looked_at


def build(root: Path, rows: int, items: int, mean_length: float) -> None:
    """A dataset of random samples in the challenge's shape."""
    rng = np.random.default_rng(1)
    tags = rng.integers(0, TAGS, (items, TAGS_PER_ITEM))
    vectors = rng.standard_normal((items, 128), dtype=np.float32)
    tags[0], vectors[0] = 0, 0
    with StoreBuilder(
        dataset_id=DATASET,
        data_root=root,
        feature_cols=FEATURE_COLS,
        label_col={"name": "label", "dtype": "float"},
        max_len=MAX_LEN,
        recipe={},
    ) as building:
        building.write_items({"item_tags": tags, "item_emb_d128": vectors})
        for split, wanted in (("train", rows), ("valid", max(2, rows // 100))):
            for start in range(0, wanted, PIECE):
                count = min(PIECE, wanted - start)
                lengths = np.minimum(rng.geometric(1 / mean_length, count), MAX_LEN)
                offsets = offsets_from_lengths(lengths)
                columns = {
                    "label": np.arange(count) % 2,
                    "user_id": rng.integers(0, 1_000_000, count),
                    "item_id": rng.integers(1, items, count),
                    "likes_level": rng.integers(0, LEVELS, count),
                    "views_level": rng.integers(0, LEVELS, count),
                }
                building.append(split, columns, rng.integers(1, items, offsets[-1]), offsets)
        building.finish(split_method="at random")


if __name__ == "__main__":
    main()
