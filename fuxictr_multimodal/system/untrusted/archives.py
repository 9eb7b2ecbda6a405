"""Zip, npz and gzip files that somebody else wrote: names stay inside, sizes are bounded before and while inflating."""

from __future__ import annotations

import contextlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from numpy.lib import format as npy
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.machine import free_memory
from fuxictr_multimodal.system.untrusted.sizes import bytes_of, check_regular, check_size, most_bytes

GZIP_MAGIC = b"\x1f\x8b"
MOST_MEMBERS = 100_000
PIECE = 1 << 20
ENCRYPTED = 0x1
# What goes wrong while a damaged archive is read.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, OverflowError)


@contextlib.contextmanager
def open_zip(path: Path, *, by_last_name: bool = False) -> Iterator[zipfile.ZipFile]:
    """Open a zip file whose members are plain files inside of it.

    Args:
        path: the file.
        by_last_name: whether the caller ignores the folders of members, so that no name leaves a folder.

    Raises:
        DataError: a member that is encrypted, a link, there twice, or named to leave the folder; too many members.
        zipfile.BadZipFile, OSError: it is no zip file.
    """
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise DataError(f"{path} has {len(members):,} members; at most {MOST_MEMBERS:,} are read")
        seen: set[str] = set()
        for member in members:
            problem = _member_problem(member, seen, by_last_name)
            if problem:
                raise DataError(
                    f"{path}: member {member.filename[:200]!r} {problem}: unpack what you need of it yourself"
                )
            seen.add(member.filename)
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """One member, whose declared size is checked first; zipfile reads no more than that.

    Raises:
        DataError: it would be too large.
        KeyError, zipfile.BadZipFile, ...: as zipfile.
    """
    member = archive.getinfo(name)
    check_size(where, member.file_size, member.compress_size)
    return archive.read(member)


def _member_problem(member: zipfile.ZipInfo, seen: set[str], by_last_name: bool) -> str | None:
    name = member.filename.replace("\\", "/")
    if not by_last_name and (name.startswith("/") or ".." in PurePosixPath(name).parts or ":" in name.split("/")[0]):
        return "has a name that leaves the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted"
    return "is there twice" if member.filename in seen else None


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray]:
    """Arrays of an npz file by name: numbers, booleans and texts.

    Args:
        path: the file.
        names: arrays to read, all by default; one that is missing is left out.

    Raises:
        DataError: an array of Python objects or records, of a shape that its bytes cannot fill, or too large.
        ValueError, OSError, zipfile.BadZipFile, ...: the file is damaged.
    """
    stored = check_regular(path)
    found: dict[str, NDArray] = {}
    with open_zip(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        wanted = {name: members[name] for name in (members if names is None else names) if name in members}
        total = 0
        for name, member in wanted.items():
            total += _check_npy(archive, member, f"{path}: array {name!r}")
        check_size(str(path), total, stored)
        for name, member in wanted.items():
            with archive.open(member) as file:
                found[name] = npy.read_array(file, allow_pickle=False)
    return found


def npz_names(path: Path) -> list[str]:
    """Names of the arrays of an npz file. Raises what `read_npz` does."""
    with open_zip(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _check_npy(archive: zipfile.ZipFile, member: str, where: str) -> int:
    """Bytes of an array, from its header."""
    info = archive.getinfo(member)
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{where} is stored in version {version} of npy: save it as plain numbers or texts")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        header = file.tell()
    if dtype.kind not in "biufSU":
        raise DataError(
            f"{where} cannot be read: it is of type {dtype}, which is neither numbers nor texts: save it as one of them"
        )
    size = bytes_of(shape, dtype.itemsize)
    if size != info.file_size - header or (size == 0 and any(n > MOST_MEMBERS for n in shape)):
        raise DataError(
            f"{where} declares shape {shape} of {dtype}, {size:,} bytes, but holds {info.file_size - header:,}: "
            "the file is damaged"
        )
    check_size(where, size, info.compress_size)
    return size


def gunzip(content: bytes, where: str) -> bytes:
    """Inflate gzip of one or more members into memory, in pieces, so that it stops where it becomes too large.

    Raises:
        DataError: it is too large.
        EOFError, zlib.error, OSError: it is damaged.
    """
    # The text that is made of the bytes lies beside them.
    limit, free = most_bytes(len(content)), free_memory()
    found = io.BytesIO()
    for piece in _inflated(iter([content])):
        size = found.tell() + len(piece)
        if size > limit:
            raise _made_to_fill(where, len(content), limit)
        if 2 * size > free:
            raise DataError(
                f"{where}: its text needs more than {2 * size:,} bytes, but {free:,} are free: free more memory, or "
                "split the file"
            )
        found.write(piece)
    return found.getvalue()


def check_gzip(path: Path) -> None:
    """Refuse a gzip file that unfolds to far more than files of its size do; one that cannot is not read.

    It may be larger than the memory: what reads it afterwards holds a piece at a time.

    Raises:
        DataError: it is made to fill the memory.
    """
    stored = check_regular(path)
    limit = most_bytes(stored)
    # No member of gzip is shorter than a thousandth of its content.
    if 1_100 * stored <= limit:
        return
    size = 0
    with path.open("rb") as file, contextlib.suppress(EOFError, zlib.error, OSError):
        if file.read(2) != GZIP_MAGIC:
            return
        file.seek(0)
        for piece in _inflated(iter(lambda: file.read(PIECE), b"")):
            size += len(piece)
            if size > limit:
                break
    if size > limit:
        raise _made_to_fill(str(path), stored, limit)


def _made_to_fill(where: str, stored: int, limit: int) -> DataError:
    return DataError(
        f"{where}: {stored:,} bytes of gzip unfold to more than {limit:,}: it is damaged, or made to fill the memory"
    )


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of at most `PIECE` bytes."""
    engine, left = zlib.decompressobj(wbits=31), b""
    while True:
        if engine.eof:
            # Members follow one another; zeros after the last one are padding.
            left = (engine.unused_data or next(pieces, b"")).lstrip(b"\0")
            if not left:
                return
            engine = zlib.decompressobj(wbits=31)
        elif not left and not (left := next(pieces, b"")):
            raise EOFError("the file ends within gzip data")
        yield engine.decompress(left, PIECE)
        left = engine.unconsumed_tail
