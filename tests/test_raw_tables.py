"""Reading raw tables: what a good file gives, and that each kind of bad file is named with its place."""

import zipfile

import pytest

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.recipes.raw_tables import RawFiles, RawTable, open_raw, read_table

LAYOUTS = {"old": ("a.dat", "b.dat"), "new": ("a.csv",)}
DAT = {"separator": "::", "header": False, "quoted": False, "encoding": "latin-1"}


@pytest.fixture
def read(tmp_path):
    def read(content: bytes, columns: dict[str, type], **options):
        (tmp_path / "a.csv").write_bytes(content)
        return read_table(RawFiles(tmp_path), RawTable("a.csv", columns, **options))

    return read


def test_columns_come_in_the_wanted_order_and_types(read):
    frame = read(b'id,name,other,score\n7,"x, ""y""",9,3.5\n8,,9,4\n', {"score": float, "id": int, "name": str})
    assert frame.to_dict(as_series=False) == {"score": [3.5, 4.0], "id": [7, 8], "name": ['x, "y"', ""]}


def test_double_colons_and_latin_1(read):
    frame = read('1::Am\xe9lie: "a" (2001)::x\n'.encode("latin-1"), {"id": int, "title": str, "tag": str}, **DAT)
    assert frame.rows() == [(1, 'Am\xe9lie: "a" (2001)', "x")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,score\n1,2\n2,x\n", "column 'score', row 2: 'x' is not a number"),
        (b"id,score\n1,2\n2,nan\n", "column 'score', row 2: nan is not a number"),
        (b"id,score\n1,2\n2,\n", "column 'score', row 2: an empty field is not a number"),
        (b"id,score\n1.5,2\n", "column 'id', row 1: '1.5' is not a whole number"),
        (b"id,scor\n1,2\n", "column 'score' is missing. Did you mean 'scor'?"),
        (b"id,score\n1,2,3\n", "not readable as a table"),
        (b"id,score\n1,\xff\n", "not readable as a table"),
        (b" \n", "empty file"),
    ],
)
def test_bad_content_is_named(read, content, message):
    with pytest.raises(DataError) as caught:
        read(content, {"id": int, "score": float})
    assert message in str(caught.value)
    assert "a.csv" in str(caught.value)


@pytest.mark.parametrize("content", [b"1::2\n", b"1::2::3::4\n"])
def test_wrong_number_of_fields_without_a_header(read, content):
    with pytest.raises(DataError, match=r"a\.csv: row 1 has [24] fields, not the 3 of id, x, y"):
        read(content, {"id": int, "x": int, "y": int}, **DAT)


def make_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "id\n5\n")
    return path


@pytest.mark.parametrize("inside", ["", "ml/", "x/ml/"])
def test_layout_in_a_zip_file_however_deep(tmp_path, inside):
    archive = make_zip(tmp_path / "a.zip", [f"{inside}a.csv", f"{inside}readme"])
    for path in (archive, tmp_path):  # the zip file, and the folder that holds it
        layout, raw = open_raw(path, LAYOUTS)
        assert layout == "new"
        assert raw.has("a.csv")
        assert not raw.has("b.csv")
        assert read_table(raw, RawTable("a.csv", {"id": int})).rows() == [(5,)]
        assert raw.sources(["a.csv"]) == {"a.zip": archive}


def test_layout_in_a_folder(tmp_path):
    for name in LAYOUTS["old"]:
        (tmp_path / name).touch()
    layout, raw = open_raw(tmp_path, LAYOUTS)
    assert layout == "old"
    assert raw.sources(["a.dat"]) == {"a.dat": tmp_path / "a.dat"}


def test_unknown_layout_says_which_are_known(tmp_path):
    (tmp_path / "a.dat").touch()
    with pytest.raises(DataError, match=r"none of the known layouts.*old \(a\.dat, b\.dat\); new \(a\.csv\)"):
        open_raw(tmp_path, LAYOUTS)


def test_paths_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="no such folder or zip file"):
        open_raw(tmp_path / "none", LAYOUTS)
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"torn\.zip is no readable zip file"):
        open_raw(tmp_path / "torn.zip", LAYOUTS)


def test_two_zip_files_are_a_question(tmp_path):
    make_zip(tmp_path / "one.zip", ["a.csv"])
    make_zip(tmp_path / "two.zip", ["a.csv"])
    with pytest.raises(DataError, match="2 zip files of a known layout"):
        open_raw(tmp_path, LAYOUTS)
