"""Small files in the exact form of MicroLens_1M_MMCTR, and ways to spoil them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = 40
ROWS = {"train": 300, "valid": 60, "test": 80}
ITEM_EMB = ("item_emb_d128_v1", "item_emb_d128_v2", "item_emb_d128_v3", "item_emb_d128_e4")


def write_challenge(folder: Path, *, seed: int = 0, items: int = ITEMS, rows: dict[str, int] = ROWS) -> Path:
    """Write all files of the release below `folder`; every tenth history is empty and every tenth is full."""
    rng = np.random.default_rng(seed)
    inner = folder / "MicroLens_1M_x1"
    inner.mkdir(parents=True)
    tags = np.sort(rng.integers(0, 11_740, (items, 5)) * (rng.random((items, 5)) < 0.6), axis=1)
    emb = rng.normal(size=(items, 128))
    tags[0] = emb[0] = 0
    save(
        inner / "item_info.parquet",
        item_id=np.arange(items), item_tags=fixed(tags), item_emb_d128=fixed(emb),
    )  # fmt: skip
    levels = rng.integers(0, 11, (2, items))
    first_user = 1
    for split, count in rows.items():
        target = rng.integers(1, items, count)
        columns = {"ID": np.arange(count)} if split == "test" else {}
        columns |= {
            "user_id": rng.integers(first_user, first_user + count, count),
            "item_seq": fixed(histories(rng, count, items)),
            "item_id": target,
            "likes_level": levels[0][target],
            "views_level": levels[1][target],
        }
        first_user += count
        if split != "test":
            columns["label"] = (np.arange(count) % 4 == 0).astype(np.int64)
        save(inner / f"{split}.parquet", **columns)
    order = rng.permutation(np.arange(1, items))
    save(
        folder / "item_feature.parquet",
        item_id=order,
        item_title=pa.array([f"video {i} #tag{i % 3}" for i in order]),
        item_tags=pa.array([row[row > 0].tolist() for row in tags[order]], pa.list_(pa.int64())),
        likes_level=levels[0][order],
        views_level=levels[1][order],
        txt_emb_BERT=fixed(rng.normal(size=(items - 1, 768)).astype(np.float32)),
        img_emb_CLIPRN50=fixed(rng.normal(size=(items - 1, 1024)).astype(np.float32)),
    )
    save(
        folder / "item_emb.parquet",
        item_id=np.arange(1, items),
        **{name: fixed(rng.normal(size=(items - 1, 128))) for name in ITEM_EMB},
    )
    return folder


def histories(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
    """Left-padded item ids, (count, 64)."""
    lengths = rng.integers(1, 20, count)
    lengths[::10], lengths[1::10] = 0, 64
    padded = rng.integers(1, items, (count, 64))
    return padded * (np.arange(64) >= 64 - lengths[:, None])


def fixed(values: np.ndarray) -> pa.Array:
    """Rows of equal width as arrow's fixed size list."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def save(path: Path, **columns: np.ndarray | pa.Array) -> None:
    """Write a parquet file, in row groups of an odd size."""
    pq.write_table(pa.table(columns), path, row_group_size=97)


def load(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Columns of a file, all by default, as plain arrays: (rows,) or (rows, width)."""
    table = pq.read_table(path, columns=list(names) or None)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def spoil(path: Path, column: str, row: int, value: object) -> None:
    """Replace one value, or one element of an array column where `value` is a pair (position, value)."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    if isinstance(values[row], list):
        position, value = value
        values[row][position] = value
    else:
        values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table[column].type)), path)


def drop(path: Path, column: str) -> None:
    """Remove a column."""
    pq.write_table(pq.read_table(path).drop_columns([column]), path)


def twice(path: Path, column: str) -> None:
    """Write a column a second time under its own name."""
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, table[column]), path)


def add(path: Path, column: str, values: np.ndarray) -> None:
    """Add a column."""
    pq.write_table(pq.read_table(path).append_column(column, pa.array(values)), path)


def cut(path: Path, share: float = 0.6) -> None:
    """Keep the beginning of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
