"""Tables of the user are read as they are written, whatever the format, and a wrong value is named with its place."""

import gzip

import pandas as pd
import polars as pl
import pytest

from fuxictr_multimodal.data.entry.tables.files import scan
from fuxictr_multimodal.errors import DataError

DTYPES = {"user": "str", "age": "int", "price": "float", "clicks": "list"}
ROWS = pl.DataFrame(
    {
        "user": ["é,1", None, 'say "x"', "7"],
        "age": [3, None, -5, 2**40],
        "price": [1.5, 2.0, None, 1e-7],
        "clicks": [["a", "b"], [], None, ["c"]],
        "unused": [1, 2, 3, 4],
    }
)


def as_csv(frame, path, **kwargs):
    frame.with_columns(pl.col("clicks").list.join("^")).write_csv(path, **kwargs)
    return path


def open_table(source, **kwargs):
    return scan(source, dtypes=kwargs.pop("dtypes", DTYPES), where="dataset 'Shop': train_data", **kwargs)


def test_parquet_and_frames_come_as_they_are(tmp_path):
    ROWS.write_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", ROWS, ROWS.lazy()):
        table = open_table(source)
        assert table.rows == 4
        assert table.read().equals(ROWS.drop("unused"))
        assert pl.concat(table.chunks(rows=3)).equals(ROWS.drop("unused"))
    assert open_table(tmp_path / "a.parquet").files == (tmp_path / "a.parquet",)


def test_some_rows_of_parquet_parts_are_those_of_the_whole(tmp_path):
    """Parts may have numbers of other widths, and no value at all."""
    parts = [
        pl.DataFrame({"n": [1, 2, 3], "t": ["a", "b", "c"]}, schema_overrides={"n": pl.Int16}),
        pl.DataFrame({"n": [4], "t": [None]}),
        pl.DataFrame({"n": [5, 6], "t": ["e", "f"]}),
    ]
    for number, part in enumerate(parts):
        part.write_parquet(tmp_path / f"{number}.parquet")
    table = scan(tmp_path, dtypes={"n": "any", "t": "any"}, where="x")
    whole = table.read()
    for first in range(6):
        for rows in range(1, 7 - first):
            assert table.some(first, rows).read().equals(whole[first : first + rows])
            assert table.some(first, rows).read().schema == whole.schema
    assert not scan(whole, dtypes={"n": "any"}, where="x").parts


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_csv_is_typed_by_the_entry(tmp_path, mark, ends):
    path = as_csv(ROWS, tmp_path / "a.csv")
    path.write_bytes(mark + path.read_bytes().replace(b"\n", ends))
    found = open_table(path).read()
    expected = ROWS.drop("unused").with_columns(pl.col("clicks").list.join("^"))
    assert found.with_columns(pl.col("clicks").fill_null("")).equals(
        expected.with_columns(pl.col("clicks").fill_null(""))
    )


def test_csv_may_be_compressed_or_have_another_separator(tmp_path):
    expected = open_table(as_csv(ROWS, tmp_path / "a.csv")).read()
    as_csv(ROWS, tmp_path / "b.tsv", separator="\t")
    as_csv(ROWS, tmp_path / "c.csv", separator=";")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert open_table(tmp_path / "b.tsv").read().equals(expected)
    assert open_table(tmp_path / "c.csv", sep=";").read().equals(expected)
    assert open_table(tmp_path / "d.csv.gz").read().equals(expected)


