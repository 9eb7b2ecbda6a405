"""Tables and archives of the user that unfold beyond measure, never end, or are no text."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.torture.hostile.arrays import BUILD, KEYS, VALUES, npz, unfolding
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.settings import DATASETS
from tests.torture.hostile.worlds import EXPID, edit_yaml

EXPLAIN = ("explain", "--config", "config", "--expid", EXPID, "--row", "0", "--titles")
MOVIELENS = ("build", "movielens", "--raw")


def users(path: str, fill: Callable[[Path, Place], object], key: str = "user_data") -> Callable[[Place], Sequence[str]]:
    """A table of the entry, and build."""

    def write(place: Place) -> Sequence[str]:
        fill(Path(path), place)

        def change(found: Any) -> None:
            if key == "log":
                found["Shop"]["interactions"]["file"] = path
            else:
                found["Shop"][key] = path

        edit_yaml(DATASETS, change)
        return BUILD

    return write


def given(path: str, fill: Callable[[Path, Place], object], *arguments: str) -> Callable[[Place], Sequence[str]]:
    """A file that the command line names last."""

    def write(place: Place) -> Sequence[str]:
        fill(Path(path), place)
        return [*arguments, path]

    return write


def content(found: bytes) -> Callable[[Path, Place], object]:
    return lambda path, place: path.write_bytes(found)


def _equal_values(rows: int) -> Callable[[Path, Place], None]:
    """A parquet file of equal values in a few kilobytes."""

    def fill(path: Path, place: Place) -> None:
        group = pa.table({"user_id": pa.DictionaryArray.from_arrays(pa.array([0] * 10_000_000, pa.int32()), ["u001"])})
        with pq.ParquetWriter(path, group.schema, compression="zstd", data_page_size=1 << 30) as writer:
            for _ in range(rows // len(group)):
                writer.write_table(group, row_group_size=len(group))

    return fill


def _gzip_bomb(first: bytes, filler: bytes = b"a") -> Callable[[Path, Place], None]:
    """4 GB in 4 MB: one line that does not end."""

    def fill(path: Path, place: Place) -> None:
        piece = gzip.compress(filler * (16 << 20))
        with path.open("wb") as file:
            file.write(gzip.compress(first))
            for _ in range(256):
                file.write(piece)

    return fill


def _columns(path: Path, place: Place) -> None:
    table = pa.table({f"c{n}": pa.array([1]) for n in range(25_000)})
    pq.write_table(table, path, use_dictionary=False, write_statistics=False)


def _deep(path: Path, place: Place) -> None:
    kind: pa.DataType = pa.int32()
    for _ in range(100):
        kind = pa.struct([("a", kind)])
    pq.write_table(pa.table({"user_id": pa.nulls(3, kind)}), path)


def _footer(path: Path, place: Place) -> None:
    """A footer that claims to be longer than the file."""
    pq.write_table(pa.table({"user_id": ["u001"]}), path)
    found = path.read_bytes()
    path.write_bytes(found[:-8] + b"\xff\xff\xff\x7f" + found[-4:])


def _pipe(path: Path, place: Place) -> None:
    os.mkfifo(path)


def _zip_bomb(path: Path, place: Place) -> None:
    line = b"1::1::5::978300760\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, row in (("movies.dat", "1::x::y"), ("users.dat", "1::M::1::1::1")):
            archive.writestr(f"ml-1m/{name}", f"{row}\n")
        unfolding(archive, "ml-1m/ratings.dat", line, line * 900_000, size=len(line) * (1 + 900_000 * 200))


def _escaping_zip(path: Path, place: Place) -> None:
    npz({"../outside/ratings.dat": b"1::1::5::1\n", "../outside/movies.dat": b"", "../outside/users.dat": b""})(
        path, place
    )


def _linked_zip(path: Path, place: Place) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ratings.dat", "movies.dat", "users.dat"):
            member = zipfile.ZipInfo(f"ml-1m/{name}")
            member.external_attr = 0o120777 << 16
            archive.writestr(member, str(place.outside / "secret.txt"))


def _many_members(path: Path, place: Place) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(101_000):
            archive.writestr(str(number), b"")


def _secret_link(path: Path, place: Place) -> None:
    path.symlink_to(place.outside / "secret.txt")


def _init(path: str, fill: Callable[[Path, Place], object]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        fill(Path(path), place)
        return ["init", path, "raw/items.parquet", "--config", "proposed"]

    return write


def _header(path: Path, place: Place) -> None:
    """Columns named as YAML that would build an object, and as terminal escapes."""
    tag = f"!!python/object/apply:pathlib.Path.touch [{str(place.canary)!r}]"
    rows = "".join(f"u{n % 7},sku-{n % 9:04d},{1_700_000_000 + n},{n % 2},1\n" for n in range(200))
    path.write_text(f'user_id,item_id,timestamp,click,"{tag}\x1b[2J"\n' + rows, encoding="utf-8")


CASES: list[Case] = with_name(
    "tables",
    [
        Case("parquet of 2e8 equal values", users("u.parquet", _equal_values(2 * 10**8)), "values of a column"),
        Case(
            "titles of 2e8 equal values",
            given("t.parquet", _equal_values(2 * 10**8), *EXPLAIN),
            "values of a column|declares",
        ),
        Case("init with 2e8 equal values", _init("u.parquet", _equal_values(2 * 10**8)), "values of a column"),
        Case("parquet of 25,000 columns", users("u.parquet", _columns), "columns"),
        Case("parquet of 100 levels", users("u.parquet", _deep), "user_id|u.parquet"),
        Case("parquet with a footer beyond the file", users("u.parquet", _footer), "u.parquet"),
        Case("parquet that is a link to a secret", users("u.parquet", _secret_link), "u.parquet"),
        Case("parquet that is a pipe", users("u.parquet", _pipe), "u.parquet"),
        Case("csv that is a pipe", users("u.csv", _pipe), "u.csv"),
        Case("a log that is a pipe", users("l.parquet", _pipe, "log"), "l.parquet"),
        Case("a gzip bomb of users", users("u.csv.gz", _gzip_bomb(b"user_id,country,age\n")), "gzip unfold"),
        Case("a gzip bomb for init", _init("l.csv.gz", _gzip_bomb(b"user_id,item_id\n")), "gzip unfold"),
        Case(
            "a gzip bomb of texts",
            given(
                "t.csv.gz",
                _gzip_bomb(b"id,text\n"),
                "embed",
                "--expid",
                "E",
                "--config",
                "config/embedding",
                "--stage",
                "encode",
                "--published",
                "encoder",
                "--output",
                "v.parquet",
                "--input",
            ),
            "gzip unfold",
            world="encoder",
        ),
        Case("a zip bomb", given("ml-1m.zip", _zip_bomb, *MOVIELENS), "declares"),
        Case(
            "a zip file whose members leave the folder",
            given("ml-1m.zip", _escaping_zip, *MOVIELENS),
            "leaves the folder",
        ),
        Case("a zip file of links", given("ml-1m.zip", _linked_zip, *MOVIELENS), "is a link"),
        Case("a zip file of 101,000 members", given("ml-1m.zip", _many_members, *MOVIELENS), "members"),
        Case("a zip file that is none", given("ml-1m.zip", content(b"PK\x03\x04 no"), *MOVIELENS), "ml-1m.zip"),
        Case("a zip file that is a pipe", given("ml-1m.zip", _pipe, *MOVIELENS), "ml-1m.zip"),
        Case(
            "titles of NUL bytes",
            given("t.csv", content(b"item_id,title\nsku-0001,\0\0\0\n"), *EXPLAIN),
            "t.csv",
        ),
        Case("titles that are a pipe", given("t.csv", _pipe, *EXPLAIN), "t.csv"),
        Case(
            "titles with terminal escapes",
            given("t.csv", content(b"item_id,title\nsku-0001,\x1b]0;owned\x07\x1b[2J\n"), *EXPLAIN),
            "",
            accepted="shown with its control characters escaped",
        ),
        Case(
            "init with a header of YAML and escapes",
            _init("l.csv", _header),
            "",
            accepted=("names of columns are texts, quoted in the proposed YAML"),
        ),
        Case("init with a header of one gigabyte of quotes", _init("l.csv", content(b'"' * (64 << 20))), "l.csv"),
        Case(
            "a prepared file with more members than arrays",
            given("x.npz", npz({"key.npy": KEYS, "value.npy": VALUES}), *EXPLAIN),
            "x.npz",
        ),
    ],
)
