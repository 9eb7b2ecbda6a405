"""Raw parquet files in batches, and left-padded arrays to jagged histories."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.recipes.parquet_input import (
    Anything,
    Arrays,
    Lists,
    ParquetInput,
    Scalars,
    jagged_from_left_padded,
    parquet_rows,
)

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=9)


@given(ROWS)
def test_jagged_is_the_rows_without_padding_or_an_error_that_names_the_first_wrong_one(rows):
    holes = [any(a and not b for a, b in pairwise(row)) for row in rows]
    if any(holes):
        with pytest.raises(DataError, match=rf"f: row {7 + holes.index(True)}, column 'seq': slot \d is 0"):
            jagged_from_left_padded(np.array(rows), where="f", name="seq", first_row=7)
        return
    values, offsets = jagged_from_left_padded(np.array(rows), where="f", name="seq")
    assert [values[offsets[i] : offsets[i + 1]].tolist() for i in range(len(rows))] == [
        [item for item in row if item] for row in rows
    ]


@pytest.fixture
def table(tmp_path):
    columns = {
        "number": pa.array(range(10)),
        "price": pa.array([float(i) for i in range(10)], pa.float32()),
        "text": pa.array([f"t{i}" for i in range(10)]),
        "fixed": pa.array([[i, i + 1] for i in range(10)], pa.list_(pa.int32(), 2)),
        "ragged": pa.array([[i] * (i % 3) for i in range(10)]),
        "gaps": pa.array([None if i == 6 else i for i in range(10)]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=4)
    return tmp_path / "x.parquet"


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_batches_are_the_file_in_order(table, rows):
    forms = {
        "number": Scalars(int), "price": Scalars(float), "text": Scalars(str), "fixed": Arrays(int, 2),
        "ragged": Lists(), "gaps": Anything(),
    }  # fmt: skip
    batches = list(ParquetInput(table, forms).batches(rows))
    assert [first for first, _ in batches] == list(range(0, 10, rows))
    for name in ("number", "price", "text", "fixed"):
        expected = np.array(pq.read_table(table)[name].to_pylist())
        assert (np.concatenate([columns[name] for _, columns in batches]) == expected).all()
    ragged = [v[o[i] : o[i + 1]].tolist() for _, c in batches for v, o in [c["ragged"]] for i in range(len(o) - 1)]
    assert ragged == [[i] * (i % 3) for i in range(10)]
    gaps = [value for _, columns in batches for value in columns["gaps"].to_pylist()]
    assert gaps == [*range(6), None, 7, 8, 9]


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("numbr", Scalars(int), "column 'numbr' is missing. Did you mean 'number'"),
        ("price", Scalars(int), "column 'price' holds float, wanted are int"),
        ("number", Scalars(str), "column 'number' holds int64, wanted are str"),
        ("number", Lists(), "column 'number' holds int64, wanted are lists of int"),
        ("fixed", Arrays(float, 2), "wanted are arrays of 2 float"),
        ("fixed", Arrays(int, 3), r"wanted are arrays of 3 int"),
        ("ragged", Arrays(int, 1), "row 0, column 'ragged': there are 0 values, wanted are 1"),
        ("gaps", Scalars(int), "row 6, column 'gaps': the value is missing"),
    ],
)
def test_a_column_of_another_form(table, name, form, message):
    with pytest.raises(DataError, match=message):
        ParquetInput(table, {name: form}).read()


def test_rows_of_a_footer(table, tmp_path):
    assert parquet_rows(table) == 10
    assert ParquetInput(table, {"number": Scalars(float)}).read()["number"].tolist() == [*range(10)]
    with pytest.raises(DataError, match="no such file"):
        parquet_rows(tmp_path / "y.parquet")
    pq.write_table(pq.read_table(table)[:0], tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="the file has no rows"):
        ParquetInput(tmp_path / "empty.parquet", {"number": Scalars(int)}).read()


def test_memory_does_not_follow_the_row_group(tmp_path):
    rows = 200_000
    wide = np.random.default_rng(0).integers(0, 2**40, (rows, 20))
    column = pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), 20)
    pq.write_table(pa.table({"wide": column}), tmp_path / "x.parquet", row_group_size=rows, use_dictionary=False)
    pool = pa.default_memory_pool()
    before, highest, total = pool.bytes_allocated(), 0, 0
    del column
    for _, columns in ParquetInput(tmp_path / "x.parquet", {"wide": Arrays(int, 20)}).batches(4096):
        total += int(columns["wide"].sum())
        highest = max(highest, pool.bytes_allocated() - before)
    assert total == int(wide.sum())
    assert highest < wide.nbytes / 4
