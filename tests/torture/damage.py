"""Damaged datasets: flipped bytes, truncated files, files of another build, edited values whose HDF5 checksums fit.

Each damage is met by a training, a prediction of the test split, one of new samples, and an export. Each must refuse
the dataset by the name of the file, or end exactly as on the undamaged one: what is right is the result before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import yaml
from tqdm import tqdm

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import integrity
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import shop, trained_shop
from tests.helpers.resealed import reseal

NUMBERS = {"flipped": 35, "truncated": 7, "swapped": 10, "edited": 10, "resealed": 10}
# What is known of the files when they are damaged: that they matched, nothing, or that and their time is put back.
RECORDS = ("recorded", "unrecorded", "times restored")
# Longer than the steps of a file system's clock, so that a damage has another time than what it damages.
TICK_S = 0.02


@dataclass(frozen=True)
class Damage:
    """What is done to one file of a dataset.

    Attributes:
        kind: a key of `NUMBERS`.
        file: its name relative to the dataset.
        what: in words.
        apply: does it to the file at a path.
    """

    kind: str
    file: str
    what: str
    apply: Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A trained run, its dataset and what it computes.

    Attributes:
        run: config and expid.
        dataset: folder of the dataset that is damaged.
        pristine: a copy of it.
        other: another build of it.
        samples: new samples to score.
    """

    run: trained_shop.TrainedShop
    dataset: Path
    pristine: Path
    other: Path
    samples: Path

    @classmethod
    def of(cls, work: Path) -> Target:
        """Build both datasets and train on the first."""
        folder = work / "shop"
        folder.mkdir()
        run = trained_shop.train(folder)
        entry = yaml.safe_load((run.config / "dataset_config.yaml").read_text())["Shop"]
        raw = _other_files(run.raw, work / "raw")
        files = {"item_data": str(raw / "items.parquet"), "user_data": str(raw / "users.csv")}
        log = {**entry["interactions"], "file": str(raw / "log.parquet")}
        other = build_entry(
            {**entry, **files, "interactions": log, "data_root": str(work / "other"), "dataset_id": "Shop"}
        )
        shutil.copytree(folder / "data/Shop", work / "pristine")
        samples = work / "new.parquet"
        shop.log(1300)[1200:].drop("click").write_parquet(samples)
        return cls(run, folder / "data/Shop", work / "pristine", other.dir, samples)

    def actions(self, out: Path) -> dict[str, Callable[[], Any]]:
        """What meets the damage; each returns what it computed."""
        which: dict[str, Any] = {"config_dir": self.run.config, "expid": self.run.expid}

        def train() -> Any:
            where = f"model_root={out / 'checkpoints'}"
            report, path = run_experiment(**which, overrides=[where], overwrite=True)
            with np.load(path.with_name(f"{report.run}.predictions.npz")) as file:
                scores = {name: file[name].tobytes() for name in file.files}
            return report.manifest_hash, report.metrics, [row["train_loss"] for row in report.curve], scores

        def scored(data: Path | None) -> Any:
            found = predict(**which, data=data, out=out / "scores.parquet")
            return found.unknown, pl.read_parquet(found.out, memory_map=False).to_dict(as_series=False)

        def exported() -> Any:
            folder = export(**which, out=out / "export", overwrite=True).out
            return [(folder / name).read_bytes() for name in ("items.safetensors", "vocabulary.json")]

        return {
            "train": train,
            "predict": lambda: scored(None),
            "predict new": lambda: scored(self.samples),
            "export": exported,
        }

    @contextlib.contextmanager
    def damaged(self, damage: Damage, record: str) -> Iterator[None]:
        """The dataset with a damage, and without it again afterwards."""
        path = self.dataset / damage.file
        files = Manifest.read(self.dataset).files
        integrity.write_record(self.dataset, files, integrity.stats_of(self.dataset, files))
        time.sleep(TICK_S)
        times = path.stat()
        damage.apply(path)
        if record == "unrecorded":
            self.dataset.with_name(f".{self.dataset.name}.verified.json").unlink()
        if record == "times restored":
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        try:
            yield
        finally:
            shutil.rmtree(self.dataset)
            shutil.copytree(self.pristine, self.dataset)


