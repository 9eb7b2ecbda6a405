"""Decode text files of unknown origin: by byte order mark, else as UTF-8, else in a format's older encoding."""

from __future__ import annotations

import codecs

from fuxictr_multimodal.errors import DataError

MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def to_utf8(content: bytes, *, where: str, legacy: str | None = None) -> bytes:
    """The content as UTF-8 without a byte order mark.

    Args:
        content: of the whole file.
        where: the file, for a message.
        legacy: encoding of lines that are not UTF-8, where the format's documentation names one. Text with accents in
            such an encoding is hardly ever valid UTF-8, so a line that is valid is taken as UTF-8.

    Raises:
        DataError: naming the line of the first byte that is not text, or a NUL character.

    >>> to_utf8("Léon".encode("latin-1"), where="movies.dat", legacy="latin-1").decode()
    'Léon'
    >>> to_utf8("\\ufeffLéon".encode("utf-8"), where="movies.dat", legacy="latin-1").decode()
    'Léon'
    """
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    content = content[len(mark) :]
    encoding = MARKS.get(mark, "utf-8")
    if encoding != "utf-8" or not content.isascii():
        try:
            content = content.decode(encoding).encode("utf-8")
        except UnicodeDecodeError as error:
            if legacy is None or mark:
                line = content.count("\n".encode(encoding), 0, error.start) + 1
                raise _no_text(where, line, encoding) from None
            lines = enumerate(content.split(b"\n"), 1)
            content = b"\n".join(_line_to_utf8(line, legacy, where, number) for number, line in lines)
    if (nul := content.find(0)) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise DataError(
            f"{where}: line {line} holds a NUL character (UTF-16 without a byte order mark?): save it as UTF-8"
        )
    return content


def _line_to_utf8(line: bytes, legacy: str, where: str, number: int) -> bytes:
    for encoding in ("utf-8", legacy):
        try:
            return line.decode(encoding).encode("utf-8")
        except UnicodeDecodeError:
            continue
    raise _no_text(where, number, legacy)


def _no_text(where: str, line: int, encoding: str) -> DataError:
    return DataError(f"{where}: line {line} is not {encoding.upper()} text: save the file as UTF-8")
