"""Read the tables of a downloaded data set from a folder or a zip file; errors name file, column, row and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.system.untrusted.archives import ZIP_ERRORS, open_zip, read_member
from fuxictr_multimodal.system.untrusted.sizes import check_regular
from fuxictr_multimodal.text.decoding import to_utf8

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class RawTable:
    """What to read of one delimited file.

    Attributes:
        file: name of the file.
        columns: name in the file to `int`, `float` or `str`. Numbers must be there in every row; a missing text is
            read as "". In a file without a header these are all columns, in their order.
        separator: between fields; may be longer than one character.
        header: whether the first row names the columns.
        quoted: whether fields may stand in double quotes.
        legacy: encoding of a text that is not UTF-8, where the layout's documentation names one.
    """

    file: str
    columns: Mapping[str, type]
    separator: str = ","
    header: bool = True
    quoted: bool = True
    legacy: str | None = None


class RawFiles:
    """The files of one dataset: those of a folder, or of one folder inside a zip file.

    Names are found in upper and lower case, `ratings.csv` as `RATINGS.CSV`; one that is there as it is comes first.
    """

    def __init__(self, root: Path, *, inside: str | None = None) -> None:
        self.root = root
        self.inside = inside
        self.names = self._list()
        self._actual = {name.lower(): name for name in self.names} | {name: name for name in self.names}

    def _list(self) -> list[str]:
        if self.inside is None:
            return sorted(path.name for path in self.root.iterdir() if path.is_file())
        with open_zip(self.root) as archive:
            members = [name.removeprefix(self.inside) for name in archive.namelist() if name.startswith(self.inside)]
        return sorted(name for name in members if name and "/" not in name)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._actual or name.lower() in self._actual

    def actual(self, name: str) -> str:
        """The name as it is written there; as it is asked for if there is none."""
        return self._actual.get(name, self._actual.get(name.lower(), name))

    def where(self, name: str) -> str:
        """The file's place, for messages."""
        name = self.actual(name)
        return str(self.root / name) if self.inside is None else f"{self.root}:{self.inside}{name}"

    def read_bytes(self, name: str) -> bytes:
        """The whole file.

        Raises:
            DataError: it cannot be read, or its zip file is damaged.
        """
        try:
            if self.inside is None:
                path = self.root / self.actual(name)
                check_regular(path)
                return path.read_bytes()
            with open_zip(self.root) as archive:
                return read_member(archive, self.inside + self.actual(name), self.where(name))
        # A member that is encrypted is a RuntimeError, one of an unknown compression a NotImplementedError.
        except ZIP_ERRORS as error:
            raise DataError(f"{self.where(name)} cannot be read: {error}") from None

    def read_utf8(self, name: str, *, legacy: str | None = None) -> bytes:
        """The whole file as UTF-8 without a byte order mark; see `to_utf8`."""
        return to_utf8(self.read_bytes(name), where=self.where(name), legacy=legacy)

    def sources(self, names: Sequence[str]) -> dict[str, Path]:
        """What was read on disk, by name: each file, or the zip file that holds them."""
        if self.inside is None:
            return {name: self.root / self.actual(name) for name in names}
        return {self.root.name: self.root}


