"""HDF5 that somebody else wrote: nothing outside of the file is read, filters and types are known, shapes are filled.

HDF5 reads other files through external links, external storage and virtual datasets, loads a shared library for a
filter that it does not know, and gives fill values for chunks that were never written: a few bytes can declare any
shape.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5o, h5p, h5s, h5t, h5z
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.sizes import ROOM_BYTES, bytes_of, check_size, most_bytes

NUMBERS = frozenset({h5t.INTEGER, h5t.FLOAT})
CHECKSUM = frozenset({h5z.FILTER_FLETCHER32})
# Those whose parameters follow from type and chunks: with others, HDF5 reads and writes outside of its memory.
DERIVED = frozenset({h5z.FILTER_SZIP, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET, h5z.FILTER_LZF})
# Of a user's file: all that come with h5py, which loads no library for them.
BUILT_IN = CHECKSUM | {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET} | {
    number for name, number in (("lzf", h5z.FILTER_LZF), ("szip", h5z.FILTER_SZIP)) if name in h5py.filters.decode
}  # fmt: skip
_SZIP_PIXELS = range(2, 33, 2)
MOST_OBJECTS = 100_000
MOST_ATTRIBUTES = 64
# Attributes are numbers and names.
ATTRIBUTE_BYTES = 4096
# What h5py raises for damaged structures.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)


def check_all(file: h5py.File, *, filters: Collection[int] = CHECKSUM) -> None:
    """Check every object of a file: numbers only, all of it inside of the file and written.

    Args:
        file: open for reading.
        filters: numbers of the filters that its datasets may have.

    Raises:
        DataError: naming the file, the object and what it is.
    """
    path, size = Path(file.filename), Path(file.filename).stat().st_size
    stored = 0
    try:
        _check_attributes(file, str(path))
        for node in _objects(file, str(path)):
            where = f"{path}: {node.name}"
            _check_attributes(node, where)
            if isinstance(node, h5py.Dataset):
                stored += check_dataset(node, where, types=NUMBERS, filters=filters)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} is damaged ({_first_line(error)}): build the dataset again") from None
    # Chunks may not lie on each other.
    if stored > size:
        raise DataError(f"{path} declares {stored:,} bytes in a file of {size:,}: it is damaged")


def read_dataset(file: h5py.File, name: str, *, texts: bool = False) -> NDArray:
    """One dataset of a user's file, whole.

    Args:
        file: open for reading.
        name: of a dataset in its root.
        texts: whether it may hold texts.

    Raises:
        DataError: it is a link, lies in other files, has another filter or type, or is too large.
    """
    where = f"{file.filename}: {name}"
    _check_link(file, name, where)
    node = file[name]
    if not isinstance(node, h5py.Dataset):
        raise DataError(f"{where} is a group, not an array")
    types = NUMBERS | {h5t.STRING} if texts else NUMBERS
    check_dataset(node, where, types=types, filters=BUILT_IN, partly=True)
    if h5py.check_string_dtype(node.dtype) is None or node.dtype.kind != "O":
        return node[()]
    return _read_texts(node, where)


def is_group(file: h5py.File, name: str) -> bool:
    """Whether a name in the root is a group; links are not followed."""
    return isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Group)


def check_dataset(
    node: h5py.Dataset, where: str, *, types: Collection[int], filters: Collection[int], partly: bool = False
) -> int:
    """Refuse a dataset that reaches outside of its file, is of another type, or declares more than it holds.

    Args:
        node: the dataset.
        where: file and name, for the error.
        types: classes of HDF5 types that it may have.
        filters: numbers of the filters that it may have.
        partly: whether values may be missing that were never written and read as fill values, within the limits of any
            file.

    Returns:
        Bytes that it has in the file.

    Raises:
        DataError: saying which.
    """
    created, kind, space = node.id.get_create_plist(), node.id.get_type(), node.id.get_space()
    if created.get_external_count():
        raise DataError(f"{where} lies in an external file: copy the data into one HDF5 file")
    if created.get_layout() == h5d.VIRTUAL:
        raise DataError(f"{where} is a virtual dataset, a view of other files: copy the data into one HDF5 file")
    if kind.get_class() not in types:
        raise DataError(f"{where} holds {_CLASSES.get(kind.get_class(), 'another type')}, not numbers")
    if space.get_simple_extent_type() != h5s.SIMPLE:
        raise DataError(f"{where} has no rows: an array is expected")
    codes = {created.get_filter(number)[0] for number in range(created.get_nfilters())}
    if others := codes - set(filters):
        raise DataError(f"{where} has the HDF5 filter {min(others)}, which is not read: write it without that filter")
    if codes & DERIVED:
        _check_parameters(created, kind, where)
    shape, stored = node.shape, node.id.get_storage_size()
    declared = bytes_of(shape, kind.get_size())
    if created.get_layout() == h5d.CHUNKED:
        chunk = created.get_chunk()
        expected = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        written, size = node.id.get_num_chunks(), declared + bytes_of(chunk, kind.get_size())
        if written > expected or (written < expected and not (partly and size <= most_bytes(stored))):
            reason = "values were never written: write them all" if partly and written < expected else "it is damaged"
            raise DataError(
                f"{where} declares shape {shape}, which is {expected:,} chunks, but {written:,} are in the file: "
                f"{reason}"
            )
        if written < expected or codes - CHECKSUM:
            # One chunk is unfolded at a time.
            check_size(where, size, stored)
            return stored
        declared = expected * bytes_of(chunk, kind.get_size())
    if stored < declared:
        if not (partly and stored == 0):
            raise DataError(f"{where} declares {declared:,} bytes, but {stored:,} are in the file: it is damaged")
        if declared > most_bytes(stored):
            raise DataError(
                f"{where} declares {declared:,} bytes, but 0 are in the file: values were never written: write them all"
            )
        check_size(where, declared, stored)
    return stored


def _check_parameters(created: h5p.PropDCID, kind: h5t.TypeID, where: str) -> None:
    """Compare the parameters of filters with those that HDF5 itself derives for this type and these chunks."""
    try:
        with h5py.File("parameters", "w", driver="core", backing_store=False) as memory:
            again = created.copy()
            again.set_alloc_time(h5d.ALLOC_TIME_INCR)
            new = h5d.create(memory.id, b"again", kind, h5s.create_simple(created.get_chunk()), again)
            derived = _filters(new.get_create_plist())
    except DAMAGE as error:
        raise DataError(f"{where} cannot be read ({_first_line(error)}): write it without filters") from None
    found = _filters(created)
    szip = found.get(h5z.FILTER_SZIP)
    if found != derived or (szip is not None and szip[1] not in _SZIP_PIXELS):
        raise DataError(f"{where} has a filter whose parameters do not fit its type and chunks: it is damaged")


def _filters(created: h5p.PropDCID) -> dict[int, tuple[int, ...]]:
    """The parameters of filters by their numbers, of those that derive them."""
    found = (created.get_filter(number) for number in range(created.get_nfilters()))
    return {code: values for code, _, values, *_ in found if code in DERIVED}


def whole_attribute(node: h5py.HLObject, name: str, where: str) -> int:
    """An attribute that is a whole number from 0. Raises DataError."""
    value = _attribute(node, name, where)
    if not isinstance(value, int | np.integer | bool | np.bool_) or value < 0:
        raise DataError(f"{where}: attribute {name!r} must be a whole number from 0, not {str(value)[:80]!r}")
    return int(value)


def text_attribute(node: h5py.HLObject, name: str, where: str) -> str:
    """An attribute that is a text. Raises DataError."""
    value = _attribute(node, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: attribute {name!r} must be a text, not {str(value)[:80]!r}")
    return value


def _attribute(node: h5py.HLObject, name: str, where: str) -> object:
    try:
        return node.attrs.get(name)
    except DAMAGE as error:
        raise DataError(f"{where}: attribute {name!r} is damaged ({_first_line(error)})") from None


def _objects(file: h5py.File, path: str) -> Iterator[h5py.Group | h5py.Dataset]:
    seen, groups = {h5o.get_info(file["/"].id).addr}, [file["/"]]
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{path}: {group.name.rstrip('/')}/{name}"
            _check_link(group, name, where)
            node = group[name]
            address = h5o.get_info(node.id).addr
            if address in seen:
                raise DataError(f"{where} is linked twice: it is not a file that this project wrote")
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise DataError(
                    f"{path} has more than {MOST_OBJECTS:,} objects: it is not a file that this project wrote"
                )
            if not isinstance(node, h5py.Group | h5py.Dataset):
                raise DataError(f"{where} is neither an array nor a group")
            yield node
            if isinstance(node, h5py.Group):
                groups.append(node)


def _check_link(group: h5py.Group, name: str, where: str) -> None:
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise DataError(
            f"{where} is an external link to {str(link.filename)[:200]!r}: copy the data into one HDF5 file"
        )
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{where} is a soft link: copy the data into one array of that name")


def _check_attributes(node: h5py.HLObject, where: str) -> None:
    if (count := h5a.get_num_attrs(node.id)) > MOST_ATTRIBUTES:
        raise DataError(f"{where} has {count:,} attributes; at most {MOST_ATTRIBUTES} are read")
    for name in node.attrs:
        found = h5a.open(node.id, node.attrs._e(name))
        kind = found.get_type()
        # Booleans are enumerations, texts may be of any length.
        single = found.get_space().get_simple_extent_npoints() == 1
        known = kind.get_class() in NUMBERS | {h5t.STRING, h5t.ENUM}
        if not (single and known and found.get_storage_size() <= ATTRIBUTE_BYTES):
            raise DataError(f"{where}: attribute {name[:80]!r} is neither a number nor a name")


def _read_texts(node: h5py.Dataset, where: str) -> NDArray:
    """Texts of any length, in pieces: many of them may point to one text of the file."""
    size = max(1, Path(node.file.filename).stat().st_size)
    step = max(1, min(4096, ROOM_BYTES // size))
    pieces, total = [], 0
    for start in range(0, len(node), step):
        piece = node[start : start + step]
        total += sum(map(len, piece.ravel()))
        check_size(where, total, size)
        pieces.append(piece)
    return np.concatenate(pieces) if pieces else node[()]


_CLASSES = {
    h5t.STRING: "texts",
    h5t.COMPOUND: "records",
    h5t.REFERENCE: "references",
    h5t.ENUM: "an enumeration",
    h5t.VLEN: "lists of any length",
    h5t.OPAQUE: "opaque bytes",
    h5t.ARRAY: "arrays in arrays",
}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
