"""Whatever the sizes of the pieces and parts, the rows that come back are the rows that went in."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.data.store.h5_writer import SplitWriter, write_item_file
from fuxictr_multimodal.data.store.manifest import Column

COLUMNS = [Column("id", "int64", "meta"), Column("pair", "float32", "context", (2,))]


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rows_per_part=st.integers(1, 30),
    chunk_rows=st.integers(1, 9),
    read=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(lengths, cuts, rows_per_part, chunk_rows, read):
    rows = len(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = {"id": np.arange(rows), "pair": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}
    values = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fuxictr_multimodal.data.store.h5_writer.CHUNK_ROWS", chunk_rows)
        patch.setattr("fuxictr_multimodal.data.store.reader.CHUNK_ROWS", chunk_rows)
        writer = SplitWriter(folder=Path(folder) / "train", columns=COLUMNS, rows_per_part=rows_per_part)
        for start, stop in pairwise([0, *sorted(min(cut, rows) for cut in cuts), rows]):
            writer.append(
                {name: column[start:stop] for name, column in data.items()},
                values[offsets[start] : offsets[stop]],
                offsets[start : stop + 1] - offsets[start],
            )
        writer.close()
        with SplitReader(Path(folder) / "train") as reader:
            assert reader.rows == rows
            assert list(reader.columns.values()) == COLUMNS
            start, stop = sorted(min(row, rows) for row in read)
            for name, column in data.items():
                np.testing.assert_array_equal(reader.read(name, start, stop), column[start:stop])
            stored, stored_offsets = reader.read_history(start, stop)
            np.testing.assert_array_equal(stored, values[offsets[start] : offsets[stop]])
            np.testing.assert_array_equal(stored_offsets, offsets[start : stop + 1] - offsets[start])
            assert np.concatenate([np.arange(*block) for block in reader.blocks]).tolist() == list(range(rows))
            assert max(stop - start for start, stop in reader.blocks) <= min(chunk_rows, rows_per_part)


def test_full_chunks_are_written_before_the_end(tmp_path):
    writer = SplitWriter(folder=tmp_path / "train", columns=COLUMNS[:1], rows_per_part=100_000)
    rows = 70_000
    writer.append({"id": np.arange(rows)}, np.zeros(0, np.int32), np.zeros(rows + 1, np.int64))
    assert writer._pending_rows == rows - 65_536
    writer.append({"id": np.arange(rows)}, np.zeros(0, np.int32), np.zeros(rows + 1, np.int64))
    writer.close()
    with SplitReader(tmp_path / "train") as reader:
        assert reader.blocks == [(0, 65_536), (65_536, 100_000), (100_000, 140_000)]
        np.testing.assert_array_equal(reader.read("id", 69_998, 70_002), [69_998, 69_999, 0, 1])


def test_the_writer_keeps_no_view_of_the_callers_arrays(tmp_path):
    writer = SplitWriter(folder=tmp_path / "train", columns=COLUMNS[:1], rows_per_part=10)
    ids, values = np.arange(3), np.array([5, 6, 7], np.int32)
    writer.append({"id": ids}, values, np.array([0, 3, 3, 3]))
    ids[:], values[:] = -1, -1
    writer.close()
    with SplitReader(tmp_path / "train") as reader:
        assert reader.read("id", 0, 3).tolist() == [0, 1, 2]
        assert reader.read_history(0, 3)[0].tolist() == [5, 6, 7]


def test_layout_on_disk(tmp_path):
    wide = Column("emb", "float32", "item", (128,))
    write_item_file(tmp_path / "item.h5", [wide], {"emb": np.zeros((20_000, 128), np.float32)})
    with h5py.File(tmp_path / "item.h5") as file:
        dataset = file["emb"]
        assert dataset.fletcher32
        assert dataset.compression is None
        # At most 4 MiB a chunk, so that a wide column does not need a large cache.
        assert dataset.chunks == (5_000, 128)
        # A time in the file would make equal builds differ.
        assert h5py.h5g.get_objinfo(file.id, b"emb").mtime == 0
