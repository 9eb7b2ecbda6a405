"""Synthetic data in the files of MicroLens_1M_MMCTR: same names, columns and types, any size.

Samples equal those of the dataset of the same spec; test has no label. Memory holds the items, and one block of samples
or one slice of items in their widest embedding.

Symbols: I items (row 0 is padding), T history slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fuxictr_multimodal.data.jagged import places_in_rows, row_numbers, slices
from fuxictr_multimodal.data.recipes.microlens.files import (
    EMBEDDINGS,
    FOLDER,
    IN_FOLDER,
    ITEM_EMB,
    ITEM_FEATURE,
    ITEM_INFO,
    MAX_LEN,
    ROWS,
)
from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.data.synthetic.rows import Block, blocks
from fuxictr_multimodal.data.synthetic.spec import SyntheticSpec
from fuxictr_multimodal.data.synthetic.texts import make_titles
from fuxictr_multimodal.data.synthetic.world import World, embedding_slices, generator, make_world
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import make_folder, replace_atomically

ITEM_SEQ = "item_seq.parquet"
ROW_GROUP = 65_536
# The parts of a generator's key that are not splits and blocks: one number an embedding.
EMBEDDING_KEY = 5
# Text and cover are noisier, or less noisy, than the multimodal embedding.
NOISE = {"bert": 0.6, "clip": 1.0, "v1": 0.3, "v2": 0.5, "v3": 0.8, "e4": 0.2}
FLOAT32 = ("bert", "clip")
Chunks = Iterator[Mapping[str, Any]]


def release_spec(sizes: Mapping[str, int] = MappingProxyType({})) -> SyntheticSpec:
    """The counts of the release, with those given replaced.

    >>> release_spec({"items": 1000}).rows
    3600000
    """
    counts = {
        "rows": "train.parquet",
        "valid_rows": "valid.parquet",
        "test_rows": "test.parquet",
        "items": ITEM_FEATURE,
    }
    return SyntheticSpec.from_dict({**{name: ROWS[file] for name, file in counts.items()}, **sizes})


def write_challenge_files(
    spec: SyntheticSpec, out: Path, *, overwrite: bool = False, progress: bool = True
) -> list[Path]:
    """Write the seven files of the challenge below `out`, and return their paths.

    `item_seq.parquet` holds the users' histories, without the targets: those of test are what a model has to score.

    Args:
        spec: what to generate; `max_len` must be 64, the width of the histories in the release.
        out: folder; the rows and `item_info.parquet` go to `MicroLens_1M_x1` in it.
        overwrite: replace existing files.
        progress: show progress on stderr.

    Raises:
        ConfigError: the spec does not fit the form.
        DataError: a file is there and `overwrite` is not given.
    """
    if spec.max_len != MAX_LEN:
        raise ConfigError(f"synthetic: max_len must be {MAX_LEN} in the challenge's form, found {spec.max_len}")
    world = make_world(spec)
    content: dict[str, Callable[[], Chunks]] = {
        ITEM_INFO: lambda: _item_info(world),
        ITEM_FEATURE: lambda: _item_feature(spec, world),
        ITEM_EMB: lambda: _item_emb(spec, world),
        **{f"{split}.parquet": partial(_rows, spec, world, split) for split in SPLITS},
        ITEM_SEQ: lambda: _sequences(spec, world),
    }
    paths = {name: out / FOLDER / name if name in IN_FOLDER else out / name for name in content}
    refuse_existing(paths.values(), overwrite=overwrite)
    for name, chunks in content.items():
        make_folder(paths[name].parent)
        with tqdm(desc=name, unit=" rows", unit_scale=True, disable=not progress) as bar:
            _write(paths[name], chunks(), bar)
    return list(paths.values())


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raise `DataError` naming the first of `paths` that is there, unless `overwrite`."""
    for path in paths:
        if path.exists() and not overwrite:
            raise DataError(f"{path} already exists: choose another folder, or pass --overwrite to replace it")


