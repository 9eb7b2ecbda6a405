"""Raw parquet files in batches, and left-padded arrays to jagged histories."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.recipes.parquet_input import (
    Anything,
    Arrays,
    Lists,
    ParquetInput,
    Scalars,
    jagged_from_left_padded,
    parquet_rows,
)
from fuxictr_multimodal.errors import DataError

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
        ("price", Scalars(int), "column 'price' holds float, expected int"),
        ("number", Scalars(str), "column 'number' holds int64, expected str"),
        ("number", Lists(), "column 'number' holds int64, expected lists of int"),
        ("fixed", Arrays(float, 2), "expected arrays of 2 float"),
        ("fixed", Arrays(int, 3), r"expected arrays of 3 int"),
        ("ragged", Arrays(int, 1), "row 0, column 'ragged': there are 0 values, expected 1"),
        ("gaps", Scalars(int), "row 6, column 'gaps': the value is missing"),
    ],
)
def test_a_column_of_another_form(table, name, form, message):
    with pytest.raises(DataError, match=message):
        ParquetInput(table, {name: form}).read()


def test_rows_of_a_footer(table, tmp_path):
    assert parquet_rows(table) == 10
    assert ParquetInput(table, {"number": Scalars(float)}).read()["number"].tolist() == [*range(10)]
    with pytest.raises(DataError, match="does not exist"):
        parquet_rows(tmp_path / "y.parquet")
    pq.write_table(pq.read_table(table)[:0], tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="the file has no rows"):
        ParquetInput(tmp_path / "empty.parquet", {"number": Scalars(int)}).read()


SEQUENCES = [[1, 2], [], [3]]


@pytest.mark.parametrize(
    ("values", "form", "right"),
    [
        pytest.param(pa.array([[], []]), Lists(), ([], [0, 0, 0]), id="all histories empty"),
        pytest.param(pa.array([[], []], pa.large_list(pa.null())), Lists(), ([], [0, 0, 0]), id="large, all empty"),
        pytest.param(pa.array([[], []], pa.list_(pa.float64())), Lists(), ([], [0, 0, 0]), id="numbers, all empty"),
        pytest.param(pa.array([[], []], pa.list_(pa.string())), Lists(), ([], [0, 0, 0]), id="text, all empty"),
        pytest.param(pa.array(SEQUENCES, pa.large_list(pa.int16())), Lists(), ([1, 2, 3], [0, 2, 2, 3]), id="large"),
        pytest.param(pa.array([[1], [2]], pa.list_(pa.uint32(), 1)), Lists(), ([1, 2], [0, 1, 2]), id="fixed size"),
        pytest.param(
            pa.array(SEQUENCES, pa.list_(pa.dictionary(pa.int8(), pa.int64()))), Lists(), ([1, 2, 3], [0, 2, 2, 3]),
            id="dictionary in lists",
        ),
        pytest.param(pa.array([1, 2], pa.uint8()), Scalars(int), [1, 2], id="small integers"),
        pytest.param(pa.array([7, 9]).dictionary_encode(), Scalars(int), [7, 9], id="dictionary of integers"),
        pytest.param(pa.array(["a", "b"]).dictionary_encode(), Scalars(str), ["a", "b"], id="dictionary of text"),
        pytest.param(pa.array(["a", "b"], pa.large_string()), Scalars(str), ["a", "b"], id="large text"),
        pytest.param(pa.array(["a", None]).dictionary_encode(), Anything(), ["a", None], id="anything in a dictionary"),
        pytest.param(pa.nulls(2), Anything(), [None, None], id="anything, all missing"),
    ],
)  # fmt: skip
def test_types_that_hold_what_is_wanted(tmp_path, values, form, right):
    pq.write_table(pa.table({"x": values}), tmp_path / "x.parquet")
    ((first, columns),) = ParquetInput(tmp_path / "x.parquet", {"x": form}).batches()
    found = columns["x"]
    if isinstance(form, Lists):
        assert found[0].dtype.kind in "iu"
    found = [part.tolist() for part in found] if isinstance(form, Lists) else found.tolist()
    assert (first, found) == (0, list(right))


@pytest.mark.parametrize(
    ("columns", "form", "message"),
    [
        (
            [("x", [1]), ("x", [2])],
            Scalars(int),
            r"one\.parquet: column 'x' occurs 2 times: rename or drop all but one",
        ),
        ([("x", pa.nulls(2))], Scalars(int), "row 0, column 'x': the value is missing"),
        ([("x", pa.nulls(2))], Lists(), "row 0, column 'x': the value is missing: an empty list stands for none"),
        ([("x", pa.array([[], [None]]))], Lists(), "row 1, column 'x': a value is missing"),
        ([("x", pa.array([[], []]))], Arrays(int, 2), "row 0, column 'x': there are 0 values, expected 2"),
        ([("x", pa.array(["1"]).dictionary_encode())], Scalars(int), "column 'x' holds dictionary<.*expected int"),
        ([("x", pa.array([["1"]]))], Lists(), "column 'x' holds list<.*expected lists of int"),
    ],
)
def test_one_clear_error(tmp_path, columns, form, message):
    names, arrays = zip(*columns, strict=True)
    pq.write_table(pa.table([pa.array(values) for values in arrays], names=names), tmp_path / "one.parquet")
    with pytest.raises(DataError, match=message):
        ParquetInput(tmp_path / "one.parquet", {"x": form}).read()


def test_a_column_that_is_there_twice_and_not_wanted_is_not_looked_at(tmp_path):
    pq.write_table(pa.table([[1], [2], [3]], names=["x", "x", "y"]), tmp_path / "x.parquet")
    assert ParquetInput(tmp_path / "x.parquet", {"y": Scalars(int)}).read()["y"].tolist() == [3]


@pytest.fixture
def parts(tmp_path):
    """A folder as Spark writes it: three parts, one of them empty, and files that are not parts."""
    folder = tmp_path / "rows.parquet"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1, 2], "seq": [[], []]}), folder / "part-00000-a.snappy.parquet")
    empty = pa.table({"x": pa.array([], pa.int32()), "seq": pa.array([], pa.list_(pa.int64()))})
    pq.write_table(empty, folder / "part-00001-a.snappy.parquet")
    pq.write_table(pa.table({"x": pa.array([3], pa.int32()), "seq": [[7]]}), folder / "part-00002-a.snappy.PARQUET")
    (folder / "_SUCCESS").touch()
    (folder / "_metadata.parquet").write_text("hidden")
    (folder / ".part-00000-a.snappy.parquet.crc").write_text("crc")
    (folder / ".part-00003.parquet").write_text("crc")
    return folder


@pytest.mark.parametrize("name", ["", "part-*", "part-0000[012]-*"])
def test_a_folder_of_parts_is_read_in_the_order_of_names(parts, name):
    table = ParquetInput(parts / name, {"x": Scalars(int), "seq": Lists()})
    assert (table.rows, parquet_rows(parts / name)) == (3, 3)
    batches = list(table.batches(1))
    assert [first for first, _ in batches] == [0, 1, 2]
    assert [columns["x"].tolist() for _, columns in batches] == [[1], [2], [3]]
    assert [columns["seq"][0].tolist() for _, columns in batches] == [[], [], [7]]


@pytest.mark.parametrize(
    ("part", "form", "message"),
    [
        ({"y": [1]}, Scalars(int), r"part-00003\.parquet: column 'x' is missing"),
        ({"x": ["a"]}, Scalars(int), r"part-00003\.parquet: column 'x' holds string, expected int"),
        ({"x": ["a"]}, Anything(), r"part-00003\.parquet: column 'x' holds string, but int64 in the parts before"),
        ({"x": [4, None]}, Scalars(int), r"part-00003\.parquet: row 1, column 'x': the value is missing"),
        (None, Scalars(int), r"part-00003\.parquet: damaged, truncated or not a parquet file"),
    ],
)
def test_a_part_that_does_not_fit_is_named(parts, part, form, message):
    if part is None:
        (parts / "part-00003.parquet").write_text("x")
    else:
        pq.write_table(pa.table(part), parts / "part-00003.parquet")
    with pytest.raises(DataError, match=message):
        list(ParquetInput(parts, {"x": form}).batches())


def test_folders_that_hold_no_parts(tmp_path):
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"is a folder without \*\.parquet files"):
        ParquetInput(tmp_path, {})
    (tmp_path / "day=1").mkdir()
    with pytest.raises(DataError, match=r"is partitioned into folders \(day=1\): write it without partitions"):
        ParquetInput(tmp_path, {})
    with pytest.raises(DataError, match=r"part-\* does not exist"):
        ParquetInput(tmp_path / "part-*", {})


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
