"""Readers while a dataset is built again: each reads one build, and a build that is killed leaves one that is whole.

Two builds, 0 and 1, are planted so that every value tells its build. Processes open and read the dataset while another
build takes its place again and again; then a build is killed before each change of a name on disk that it makes.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store, read_item_titles
from fuxictr_multimodal.data.store.builder import STORE_NAMES, StoreBuilder
from fuxictr_multimodal.data.store.feature_map import load_feature_map, restore_processor
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.staging import Staging
from fuxictr_multimodal.errors import DataError, InputError

DATASET = "planted"
OPENS, READERS, EPOCHS = 300, 4, 3
ITEMS = 5  # of each build; those of build 1 come after those of build 0
# What a build changes on disk by name.
CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir")
FEATURE_COLS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 3},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
]


def attack(*, count: int | None, seed: int, work: Path) -> dict[str, Any]:
    """Count opens and what they read, kills and what they left."""
    # Of folders that are still read.
    logging.getLogger("fuxictr_multimodal.data.store.staging").setLevel(logging.ERROR)
    sources = [plant(work / f"build-{number}", number) for number in (0, 1)]
    failed: list[str] = []
    # The threads of polars do not outlive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(READERS, mp_context=context) as pool:
        opens = attack_readers(count or OPENS, seed, work / "opens", sources, failed, pool)
    kills = {
        "alone": attack_commit(work / "alone", sources, failed, read=False),
        "read_meanwhile": attack_commit(work / "read", sources, failed, read=True),
    }
    return {"opens": opens, "kills": kills, "failed": failed}


def plant(root: Path, number: int) -> Path:
    """Build the dataset `number`, 0 or 1, in `root`; return its folder."""
    rng = np.random.default_rng(number)
    building = StoreBuilder(
        dataset_id=DATASET,
        data_root=root,
        feature_cols=FEATURE_COLS,
        label_col={"name": "label", "dtype": "float"},
        max_len=4,
        recipe={"build": number},
        rows_per_part=32,
        progress=False,
    )
    items = 1 + 2 * ITEMS
    with contextlib.redirect_stdout(io.StringIO()), building:
        building.fit(pl.DataFrame({"city": [f"city {number}"]}))
        building.write_ids({"item_id": IdMap(pl.Series([None, *(f"{number}:{item}" for item in range(1, items))]))})
        building.write_items(
            {"emb": np.full((items, 3), number + 1.0) * (np.arange(items) > 0)[:, None]},
            titles=["", *[f"{number} title"] * (items - 1)],
        )
        for split, rows in (("train", 70), ("valid", 40), ("test", 40)):
            own = np.arange(1, ITEMS + 1) + ITEMS * number
            columns = {
                "label": np.arange(rows + number) % 2 * 1.0,
                "user_id": np.arange(rows + number) * 2 + number,
                "level": np.full(rows + number, number + 1),
                "price": np.full(rows + number, float(number)),
                "city": np.full(rows + number, f"city {number}"),
                "item_id": rng.choice(own, rows + number),
            }
            offsets = np.arange(rows + number + 1) * 2
            building.append(split, columns, rng.choice(own, offsets[-1]), offsets)
        building.finish(split_method="planted")
    return root / DATASET


def builds_in(store: Store, *, seed: int = 0) -> set[int]:
    """The builds of which values are found by reading all of a dataset: one, unless two were mixed."""
    found = {store.manifest.recipe["build"]}
    feature_map = store.read(lambda folder: load_feature_map(folder, DATASET, {"group_id": "user_id"}))
    for split in store.manifest.splits:
        loader = MultimodalDataLoader(
            feature_map,
            store.place / split,
            split,
            batch_size=16,
            shuffle=split == "train",
            seed=seed,
            mode="streaming",
            shuffle_window=1,
            store=store,
        )
        for _ in range(EPOCHS):
            rows = 0
            for batch in loader:
                rows += len(batch)
                found |= {int(level) - 1 for level in batch.features["level"]}
                found |= {int(price) for price in batch.features["price"]}
                found |= {int(user) % 2 for user in batch.features["user_id"]}
                found |= {(int(item) - 1) // ITEMS for item in [*batch.target, *batch.history.values]}
            found |= {(rows - 70) if split == "train" else (rows - 40)}
    table = store.read(lambda folder: ItemTable.from_store(folder, feature_map=feature_map))
    found |= {int(value) - 1 for value in table.features["emb"][1:].flatten()}
    ids = store.ids("item_id")
    assert ids is not None
    found |= {int(text.partition(":")[0]) for text in ids.ids.drop_nulls()}
    found |= {int(title.partition(" ")[0]) for title in store.read(read_item_titles).values() if title}
    cities = store.read(restore_processor).processor_dict["city::tokenizer"].vocab
    return found | {int(city.rpartition(" ")[2]) for city in cities if city.startswith("city")}


def attack_readers(
    count: int, seed: int, root: Path, sources: list[Path], failed: list[str], pool: Executor
) -> dict[str, int]:
    """Open and read the dataset `count` times in the processes of a pool while builds 0 and 1 take turns."""
    random_, builds = random.Random(seed), 0
    overwrite(root, sources[0])
    shares = [count // READERS + (reader < count % READERS) for reader in range(READERS)]
    found: Counter[str] = Counter()
    waiting = [pool.submit(_reader, root, share, seed + reader) for reader, share in enumerate(shares)]
    with tqdm(desc="builds while datasets are read", unit=" builds") as bar:
        while not all(reader.done() for reader in waiting):
            builds += 1
            overwrite(root, sources[builds % 2])
            bar.update()
            time.sleep(random_.random() * 0.02)
    for reader, finished in enumerate(waiting):
        counted, messages = finished.result()
        found += counted
        failed += [f"reader {reader} of seed {seed}: {message}" for message in messages]
    # Threads of this process let go of what they read when its cycles of references are collected.
    gc.collect()
    overwrite(root, sources[0])
    left = leftovers(root)
    failed += [f"left after the last build: {name}" for name in left]
    return {name: found[name] for name in ("opened", "build_0", "build_1", "mixed", "errors")} | {
        "builds": builds,
        "folders_left": len(left),
    }


def _reader(root: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    random_, found, messages = random.Random(seed), Counter[str](), []
    store = None
    for number in range(count):
        try:
            store = Store.open(root, DATASET)
            found["opened"] += 1
            time.sleep(random_.random() * 0.03)
            builds = builds_in(store, seed=number)
        except Exception as error:
            found["errors"] += 1
            messages.append(f"open {number}: {type(error).__name__}: {error}")
            continue
        if len(builds) > 1:
            messages.append(f"open {number}: values of builds {sorted(builds)}")
        found["mixed" if len(builds) > 1 else f"build_{builds.pop()}"] += 1
    # The last one that was read is let go here; what refers to itself only when it is collected.
    del store
    gc.collect()
    return found, messages


def attack_commit(root: Path, sources: list[Path], failed: list[str], *, read: bool, every: int = 1) -> dict[str, int]:
    """Kill a build that replaces build 0 by build 1, before each of its changes, or before some.

    Args:
        root: folder of the dataset.
        sources: of builds 0 and 1.
        failed: what is wrong is added to it.
        read: whether somebody reads build 0 meanwhile, which is not removed then.
        every: of how many changes one is tried.
    """
    found: Counter[str] = Counter()
    with tqdm(desc="killed builds", unit=" kills") as bar:
        for step in range(0, 1_000, every):
            shutil.rmtree(root, ignore_errors=True)
            overwrite(root, sources[0])
            reading = Store.open(root, DATASET) if read else None
            if not _killed(root, sources[1], step):
                break
            found["kills"] += 1
            bar.update()
            problems = list(_problems(root, sources[0], reading, found))
            failed += [f"killed before change {step}{', read meanwhile' * read}: {problem}" for problem in problems]
    return dict(found)


def _problems(root: Path, source: Path, reading: Store | None, found: Counter[str]) -> Iterator[str]:
    """What is wrong after a kill, and after the build that follows it."""
    try:
        builds = builds_in(Store.open(root, DATASET))
    except DataError as error:
        found["restored_by_the_next_build"] += 1
        if "killed while it replaced it" not in str(error):
            yield str(error)
    else:
        found["whole"] += 1
        if len(builds) > 1:
            yield f"values of builds {sorted(builds)}"
    try:
        if reading is not None and builds_in(reading) != {0}:
            yield "a reader of build 0 reads another"
        overwrite(root, source)
        if reading is not None and builds_in(reading) != {0}:
            yield "a reader of build 0 reads another after the next build"
        if builds_in(Store.open(root, DATASET)) != {0}:
            yield "the next build is not whole"
        if reading is not None:
            del reading
    except InputError as error:
        yield f"the next build: {error}"


def _killed(root: Path, source: Path, step: int) -> bool:
    """Replace the dataset in a process that is killed before change `step`; whether it got that far."""
    child = os.fork()
    if child == 0:
        made = 0

        def counting(change: Any) -> Any:
            def changed(*args: Any, **kwargs: Any) -> Any:
                nonlocal made
                if made == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                made += 1
                return change(*args, **kwargs)

            return changed

        try:
            for name in CHANGES:
                setattr(os, name, counting(getattr(os, name)))
            overwrite(root, source)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def overwrite(root: Path, source: Path) -> None:
    """Build the dataset again, from files that are ready."""
    with Staging(root / DATASET, overwrite=True, owned=STORE_NAMES) as staging:
        shutil.copytree(source, staging.dir, dirs_exist_ok=True)
        staging.commit()


def leftovers(root: Path) -> list[str]:
    """Names beside the dataset that are of no use once it is built and not read."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != DATASET)