def test_what_pandas_makes_of_gaps_is_no_loss(tmp_path):
    frame = pd.DataFrame({"user": [1.0, None], "age": [3.0, None], "price": [0.5, float("nan")]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    dtypes = {name: DTYPES[name] for name in ("user", "age", "price")}
    numbers = {"age": [3, None], "price": [0.5, None]}
    for source in (frame, tmp_path / "a.parquet"):
        assert open_table(source, dtypes=dtypes).read().to_dict(as_series=False) == {"user": ["1", None], **numbers}
    found = open_table(tmp_path / "a.csv", dtypes={"age": "int", "price": "float"}).read()
    assert found.to_dict(as_series=False) == numbers
    assert found.schema == {"age": pl.Int64, "price": pl.Float64}


def test_parts_of_a_folder_or_a_glob_come_in_the_order_of_their_names(tmp_path):
    for name, at in (("part-1", 0), ("part-2", 2), ("_SUCCESS", 0), (".hidden", 0)):
        ROWS[at : at + 2].write_parquet(tmp_path / f"{name}.parquet")
    as_csv(ROWS[2:].select(reversed(ROWS.columns)), tmp_path / "part-2.csv")
    as_csv(ROWS[:2], tmp_path / "part-1.csv")
    expected = ROWS.drop("unused")
    assert open_table(tmp_path, data_format="parquet").read().equals(expected)
    assert open_table(f"{tmp_path}/part-*.parquet").read().equals(expected)
    assert open_table(f"{tmp_path}/part-*.csv").read().drop("clicks").equals(expected.drop("clicks"))
    ROWS.with_columns(pl.col("age").cast(pl.Int16, strict=False)).write_parquet(tmp_path / "part-3.parquet")
    assert open_table(tmp_path, data_format="parquet").rows == 8


def test_a_path_without_its_ending_and_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ROWS.write_parquet(tmp_path / "train.parquet")
    assert open_table("~/train.parquet").rows == open_table(str(tmp_path / "train"), data_format="parquet").rows == 4


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("user,age,price,clicks", "x,3.5,1,", r"a.csv: column 'age', row 3: '3.5' is not a whole number"),
        ("user,age,price,clicks", "x,3,cheap,", r"a.csv: column 'price', row 3: 'cheap' is not a number"),
        ("user,age,price,clicks", "x,99999999999999999999,1,", r"column 'age', row 3: '9+' is not a whole number"),
        ("usr,age,price,clicks", "x,3,1,", r"a.csv: column 'user' is missing. Did you mean 'usr'\?"),
        ("user,age,age,clicks", "x,3,1,", r"column 'age' occurs more than once"),
        ("user,age,price,clicks", "x,3,1,,,,", r"a.csv cannot be read: found more fields"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, header, row, message):
    (tmp_path / "a.csv").write_text(f"{header}\nx,1,1.0,\ny,, 2 ,\n{row}\n")
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "a.csv")


def test_wrong_values_of_parquet_and_frames_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    ROWS.with_columns(age=pl.Series([1.0, 2.5, None, 3.0])).write_parquet(path)
    with pytest.raises(DataError, match=r"a.parquet: column 'age', row 1: 2.5 is not a whole number"):
        open_table(path)
    ROWS.with_columns(age=pl.Series([1, 2, 3, 2**63], dtype=pl.UInt64)).write_parquet(path)
    with pytest.raises(DataError, match=r"column 'age', row 3: 9223372036854775808 is not a whole number"):
        open_table(path)
    with pytest.raises(
        DataError, match=r"dataset 'Shop': train_data: column 'user' is declared as str, but holds List"
    ):
        open_table(ROWS.with_columns(user="clicks"))
    with pytest.raises(DataError, match=r"column 'clicks' holds Int64, not lists or text"):
        open_table(ROWS.with_columns(clicks="age"))


@pytest.mark.parametrize("odd", [{"a": 1}, object(), 10**30, {1}], ids=["dict", "object", "huge", "set"])
def test_objects_of_pandas_that_are_no_values_are_named(odd):
    frame = ROWS.to_pandas()
    frame["age"] = frame["age"].astype(object)
    frame.iat[1, frame.columns.get_loc("age")] = odd
    with pytest.raises(DataError, match=r"train_data: column 'age' holds objects that are no numbers, texts or lists"):
        open_table(frame)


def test_a_wrong_value_of_a_column_of_any_name_is_named():
    frame = pl.DataFrame({"at": ["1", "x"], "row": ["y", "2"]})
    for name, row, value in (("at", 1, "x"), ("row", 0, "y")):
        with pytest.raises(DataError, match=f"column '{name}', row {row}: '{value}' is not a whole number"):
            scan(frame, dtypes={name: "int"}, where="table")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train_data: .*/nowhere/a.csv does not exist \(nor does the folder"):
        open_table(tmp_path / "nowhere/a.csv")
    (tmp_path / "train.csv").write_bytes(b"user,age,price,clicks\n\xff,1,1,\n")
    with pytest.raises(DataError, match=r"trian.csv does not exist. Did you mean 'train.csv'\?"):
        open_table(tmp_path / "trian.csv")
    with pytest.raises(DataError, match=r"train.csv cannot be read: invalid utf-8"):
        open_table(tmp_path / "train.csv")
    ROWS.write_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"age", b"\xffge"))
    with pytest.raises(DataError, match=r"a.parquet cannot be read: a name in it is not UTF-8"):
        open_table(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match=r"a.parquet cannot be read"):
        open_table(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"the format of .*a.json is not clear from its name: set data_format"):
        open_table(tmp_path / "a.json")
    (tmp_path / "parts").mkdir()
    with pytest.raises(DataError, match=r"the folder .*parts has no files that end with .csv"):
        open_table(tmp_path / "parts", data_format="csv")


def test_parts_that_differ_are_named(tmp_path):
    ROWS.write_parquet(tmp_path / "a.parquet")
    ROWS.drop("price").write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'price' is missing"):
        open_table(tmp_path)
    with pytest.raises(DataError, match=r"b.parquet: column 'price' is in some of the parts"):
        open_table(tmp_path, optional=("price",))
    ROWS.with_columns(clicks=pl.lit("a^b")).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'clicks' holds String, but List\(String\) in a.parquet"):
        open_table(tmp_path)
