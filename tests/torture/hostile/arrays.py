"""HDF5, npz, parquet, gzip and zip that read elsewhere, unfold, or declare what they do not hold."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.torture.hostile.manifests import PREDICT
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.settings import DATASETS
from tests.torture.hostile.worlds import DATA, edit_yaml, sealed

BUILD = ("build", "--config", "config", "--dataset-id", "Shop", "--overwrite")
HUGE = 10**12


def split(change: Callable[[h5py.File, Place], object], name: str = "test.h5") -> Callable[[Place], Sequence[str]]:
    """Change an HDF5 file of the dataset, and score it."""

    def write(place: Place) -> Sequence[str]:
        with h5py.File(DATA / name, "r+") as file:
            change(file, place)
        sealed()
        return PREDICT

    return write


def vectors(name: str, fill: Callable[[Path, Place], object]) -> Callable[[Place], Sequence[str]]:
    """A table of vectors of the user's, `embedding_file` of a column, and build."""

    def write(place: Place) -> Sequence[str]:
        fill(Path(name), place)

        def change(found: Any) -> None:
            column = next(c for c in found["Shop"]["feature_cols"] if c["name"] == "vector")
            column["embedding_file"] = name

        edit_yaml(DATASETS, change)
        return BUILD

    return write


def _replaced(file: h5py.File, name: str, **settings: Any) -> h5py.Dataset:
    attributes = dict(file[name].attrs)
    del file[name]
    made = file.create_dataset(name, **settings)
    made.attrs.update(attributes)
    return made


def _column(file: h5py.File) -> str:
    return next(name for name, node in file.items() if isinstance(node, h5py.Dataset) and name != "label")


def _swapped(make: Callable[[h5py.File, str, Place], object]) -> Callable[[h5py.File, Place], None]:
    """Remove a column and put something else in its place."""

    def change(file: h5py.File, place: Place) -> None:
        name = _column(file)
        attributes = dict(file[name].attrs)
        del file[name]
        make(file, name, place)
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            file[name].attrs.update(attributes)

    return change


def _secret(place: Place) -> Path:
    path = place.outside / "secret.h5"
    with h5py.File(path, "w") as file:
        file["key"], file["value"] = np.arange(5), np.ones((5, 24), np.float32)
    return path


def _external(file: h5py.File, name: str, place: Place) -> None:
    file[name] = h5py.ExternalLink(str(place.outside / "secret.txt"), "key")