def attack(*, count: int | None, seed: int, work: Path) -> dict[str, Any]:
    """Damage a dataset in many ways, one at a time; `count` in all, each kind in proportion."""
    total = sum(NUMBERS.values())
    numbers = {kind: n if count is None else max(1, round(n * count / total)) for kind, n in NUMBERS.items()}
    with quiet(work):
        return attack_on(Target.of(work), numbers=numbers, seed=seed, work=work)


@contextlib.contextmanager
def quiet(work: Path) -> Iterator[None]:
    """Nothing on stdout, no log, and what a run writes into the working folder goes to `work`."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.chdir(work), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(logging.NOTSET)


def attack_on(
    target: Target, *, numbers: Mapping[str, int], seed: int, work: Path, without: Collection[str] = ()
) -> dict[str, Any]:
    """Damage a dataset as often as `numbers` says of each kind.

    Args:
        target: the dataset; it is whole again afterwards.
        numbers: by kind.
        seed: of the random places.
        work: a folder for results.
        without: actions that are left out.
    """
    actions = {name: action for name, action in target.actions(work / "out").items() if name not in without}
    (work / "out").mkdir(exist_ok=True)
    right = {name: action() for name, action in actions.items()}
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in numbers}
    failed = []
    plan = [(kind, index) for kind, n in numbers.items() for index in range(n)]
    for kind, index in tqdm(plan, desc="damages"):
        damage = _damage(target, kind, index, seed)
        record = RECORDS[index % len(RECORDS)]
        with target.damaged(damage, record):
            for name, action in actions.items():
                end, problem = _meet(action, right[name], damage)
                ends[kind][f"{name}: {end}"] += 1
                if problem:
                    failed.append(f"{kind} {index} of seed {seed}: {damage.what} ({record}), {name}: {problem}")
    return {"damages": dict(numbers), "ends": {kind: dict(counts) for kind, counts in ends.items()}, "failed": failed}


def _meet(action: Callable[[], Any], right: Any, damage: Damage) -> tuple[str, str]:
    """How an action ends on a damaged dataset, and what is wrong with that."""
    try:
        found = action()
    except InputError as error:
        # Who writes the checksums again makes another build, which a trained run refuses as such.
        named = Path(damage.file).name in str(error) or (damage.kind == "resealed" and "another build" in str(error))
        return "refused", "" if named else f"refused without the name of the file: {error}"
    except Exception as error:
        return "traceback", f"traceback: {error!r}"
    if found == right:
        return "harmless", ""
    return "silently wrong", f"silently wrong: {_first_difference(found, right)}"


def _first_difference(found: Any, right: Any) -> str:
    pairs = [(one, other) for one, other in zip(found, right, strict=True) if one != other]
    return f"{str(pairs[0][0])[:80]} for {str(pairs[0][1])[:80]}"


def _damage(target: Target, kind: str, index: int, seed: int) -> Damage:
    rng = np.random.default_rng([seed, *kind.encode(), index])
    files = sorted(path.relative_to(target.dataset).as_posix() for path in target.dataset.rglob("*") if path.is_file())
    if kind == "flipped":
        file = files[index % len(files)]
        at, bit = int(rng.integers((target.dataset / file).stat().st_size)), 1 << int(rng.integers(8))
        return Damage(kind, file, f"{file}: byte {at} ^ {bit}", lambda path: _flip(path, at, bit))
    if kind == "truncated":
        # The largest first: train, item, valid, test.
        file = sorted(files, key=lambda name: -(target.dataset / name).stat().st_size)[index % len(files)]
        size = int(rng.integers((target.dataset / file).stat().st_size))
        return Damage(kind, file, f"{file}: cut to {size} bytes", lambda path: os.truncate(path, size))
    if kind == "swapped":
        file = files[index % len(files)]
        other = target.other / file
        assert other.read_bytes() != (target.dataset / file).read_bytes(), f"{file} is the same in both builds"
        if index % 2:
            content = other.read_bytes()
            return Damage(kind, file, f"{file}: another build's content", lambda path: path.write_bytes(content))
        return Damage(kind, file, f"{file}: another build's file", lambda path: _replace(path, other))
    edits = EDITS if kind == "edited" else OUT_OF_RANGE
    file, what, edit = edits[index % len(edits)]
    if kind == "edited":
        return Damage(kind, file, f"{file}: {what}", edit)

    def edit_and_seal(path: Path) -> None:
        edit(path)
        reseal(target.dataset)

    return Damage(kind, file, f"{file}: {what}, checksums written again", edit_and_seal)


def _flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))


def _replace(path: Path, other: Path) -> None:
    beside = path.with_name(f"{path.name}.new")
    shutil.copy2(other, beside)
    beside.replace(path)


def _h5(name: str, place: Any, value: Any) -> Callable[[Path], None]:
    """Write into an HDF5 dataset through the library, so that its own checksums fit."""

    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            old = file[name][place]
            new = value(old) if callable(value) else value
            assert not np.array_equal(old, new)
            file[name][place] = new

    return edit


def _json(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=2))

    return edit


def _other_order_of_ids(path: Path) -> None:
    ids = pl.read_parquet(path, memory_map=False)
    pl.concat([ids[:1], ids[1:].reverse()]).write_parquet(path)


def _spec(content: Any, name: str) -> dict[str, Any]:
    return next(entry[name] for entry in content["features"] if name in entry)


def _swap_two_tokens(content: Any) -> None:
    tokens = content["brand"]
    first, second = [token for token in tokens if not token.startswith("__")][:2]
    tokens[first], tokens[second] = tokens[second], tokens[first]


EDITS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("train.h5", "a label is the other one", _h5("label", 7, lambda old: 1 - old)),
    ("train.h5", "an item of a history is another one", _h5("history/values", 3, lambda old: 1 + old % 100)),
    ("test.h5", "a target is another item", _h5("item_id", 2, lambda old: 1 + old % 100)),
    ("valid.h5", "a code is another one", _h5("device", slice(None), lambda old: 3 - old)),
    ("item.h5", "a number of an embedding is NaN", _h5("vector", (5, 1), np.nan)),
    ("item.h5", "an embedding is another one", _h5("vector", slice(2, 40), lambda old: -old)),
    ("feature_map.json", "a vocabulary is larger", _json(lambda m: _spec(m, "brand").update(vocab_size=99))),
    ("feature_vocab.json", "two tokens have changed places", _json(_swap_two_tokens)),
    ("manifest.json", "max_len is another one", _json(lambda content: content.update(max_len=7))),
    ("ids/item_id.parquet", "ids are in another order", _other_order_of_ids),
]
OUT_OF_RANGE: list[tuple[str, str, Callable[[Path], object]]] = [
    ("train.h5", "a label is 7", _h5("label", 7, 7)),
    ("train.h5", "a target is item 0", _h5("item_id", 2, 0)),
    ("test.h5", "a target is beyond the items", _h5("item_id", 2, 10**6)),
    ("valid.h5", "a code is beyond its vocabulary", _h5("device", 4, 10**6)),
    ("train.h5", "a code is negative", _h5("device", 4, -3)),
    ("train.h5", "an item of a history is 0", _h5("history/values", 3, 0)),
    ("train.h5", "an item of a history is beyond the items", _h5("history/values", 3, 10**6)),
    ("train.h5", "offsets decrease", _h5("history/offsets", slice(40, None), lambda old: old[::-1])),
    ("item.h5", "a number of an embedding is NaN", _h5("vector", (5, 1), np.nan)),
    ("train.h5", "a number is infinite", _h5("years", 5, np.inf)),
]


def _other_files(raw: Path, folder: Path) -> Path:
    """The shop's files with other contents of the same size: items, vectors, prices, ages and devices change places."""
    shutil.copytree(raw, folder)
    items = pl.read_parquet(raw / "items.parquet", memory_map=False).reverse()
    moved = items.select("price", "vector", "categories").reverse()
    brands = items["brand"].reverse().set(pl.Series([row == 3 for row in range(len(items))]), "brand10")
    items.with_columns(*moved, brands).write_parquet(folder / "items.parquet")
    log = pl.read_parquet(raw / "log.parquet", memory_map=False)
    renamed = pl.col("user_id").str.replace("u", "v")
    log.with_columns(renamed, log["item_id"].reverse(), log["device"].reverse()).write_parquet(folder / "log.parquet")
    users = pl.read_csv(raw / "users.csv").with_columns(renamed)
    users.with_columns(users["age"].reverse(), users["country"].reverse()).write_csv(folder / "users.csv")
    return folder