def open_raw(path: Path, layouts: Mapping[str, Sequence[str]]) -> tuple[str, RawFiles]:
    """Find which layout a download has: the name of the layout whose files are all there, and the files.

    Args:
        path: a folder with the files, a zip file of such a folder, or a folder with one such zip file.
        layouts: file names by layout.

    Raises:
        DataError: if there is no such path, the zip file is damaged, or no layout fits.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: pass a folder or a zip file")
    found = _find(path, layouts)
    if found is None and path.is_dir():
        archives = sorted(file for file in path.iterdir() if file.suffix.lower() == ".zip" and file.is_file())
        fits = [hit for archive in archives if (hit := _find(archive, layouts)) is not None]
        if len(fits) > 1:
            raise DataError(f"{path} holds {len(fits)} zip files of a known layout; pass the one to read")
        found = fits[0] if fits else None
    if found is None:
        known = "; ".join(f"{name} ({', '.join(files)})" for name, files in layouts.items())
        raise DataError(f"{path} does not match a known layout, neither as a folder nor as a zip file: {known}")
    return found


def _find(path: Path, layouts: Mapping[str, Sequence[str]]) -> tuple[str, RawFiles] | None:
    if path.is_dir():
        raw = RawFiles(path)
        return next(((name, raw) for name, files in layouts.items() if all(raw.has(file) for file in files)), None)
    try:
        with open_zip(path) as archive:
            members = [PurePosixPath(member) for member in archive.namelist() if not member.endswith("/")]
    except ZIP_ERRORS as error:
        raise DataError(
            f"{path} is not a readable zip file ({error}): pass the folder that holds the files, or a zip file of it"
        ) from None
    folders = {member.parent for member in members}
    for folder in sorted(folders, key=lambda folder: (len(folder.parts), str(folder))):
        raw = RawFiles(path, inside="" if folder == PurePosixPath(".") else f"{folder}/")
        for name, files in layouts.items():
            if all(raw.has(file) for file in files):
                return name, raw
    return None


def read_table(raw: RawFiles, table: RawTable) -> pl.DataFrame:
    """The wanted columns as Int64, Float64 and String, rows in the file's order.

    Text is UTF-8, else the table's `legacy` encoding; byte order mark, carriage returns and blank lines at the end are
    dropped. Memory: the file's bytes and the columns, twice that for a file that has to be converted.

    Raises:
        DataError: a column that is missing or there twice, rows of different width, a value that is not a number, or
            what is not text.
    """
    import polars as pl

    where = raw.where(table.file)
    content = _lines(raw.read_utf8(table.file, legacy=table.legacy), table, where)
    separator = table.separator if len(table.separator) == 1 else _UNIT_SEPARATOR
    options: dict[str, Any] = {
        "separator": separator,
        "has_header": table.header,
        "quote_char": '"' if table.quoted else None,
        "new_columns": None if table.header else list(table.columns),
    }
    try:
        first = {**options, "new_columns": None}
        found = pl.read_csv(content, n_rows=0 if table.header else 1, infer_schema=False, **first).columns
        if not table.header and len(found) != len(table.columns):
            raise DataError(
                f"{where}: row 1 has {len(found)} fields, not the {len(table.columns)} of {', '.join(table.columns)}"
            )
        for name in table.columns if table.header else ():
            if name not in found:
                raise DataError(f"{where}: column {name!r} is missing. {did_you_mean(name, found)}")
            refuse_repeated(name, found, where)
        try:
            types = {int: pl.Int64, float: pl.Float64, str: pl.String}
            wanted = {name: types[kind] for name, kind in table.columns.items()}
            frame = pl.read_csv(
                content, schema_overrides=wanted, infer_schema=False, **_reading(table, found), **options
            )
        except pl.exceptions.ComputeError:
            # Reading everything as text finds the value at fault.
            frame = pl.read_csv(content, infer_schema=False, **_reading(table, found), **options)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty file"
        raise DataError(f"{where} cannot be read as a table: {reason}") from error
    return _checked(frame, table, where)


_UNIT_SEPARATOR = "\x1f"


def _reading(table: RawTable, found: Sequence[str]) -> dict[str, Any]:
    """Positions of the wanted columns; a file without a header is read whole."""
    return {"columns": [found.index(name) for name in table.columns]} if table.header else {}


def _lines(content: bytes, table: RawTable, where: str) -> bytes:
    """The lines, each with its end as on Linux, without blank ones at the end, and with a separator of one byte."""
    if b"\r" in content:
        # Files of the classic Mac OS end lines with a carriage return.
        content = content.replace(b"\r\n", b"\n") if b"\n" in content else content.replace(b"\r", b"\n")
    separator = table.separator.encode("ascii")
    end = len(content)
    # A spreadsheet writes only separators for rows whose cells were cleared.
    while end > 0 and not content[content.rfind(b"\n", 0, end) + 1 : end].replace(separator, b"").strip():
        end = max(content.rfind(b"\n", 0, end), 0)
    if not end:
        raise DataError(f"{where}: empty file")
    content = content[:end] + b"\n"
    return content.replace(separator, _UNIT_SEPARATOR.encode("ascii")) if len(separator) > 1 else content


def _checked(frame: pl.DataFrame, table: RawTable, where: str) -> pl.DataFrame:
    """The columns in the wanted order and types; the first value that does not fit is named."""
    import polars as pl

    columns = []
    for name, kind in table.columns.items():
        given = frame[name]
        if kind is str:
            columns.append(given.fill_null(""))
            continue
        values = given.str.strip_chars() if given.dtype == pl.String else given
        values = values.cast(pl.Int64 if kind is int else pl.Float64, strict=False)
        bad = values.is_null() if kind is int else values.is_null() | ~values.is_finite()
        if bad.any():
            wanted = "a whole number" if kind is int else "a number"
            raise bad_value(where, name, bad.fill_null(True), given, wanted)
        columns.append(values)
    return pl.DataFrame(columns)


def refuse_repeated(name: str, found: Sequence[str], where: str) -> None:
    """Refuse a column that the header names more than once, `found` being the names that polars read."""
    if f"{name}_duplicated_0" in found:
        raise DataError(f"{where}: column {name!r} occurs more than once: remove or rename one")


def bad_value(where: str, column: str, bad: pl.Series, values: pl.Series, wanted: str) -> DataError:
    """The error that names the first value of a raw table where `bad` is true; row 1 follows the header."""
    row = int(bad.arg_true()[0])
    value = values[row]
    shown = "an empty field" if value is None or value == "" else repr(value)
    return DataError(f"{where}: column {column!r}, row {row + 1}: {shown} is not {wanted}")