def _storage(file: h5py.File, name: str, place: Place) -> None:
    path = str(place.outside / "secret.txt")
    file.create_dataset(name, (4,), "u1", external=[(path, 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File, name: str, place: Place) -> None:
    layout = h5py.VirtualLayout((5,), "i8")
    layout[:] = h5py.VirtualSource(str(place.outside / "secret.txt"), "key", (5,))
    file.create_virtual_dataset(name, layout)


def _unknown_filter(file: h5py.File, name: str, place: Place) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((64,))
    # Optional, so that nothing is loaded while it is written.
    created.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (1,))
    rows = h5py.h5s.create_simple((64,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT64, rows, created)


def _cycle(file: h5py.File, place: Place) -> None:
    file.create_group("a")["b"] = file["/"]


def _attribute(name: str, value: Any) -> Callable[[h5py.File, Place], None]:
    return lambda file, place: file.attrs.create(name, value)


def _many_attributes(file: h5py.File, place: Place) -> None:
    for number in range(1000):
        file.attrs[f"a{number}"] = number


def _declares(rows: int) -> Callable[[h5py.File, str, Place], None]:
    return lambda file, name, place: file.create_dataset(name, (rows,), "i8", chunks=(65_536,))


def _declared(file: h5py.File, place: Place) -> None:
    """Every column, and the number of rows, say the same."""
    for name in [name for name, node in file.items() if isinstance(node, h5py.Dataset)]:
        file[name].resize(HUGE, axis=0)
    file.attrs["rows"] = HUGE
    for group in ("history",):
        file[f"{group}/offsets"].resize(HUGE + 1, axis=0)


def _vectors_h5(make: Callable[[h5py.File, str, Place], object]) -> Callable[[Path, Place], None]:
    def fill(path: Path, place: Place) -> None:
        with h5py.File(path, "w") as file:
            file["key"] = np.array([f"sku-{n:04d}".encode() for n in range(120)])
            make(file, "value", place)

    return fill


def _external_vectors(file: h5py.File, name: str, place: Place) -> None:
    file[name] = h5py.ExternalLink(str(_secret(place)), "value")


def _virtual_vectors(file: h5py.File, name: str, place: Place) -> None:
    layout = h5py.VirtualLayout((5, 24), "f4")
    layout[:] = h5py.VirtualSource(str(_secret(place)), "value", (5, 24))
    file.create_virtual_dataset(name, layout)


def _bomb_h5(file: h5py.File, name: str, place: Place) -> None:
    file.create_dataset(name, (120, 2**22), "f4", chunks=(1, 2**22), compression="gzip")[:] = 0


def _texts_h5(path: Path, place: Place) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("key", (100,), h5py.string_dtype())[:] = ["k" * 1_000_000] * 100
        file["value"] = np.ones((100, 24), np.float32)


def npz(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Callable[[Path, Place], None]:
    """A zip file with these members."""

    def fill(path: Path, place: Place) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return fill


def npy(shape: tuple[int, ...] | str, dtype: str = "<f4", content: bytes = b"", *, length: int | None = None) -> bytes:
    """A npy file whose header says what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + (length or len(header)).to_bytes(2, "little") + header + content


def _array(values: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, values)
    return written.getvalue()


def _pickled(place: Place) -> bytes:
    import pickle

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (place.canary,)

    return npy((120,), "|O", pickle.dumps(Payload()))


def _pickled_npz(path: Path, place: Place) -> None:
    npz({"key.npy": _array(np.arange(120)), "value.npy": _pickled(place)})(path, place)


def _zeros_npz(path: Path, place: Place) -> None:
    """5 GB of zeros in 5 MB, as it declares."""
    rows = 5_000_000
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("key.npy", KEYS)
        header = npy((rows, 256))
        unfolding(archive, "value.npy", header, bytes(16 << 20), size=len(header) + rows * 1024)


def unfolding(archive: zipfile.ZipFile, name: str, first: bytes, piece: bytes, *, size: int) -> None:
    """Add a member that begins with `first` and repeats `piece` up to `size` bytes, which are compressed once."""
    engine = zlib.compressobj(1, wbits=-15)
    start = engine.compress(first) + engine.flush(zlib.Z_FULL_FLUSH)
    once = engine.compress(piece) + engine.flush(zlib.Z_FULL_FLUSH)
    archive.writestr(name, start + once * -(-(size - len(first)) // len(piece)) + engine.flush())
    # The directory at the end, which is written when the archive is closed.
    member = archive.getinfo(name)
    member.compress_type, member.file_size = zipfile.ZIP_DEFLATED, size


def _lying_npz(path: Path, place: Place) -> None:
    """A member that unfolds to more than its header says."""
    npz({"key.npy": KEYS, "value.npy": npy((120, 24), content=bytes(32 << 20))})(path, place)
    content = path.read_bytes()
    true, less = (len(npy((120, 24))) + (32 << 20)), len(npy((120, 24))) + 120 * 24 * 4
    path.write_bytes(content.replace(true.to_bytes(4, "little"), less.to_bytes(4, "little")))


def _encrypted_npz(path: Path, place: Place) -> None:
    npz({"key.npy": KEYS, "value.npy": VALUES})(path, place)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def _linked_npz(path: Path, place: Place) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("key.npy", KEYS)
        member = zipfile.ZipInfo("value.npy")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, str(place.outside / "secret.txt"))


def _twice_npz(path: Path, place: Place) -> None:
    import warnings

    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in (KEYS, KEYS):
            archive.writestr("key.npy", content)
        archive.writestr("value.npy", VALUES)


KEYS = _array(np.array([f"sku-{n:04d}" for n in range(120)]))
VALUES = _array(np.ones((120, 24), np.float32))

CASES: list[Case] = with_name(
    "arrays",
    [
        Case("an external link in a split", split(_swapped(_external)), "external link"),
        Case("external storage in a split", split(_swapped(_storage)), "external file"),
        Case("a virtual dataset in a split", split(_swapped(_virtual)), "virtual"),
        Case(
            "a soft link in a split",
            split(_swapped(lambda f, n, p: f.__setitem__(n, h5py.SoftLink("/label")))),
            "soft link",
        ),
        Case(
            "a soft link to itself",
            split(_swapped(lambda f, n, p: f.__setitem__(n, h5py.SoftLink(f"/{n}")))),
            "soft link",
        ),
        Case(
            "a second hard link in a split",
            split(_swapped(lambda f, n, p: f.__setitem__(n, f["label"]))),
            "linked twice",
        ),
        Case("an unknown filter, whose plugin would be loaded", split(_swapped(_unknown_filter)), "filter 32015"),
        Case("a group that holds itself", split(_cycle), "linked twice"),
        Case("a split that declares 10^12 rows", split(_declared), "declares shape"),
        Case("a column that declares 10^12 rows", split(_swapped(_declares(HUGE))), "declares shape"),
        Case(
            "a column of objects",
            split(_swapped(lambda f, n, p: f.create_dataset(n, (4,), h5py.string_dtype()))),
            "texts",
        ),
        Case(
            "a column of references",
            split(_swapped(lambda f, n, p: f.create_dataset(n, (4,), h5py.ref_dtype))),
            "references",
        ),
        Case(
            "a column of records",
            split(_swapped(lambda f, n, p: f.create_dataset(n, (4,), np.dtype([("a", "i4"), ("b", "f8")])))),
            "records",
        ),
        Case(
            "a column of lists",
            split(_swapped(lambda f, n, p: f.create_dataset(n, (4,), h5py.vlen_dtype("i4")))),
            "lists",
        ),
        Case("a column without rows", split(_swapped(lambda f, n, p: f.create_dataset(n, data=5))), "no rows|rows"),
        Case(
            "a column that is compressed",
            split(_swapped(lambda f, n, p: f.create_dataset(n, (2**20,), "i8", compression="gzip"))),
            "filter",
        ),
        Case(
            "a history that is a link",
            split(
                lambda f, p: (
                    f.__delitem__("history"),
                    f.__setitem__("history", h5py.ExternalLink(str(p.outside / "x.h5"), "/")),
                )
            ),
            "external link",
        ),
        Case("an item table that is a link", split(_swapped(_external), "item.h5"), "external link"),
        Case("rows of -1", split(_attribute("rows", -1)), "rows"),
        Case("rows that are a text", split(_attribute("rows", "many")), "rows"),
        Case("rows of 10^12", split(_attribute("rows", HUGE)), "rows"),
        Case("a version of 60 KB", split(_attribute("format_version", np.zeros(7000))), "attribute"),
        Case("1,000 attributes", split(_many_attributes), "attributes"),
        Case("vectors by an external link", vectors("v.h5", _vectors_h5(_external_vectors)), "external link"),
        Case("vectors by a virtual dataset", vectors("v.h5", _vectors_h5(_virtual_vectors)), "virtual"),
        Case("vectors in external storage", vectors("v.h5", _vectors_h5(_storage)), "external file"),
        Case(
            "vectors that declare 10^12 rows",
            vectors("v.h5", _vectors_h5(lambda f, n, p: f.create_dataset(n, (HUGE, 24), "f4", chunks=(1024, 24)))),
            "declares shape",
        ),
        Case(
            "vectors that unfold from 2 MB to 2 GB",
            vectors("v.h5", _vectors_h5(_bomb_h5)),
            "declares|different|width|free",
        ),
        Case(
            "vectors that are references",
            vectors("v.h5", _vectors_h5(lambda f, n, p: f.create_dataset(n, (4,), h5py.ref_dtype))),
            "references",
        ),
        Case("keys of a megabyte each", vectors("v.h5", _texts_h5), "none of the"),
        Case("npz with pickled objects", vectors("v.npz", _pickled_npz), "value"),
        Case(
            "npz whose header declares 10^12 rows",
            vectors("v.npz", npz({"key.npy": KEYS, "value.npy": npy((HUGE, 24))})),
            "declares shape",
        ),
        Case(
            "npz with a negative shape", vectors("v.npz", npz({"key.npy": KEYS, "value.npy": npy((-5, 24))})), "v.npz"
        ),
        Case("npz with a deep header", vectors("v.npz", npz({"key.npy": KEYS, "value.npy": npy("(" * 9000)})), "v.npz"),
        Case(
            "npz with code in the header",
            vectors("v.npz", lambda path, p: npz({"key.npy": KEYS, "value.npy": npy(p.code)})(path, p)),
            "v.npz",
        ),
        Case(
            "npz with empty texts",
            vectors("v.npz", npz({"key.npy": npy((HUGE,), "<U0"), "value.npy": VALUES})),
            "declares shape",
        ),
        Case("npz of 5 GB of zeros", vectors("v.npz", _zeros_npz), "declares"),
        Case("npz that unfolds to more than it declares", vectors("v.npz", _lying_npz), "v.npz"),
        Case("npz that is encrypted", vectors("v.npz", _encrypted_npz), "encrypted"),
        Case("npz with a link", vectors("v.npz", _linked_npz), "link"),
        Case("npz with an array twice", vectors("v.npz", _twice_npz), "twice"),
        Case(
            "npz with a member outside",
            vectors("v.npz", npz({"key.npy": KEYS, "value.npy": VALUES, "../../outside/x": b"x"})),
            "leaves the folder",
        ),
        Case("vectors in a pipe", vectors("v.npz", lambda path, p: os.mkfifo(path)), "v.npz"),
    ],
)