def _write(path: Path, chunks: Chunks, bar: tqdm) -> None:
    writer = None
    with replace_atomically(path) as temporary:
        try:
            for chunk in chunks:
                table = pa.table({name: as_arrow(values) for name, values in chunk.items()})
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=ROW_GROUP)
                bar.update(len(table))
        finally:
            if writer is not None:
                writer.close()


def as_arrow(values: Any) -> pa.Array:
    """An arrow column: (rows,) as it is, (rows, width) as lists of a fixed size."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
    return values if isinstance(values, pa.Array) else pa.array(values)


def left_padded(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """Jagged rows as (rows, width) int64 with zeros on the left.

    >>> left_padded(np.array([7, 8, 9]), np.array([0, 2, 2, 3]), 3).tolist()
    [[0, 7, 8], [0, 0, 0], [0, 0, 9]]
    """
    lengths = np.diff(offsets)
    padded = np.zeros((len(lengths), width), dtype=np.int64)
    rows = row_numbers(lengths)
    padded[rows, places_in_rows(lengths) + (width - lengths)[rows]] = values
    return padded


def _rows(spec: SyntheticSpec, world: World, split: str) -> Chunks:
    first = 0
    for block in blocks(spec, world, split):
        rows = len(block.label)
        columns: dict[str, Any] = {"ID": np.arange(first, first + rows)} if split == "test" else {}
        columns["user_id"] = block.columns["user_id"]
        columns["item_seq"] = left_padded(block.history_values, block.history_offsets, MAX_LEN)
        for name in ("item_id", "likes_level", "views_level"):
            columns[name] = block.columns[name].astype(np.int64)
        if split != "test":
            columns["label"] = block.label.astype(np.int64)
        yield columns
        first += rows


def _sequences(spec: SyntheticSpec, world: World) -> Chunks:
    for split in SPLITS:
        for block in blocks(spec, world, split):
            user, values, offsets = user_histories(block)
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int64)))
            yield {"user_id": user, "item_seq": lists.cast(pa.list_(pa.int64()))}


def user_histories(block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The users of a block, and their histories as values and offsets: each once, not once a row."""
    user, first = np.unique(block.columns["user_id"], return_index=True)
    where, offsets = slices(block.history_offsets[first], np.diff(block.history_offsets)[first])
    return user, block.history_values[where], offsets


def _item_info(world: World) -> Chunks:
    ids = np.arange(len(world.content))
    for part in np.split(ids, range(ROW_GROUP, len(ids), ROW_GROUP)):
        yield {
            "item_id": part,
            "item_tags": world.tags[part].astype(np.int64),
            "item_emb_d128": world.embedding[part].astype(np.float64),
        }


def _item_feature(spec: SyntheticSpec, world: World) -> Chunks:
    titles = make_titles(spec, world)
    for part, vectors in _embedded(spec, world, ("bert", "clip")):
        tags = [list(filter(None, row)) for row in world.tags[part].tolist()]
        yield {
            "item_id": part,
            "item_title": pa.array(titles[part[0] : part[-1] + 1]),
            "item_tags": pa.array(tags, pa.list_(pa.int64())),
            "likes_level": world.base_levels[part, 0],
            "views_level": world.base_levels[part, 1],
            **vectors,
        }


def _item_emb(spec: SyntheticSpec, world: World) -> Chunks:
    for part, vectors in _embedded(spec, world, ("v1", "v2", "v3", "e4")):
        yield {"item_id": part, **vectors}


def _embedded(
    spec: SyntheticSpec, world: World, keys: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Ids of items without padding, a slice at a time, and their vectors by column."""
    slices = {}
    for key in keys:
        rng = generator(spec, EMBEDDING_KEY, list(NOISE).index(key))
        slices[EMBEDDINGS[key].column] = embedding_slices(
            rng, world.content[1:], width=EMBEDDINGS[key].width, noise=NOISE[key]
        )
    first = 1
    for parts in zip(*slices.values(), strict=True):
        ids = np.arange(first, first + len(parts[0]))
        kind = np.float32 if keys[0] in FLOAT32 else np.float64
        yield ids, {name: part.astype(kind) for name, part in zip(slices, parts, strict=True)}
        first += len(ids)
