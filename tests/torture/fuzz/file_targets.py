"""Targets of what the project writes itself: datasets, checkpoints, reports, boards, tables of vectors."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.fuzz.byte_mutator import mutated
from tests.torture.fuzz.harness import Target
from tests.torture.fuzz.row_targets import shrink_file
from tests.torture.fuzz.seeds import Written, of_json

Call = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def _damaged(plain: Mapping[str, bytes]) -> Callable[[random.Random], tuple[str, bytes]]:
    """Makes a damaged file of one of these, JSON also by what it holds."""
    makers = {name: of_json([json.loads(content)]) for name, content in plain.items() if name.endswith(".json")}
    others = list(plain.values())

    def make(rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice(sorted(plain))
        return name, makers[name](rng) if name in makers else mutated(plain[name], others, rng)

    return make


def _dataset(names: Sequence[str]) -> Callable[[Path], Call]:
    """A dataset with one damaged file, read by all that reads it."""

    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.data.item_table import ItemTable
        from fuxictr_multimodal.data.loader import MultimodalDataLoader
        from fuxictr_multimodal.data.store import SplitReader, read_item_table, read_item_titles
        from fuxictr_multimodal.data.store.feature_map import load_feature_map, restore_processor
        from fuxictr_multimodal.data.store.ids import IdMap
        from fuxictr_multimodal.data.store.manifest import Manifest
        from tests.torture.fuzz.entry_targets import KINDS, build_entry_of

        plain = build_entry_of(work, *KINDS["samples"]).dir
        (plain / "item_titles.json").write_text(json.dumps(["", "a", "b"]))
        odd = work / "odd" / "Shop"
        shutil.copytree(plain, odd)
        contents = {name: (plain / name).read_bytes() for name in names}

        def call(given: tuple[str, bytes]) -> None:
            name, content = given
            try:
                (odd / name).write_bytes(content)
                manifest = Manifest.read(odd)
                _ = manifest.hash, manifest.table(), manifest.weight_col
                if name.endswith(".parquet"):
                    IdMap.read(odd / name)
                read_item_titles(odd)
                restore_processor(odd)
                feature_map = load_feature_map(odd, "Shop", {"embedding_dim": 4, "group_id": "user_id"})
                if name == "item.h5":
                    read_item_table(odd)
                ItemTable.from_store(odd, device="cpu", feature_map=feature_map)
                if name == "train.h5":
                    with SplitReader(odd / "train.h5") as reader:
                        for column in reader.columns:
                            reader.read(column, 0, reader.rows)
                for batch in MultimodalDataLoader(
                    feature_map,
                    odd / "train.h5",
                    split="train",
                    shuffle=False,
                    batch_size=8,
                    max_len=3,
                    mode="resident",
                ):
                    assert len(batch)
            finally:
                (odd / name).write_bytes(contents[name])

        for plain_file in contents.items():
            call(plain_file)
        return _damaged(contents), call

    return prepare


def _run_files(names: Sequence[str]) -> Callable[[Path], Call]:
    """A trained run with one damaged file, loaded to score."""

    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.scoring.calibration import calibration_of
        from fuxictr_multimodal.scoring.published_weights import export_weights, import_weights
        from fuxictr_multimodal.scoring.trained_run import TrainedRun
        from fuxictr_multimodal.training.report import Report
        from fuxictr_multimodal.training.trained import load_trained
        from tests.helpers import trained_shop

        shop = trained_shop.train(work / "shop", event_features=None)
        experiment = TrainedRun(shop.config, shop.expid).experiment()
        loaded = TrainedRun(shop.config, shop.expid).load(experiment)
        files, trainer = experiment.files, loaded.trainer("model")
        calibration_of(experiment, trainer, "isotonic", weights=files.model, keep=files.calibration)
        published = work / "published.model"
        export_weights(loaded.model, published)
        paths = {
            "model": files.model, "report.json": files.report, "calibration.json": files.calibration,
            "published": published,
        }  # fmt: skip
        contents = {name: paths[name].read_bytes() for name in names}

        def call(given: tuple[str, bytes]) -> None:
            name, content = given
            try:
                paths[name].write_bytes(content)
                if name == "published":
                    import_weights(loaded.model, published)
                elif name == "calibration.json":
                    found = calibration_of(experiment, trainer, "isotonic", weights=files.model, keep=files.calibration)
                    assert np.isfinite(found.apply([0.2, 0.8])).all()
                else:
                    report = Report.read(files.report)
                    _ = report.headline(), report.scores(), [*report.details()]
                    load_trained(experiment, loaded.model)
            finally:
                paths[name].write_bytes(contents[name])

        for plain_file in contents.items():
            call(plain_file)
        return _damaged(contents), call

    return prepare


def _grouped_store(work: Path) -> Any:
    """A small dataset in which users have several samples."""
    from fuxictr_multimodal.data.store import Store
    from tests.helpers import store_build

    splits = {}
    for number, (split, rows) in enumerate({"train": 40, "valid": 30, "test": 30}.items()):
        columns, values, offsets = store_build.split_rows(rows, number)
        splits[split] = ({**columns, "user_id": np.arange(rows) % 4}, values, offsets)
    store_build.build(work / "data", splits=splits, group_id="user_id")
    return Store.open(work / "data", "tiny")


def _leaderboard(work: Path) -> Call:
    """Reports and kept predictions of a dataset, one of them damaged, to tables and a page."""
    from fuxictr_multimodal.comparison import tables
    from fuxictr_multimodal.comparison.ranking import rank
    from tests.helpers.leaderboard_reports import write_run

    store = _grouped_store(work)
    folder = work / "runs" / "tiny"
    for expid, model in (("QIN_a", "QIN"), ("DIN_a", "DIN")):
        for seed in (1, 2):
            write_run(folder, store, expid=expid, model=model, seed=seed, epochs=2)
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if "QIN_a_s1" in path.name}
    make = _damaged(contents)

    def call(given: tuple[str, bytes]) -> None:
        name, content = given
        try:
            (folder / name).write_bytes(content)
            board = rank(None, model_root=work / "runs", data_root=work / "data", replicates=5)
            tables.as_csv(board)
            tables.markdown(board)
            tables.terminal(board)
        finally:
            (folder / name).write_bytes(contents[name])

    for plain_file in contents.items():
        call(plain_file)
    return make, call


def _board(work: Path) -> Call:
    """An exported board with published curves, to tables and a page."""
    from fuxictr_multimodal.comparison import tables
    from fuxictr_multimodal.comparison.board import Board
    from fuxictr_multimodal.comparison.page import page
    from fuxictr_multimodal.comparison.published import with_published
    from fuxictr_multimodal.comparison.ranking import rank
    from tests.helpers.leaderboard_reports import write_run

    store = _grouped_store(work)
    for expid, model in (("QIN_a", "QIN"), ("DIN_a", "DIN")):
        write_run(work / "runs" / "tiny", store, expid=expid, model=model, epochs=2)
    board = rank(None, model_root=work / "runs", data_root=work / "data", replicates=5)
    board.write(work / "board.json")
    csv = b"run,epoch,train_loss,valid_auc,source\nA,1,0.5,0.7,https://example.org\nA,2,0.4,0.71,https://example.org\n"
    contents = {"board.json": (work / "board.json").read_bytes(), "published.csv": csv}
    writes = {name: Written(work / name.partition(".")[0], f".{name.partition('.')[2]}") for name in contents}

    def call(given: tuple[str, bytes]) -> None:
        name, content = given
        path = writes[name](content)
        if name == "published.csv":
            published = with_published(board, path)
            if len(content) % 8 == 0:
                page(published)
            return
        read = Board.read(path)
        tables.as_csv(read)
        tables.markdown(read)
        tables.latex(read, short=True)
        tables.terminal(read)
        if len(content) % 8 == 0:
            # Pictures take a fifth of a second.
            page(read)

    for plain_file in contents.items():
        call(plain_file)
    return _damaged(contents), call


def _vectors(work: Path) -> Call:
    """Tables of vectors in every format, for items by number and by the user's ids."""
    import h5py
    import polars as pl

    from fuxictr_multimodal.data.recipes.text_features import pretrained_vectors, vectors_of_ids
    from fuxictr_multimodal.data.store.ids import IdMap
    from tests.torture.fuzz.tables import as_bytes, drawn, odd_frames

    keys, values = np.arange(6), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    contents: dict[str, list[bytes]] = {".npz": [], ".h5": [], ".parquet": []}
    for own in (keys, keys.astype("S")):
        buffer = io.BytesIO()
        np.savez(buffer, key=own, value=values)
        contents[".npz"].append(buffer.getvalue())
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["key"], file["value"] = own, values
        contents[".h5"].append(buffer.getvalue())
    compressed = io.BytesIO()
    np.savez_compressed(compressed, key=keys, value=values)
    contents[".npz"].append(compressed.getvalue())
    frame = pl.DataFrame({"item_id": keys, "vector": values.tolist()})
    contents[".parquet"].append(as_bytes(frame, ".parquet"))
    odd = drawn(odd_frames({"vectors": frame}))
    writes = {suffix: Written(work, suffix) for suffix in contents}
    ids = IdMap.of(pl.Series([str(key) for key in keys]))

    def make(rng: Any) -> tuple[str, bytes]:
        suffix = rng.choice(sorted(contents))
        if suffix == ".parquet" and rng.random() < 0.5:
            return suffix, as_bytes(odd(rng)[1], suffix)
        return suffix, mutated(
            rng.choice(contents[suffix]), [content for some in contents.values() for content in some], rng
        )

    def call(given: tuple[str, bytes]) -> None:
        from fuxictr_multimodal.errors import InputError

        path = writes[given[0]](given[1])
        try:
            pretrained_vectors(path, item_ids=keys, dim=2)
        except InputError:
            vectors_of_ids(path, ids=ids, dim=None)

    for suffix, some in contents.items():
        call((suffix, some[0]))
    return make, call


JSON_FILES = ("manifest.json", "feature_map.json", "feature_vocab.json", "item_titles.json")
TARGETS = (
    Target("vectors", 5_000, _vectors, shrink_file),
    Target("dataset json", 2_000, _dataset(JSON_FILES), shrink_file),
    Target("dataset h5", 1_500, _dataset(("train.h5", "item.h5")), shrink_file),
    Target("dataset ids", 500, _dataset(("ids/item_id.parquet", "ids/user_id.parquet")), shrink_file),
    Target("run files", 1_000, _run_files(("model", "report.json", "calibration.json", "published")), shrink_file),
    Target("leaderboard", 300, _leaderboard, shrink_file),
    Target("board", 600, _board, shrink_file),
)
