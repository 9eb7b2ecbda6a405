"""Read text files: UTF-8 with or without a byte order mark, plain or gzip; errors name the line."""

from __future__ import annotations

import zlib
from pathlib import Path

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.archives import GZIP_MAGIC, gunzip
from fuxictr_multimodal.system.untrusted.sizes import check_regular

BYTE_ORDER_MARK = "\ufeff"


def kind(file: Path) -> str:
    """The suffix that says what a file holds: in lower case, and without `.gz`, which is `.gz` where nothing else is.

    >>> [kind(Path(name)) for name in ("Films.CSV", "films.csv.gz", "films.gz")]
    ['.csv', '.csv', '.gz']
    """
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    return suffixes[0] if suffixes[1:] == [".gz"] else "".join(suffixes[-1:])


def read_bytes(file: Path) -> bytes:
    """The content of a file, decompressed where it is gzip, whatever its name.

    Raises:
        DataError: a missing, unreadable or cut file.
    """
    if not file.exists():
        raise DataError(f"{file} does not exist")
    if file.is_dir():
        raise DataError(f"{file} is a folder, expected a file")
    try:
        check_regular(file)
        content = file.read_bytes()
        return gunzip(content, str(file)) if content.startswith(GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def read_text(file: Path) -> str:
    """The text of a file. Line ends are kept, but a file with the old line end `\\r` alone gets the usual one.

    Raises:
        DataError: as `read_bytes`, and naming line and byte of what is not text in UTF-8.
    """
    content = read_bytes(file)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte {error.start + 1} of the text (0x{content[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, line {line}: NUL character: the file is not UTF-8 text")
    text = text.lstrip(BYTE_ORDER_MARK)
    return text if "\n" in text else text.replace("\r", "\n")


def without_half_characters(text: str) -> str:
    """The text without unpaired surrogates, which remain when JSON text is cut within an emoji.

    >>> without_half_characters("cut \\ud83d")
    'cut '
    """
    return text.encode("utf-8", "ignore").decode("utf-8")
