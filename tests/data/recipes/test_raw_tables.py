"""Reading raw tables: what a good file gives, and that each kind of bad file is named with its place."""

import zipfile

import pytest

from fuxictr_multimodal.data.recipes.raw_tables import RawFiles, RawTable, open_raw, read_table
from fuxictr_multimodal.errors import DataError

LAYOUTS = {"old": ("a.dat", "b.dat"), "new": ("a.csv",)}
DAT = {"separator": "::", "header": False, "quoted": False, "legacy": "latin-1"}


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
        (b"id,score\n1,2,3\n", "cannot be read as a table"),
        (b"id,score\n1,\xff\n", "line 2 is not UTF-8 text: save the file as UTF-8"),
        (b"id,score\n1,2\n\n3,4\n", "column 'id', row 2: an empty field is not a whole number"),
        (b"id,score,id\n1,2,3\n", "column 'id' occurs more than once: remove or rename one"),
        ("id,score\n1,2\n".encode("utf-16-le"), "line 1 holds a NUL character (UTF-16 without a byte order mark?)"),
        (b" \n", "empty file"),
        (b"\n,\n\n", "empty file"),
        (b"\xef\xbb\xbf", "empty file"),
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


TITLE = "L\u00e9on"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_is_utf_8_else_what_the_layout_says(read, encoding):
    content = f"1::{TITLE}::x\n2::{TITLE} (1994)::y\n".encode(encoding)
    frame = read(content, {"id": int, "title": str, "tag": str}, **DAT)
    assert frame.rows() == [(1, TITLE, "x"), (2, f"{TITLE} (1994)", "y")]


def test_each_line_has_the_encoding_that_fits(read):
    options = {**DAT, "legacy": "windows-1252"}
    lines = ["\u201cL\u00e9on\u2019s\u201d \u2013 x".encode("windows-1252"), TITLE.encode(), TITLE.encode("latin-1")]
    content = b"".join(b"%d::%s\n" % (row, line) for row, line in enumerate(lines))
    titles = ["\u201cL\u00e9on\u2019s\u201d \u2013 x", TITLE, TITLE]
    assert read(content, {"id": int, "title": str}, **options)["title"].to_list() == titles
    with pytest.raises(DataError, match=r"a\.csv: line 4 is not WINDOWS-1252 text"):
        read(content + b"3::\x81\n", {"id": int, "title": str}, **options)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_byte_order_mark_is_no_part_of_the_first_name_or_value(read, mark, quote):
    table = f"{quote}id{quote},title\n1,{TITLE}\n".encode()
    assert read(mark + table, {"id": int, "title": str}).rows() == [(1, TITLE)]
    names = {"id": str, "title": str}
    rows = read(mark + f"a,{TITLE}\n".encode(), names, header=False).rows()
    assert rows == [("a", TITLE)]


def test_a_mark_of_utf_8_before_another_encoding_is_an_error(read):
    with pytest.raises(DataError, match=r"a\.csv: line 1 is not UTF-8 text"):
        read(b"\xef\xbb\xbf1::L\xe9on::x\n", {"id": int, "title": str, "tag": str}, **DAT)


TABLES = {
    "csv": ('id,title\n1,a\n2,"b\n\nc"\n3,', {}, [(1, "a"), (2, "b\n\nc"), (3, "")]),
    "dat": ("1::a\n2::b, ", {"separator": "::", "header": False, "quoted": False}, [(1, "a"), (2, "b, ")]),
    "tsv": ("1\ta\n2\t", {"separator": "\t", "header": False, "quoted": False}, [(1, "a"), (2, "")]),
}
ENDS = ["", "\n", "\n\n\n", "\n   \n \n", "\n{0}\n", "\n\n{0}"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_blank_lines_at_the_end_and_line_ends_of_other_systems(read, table, end, line_end):
    text, options, rows = TABLES[table]
    content = (text + end.format(options.get("separator", ","))).replace("\n", line_end).encode()
    assert read(content, {"id": int, "title": str}, **options).rows() == rows


def test_names_in_upper_case(tmp_path):
    (tmp_path / "A.DAT").write_text("1::x\n")
    (tmp_path / "b.Dat").touch()
    layout, raw = open_raw(tmp_path, LAYOUTS)
    assert (layout, raw.has("a.dat"), raw.has("a.csv")) == ("old", True, False)
    assert read_table(raw, RawTable("a.dat", {"id": int, "x": str}, **DAT)).rows() == [(1, "x")]
    assert raw.where("a.dat") == str(tmp_path / "A.DAT")
    assert raw.sources(["a.dat"]) == {"a.dat": tmp_path / "A.DAT"}
    (tmp_path / "a.dat").write_text("2::y\n")
    both = RawFiles(tmp_path)
    assert (both.actual("a.dat"), both.actual("A.DAT")) == ("a.dat", "A.DAT")


def test_a_zip_file_with_names_in_upper_case(tmp_path):
    archive = make_zip(tmp_path / "A.ZIP", ["ML/A.CSV"])
    for path in (archive, tmp_path):
        layout, raw = open_raw(path, LAYOUTS)
        assert layout == "new"
        assert read_table(raw, RawTable("a.csv", {"id": int})).rows() == [(5,)]
        assert raw.sources(["a.csv"]) == {"A.ZIP": archive}


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
    with pytest.raises(DataError, match=r"does not match a known layout.*old \(a\.dat, b\.dat\); new \(a\.csv\)"):
        open_raw(tmp_path, LAYOUTS)


def test_paths_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="does not exist: pass a folder or a zip file"):
        open_raw(tmp_path / "none", LAYOUTS)
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"torn\.zip is not a readable zip file"):
        open_raw(tmp_path / "torn.zip", LAYOUTS)
    (tmp_path / "a.csv").write_text("id\n1\n")
    with pytest.raises(DataError, match=r"a\.csv is not a readable zip file .*: pass the folder that holds the files"):
        open_raw(tmp_path / "a.csv", LAYOUTS)


def test_a_damaged_member_of_a_zip_file_is_named(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ["a.csv"])
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"id\n5\n", b"id\n6\n", 1))
    _, raw = open_raw(archive, LAYOUTS)
    with pytest.raises(DataError, match=r"a\.zip:a\.csv cannot be read: Bad CRC-32"):
        read_table(raw, RawTable("a.csv", {"id": int}))


def test_two_zip_files_are_a_question(tmp_path):
    make_zip(tmp_path / "one.zip", ["a.csv"])
    make_zip(tmp_path / "two.zip", ["a.csv"])
    with pytest.raises(DataError, match="2 zip files of a known layout"):
        open_raw(tmp_path, LAYOUTS)
