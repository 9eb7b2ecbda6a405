"""Files that somebody else wrote are refused before they take memory or reach another file."""

import gzip
import io
import os
import warnings
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system import machine
from fuxictr_multimodal.system.untrusted import archives, hdf5, sizes
from fuxictr_multimodal.system.untrusted.json_files import parse_json, read_json_file
from fuxictr_multimodal.system.untrusted.parquet import check_parquet


def test_what_is_declared_must_fit_the_memory_and_the_file(monkeypatch):
    monkeypatch.setattr(sizes, "free_memory", lambda: 1 << 40)
    sizes.check_size("a", sizes.ROOM_BYTES, 1)
    sizes.check_size("a", 2 * sizes.ROOM_BYTES, sizes.ROOM_BYTES)
    with pytest.raises(DataError, match="b declares 1,073,741,825 bytes in a file of 5: .* made to fill the memory"):
        sizes.check_size("b", sizes.ROOM_BYTES + 1, 5)
    monkeypatch.setattr(sizes, "free_memory", lambda: 1000)
    with pytest.raises(DataError, match="c declares 1,001 bytes, but 1,000 are free"):
        sizes.check_size("c", 1001, 1001)
    assert sizes.bytes_of((10**12, 10**12), 8) == 8 * 10**24


def test_free_memory_is_that_of_the_container_too(monkeypatch, tmp_path):
    everything = machine.free_memory()
    assert everything > 1 << 20
    for name, content in (("max", "5000"), ("current", "2000")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "_CGROUP_FILES", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert machine.free_memory() == 3000
    (tmp_path / "max").write_text("max")
    assert machine.free_memory() > 1 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is too large"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is written twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "4300"),
        ("[1", "Expecting"),
    ],
)
def test_json_beyond_the_standard_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_reads_what_json_writes(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, -2.5e3, null, true, "é"]}', encoding="utf-8")
    assert read_json_file(tmp_path / "a.json") == {"a": [1, -2500.0, None, True, "é"]}
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe.json is no regular file"):
        read_json_file(tmp_path / "pipe.json")


def test_gzip_stops_where_it_becomes_too_large(monkeypatch, tmp_path):
    content = gzip.compress(b"abc\n" * 1000) + gzip.compress(b"more") + b"\0" * 7
    assert archives.gunzip(content, "x") == b"abc\n" * 1000 + b"more"
    with pytest.raises(EOFError):
        archives.gunzip(content[:20], "x")
    monkeypatch.setattr(archives, "most_bytes", lambda stored: 4003)
    with pytest.raises(DataError, match=r"x: \d+ bytes of gzip unfold to more than 4,003"):
        archives.gunzip(content, "x")
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz: .* unfold"):
        archives.check_gzip(tmp_path / "a.gz")
    monkeypatch.setattr(archives, "most_bytes", lambda stored: 4004)
    archives.check_gzip(tmp_path / "a.gz")


def zipped(path, *members, attributes=0):
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in members:
            member = zipfile.ZipInfo(name)
            member.external_attr = attributes << 16
            archive.writestr(member, b"x")
    return path


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x", "c:/x"])
def test_members_of_a_zip_file_stay_inside(tmp_path, name):
    path = zipped(tmp_path / "a.zip", "fine/..x", name)
    with pytest.raises(DataError, match="has a name that leaves the folder"), archives.open_zip(path):
        pass
    with archives.open_zip(path, by_last_name=True) as archive:
        assert len(archive.namelist()) == 2


def test_links_and_doubles_in_a_zip_file_are_refused(tmp_path):
    for path, what in (
        (zipped(tmp_path / "a.zip", "x", attributes=0o120777), "is a link"),
        (zipped(tmp_path / "b.zip", "x", "x"), "is there twice"),
    ):
        with pytest.raises(DataError, match=f"member 'x' {what}"), archives.open_zip(path):
            pass


def test_npz_of_plain_arrays_is_read(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.array(True), "d": np.zeros((0, 5))}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = archives.read_npz(tmp_path / "a.npz")
    assert archives.npz_names(tmp_path / "a.npz") == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert list(archives.read_npz(tmp_path / "a.npz", ["b", "z"])) == ["b"]


def test_npz_of_objects_and_records_is_refused(tmp_path):
    for name, values in (("o", np.array([{}], dtype=object)), ("r", np.zeros(2, dtype=[("a", "i4")]))):
        np.savez(tmp_path / "a.npz", **{name: values})
        with pytest.raises(DataError, match=f"array '{name}' cannot be read: it is of type"):
            archives.read_npz(tmp_path / "a.npz")


def written(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return h5py.File(path, "r")


def test_gzip_that_is_large_against_the_free_memory_is_scanned_and_held_where_it_fits(monkeypatch, tmp_path):
    content = gzip.compress(b"u1,i2,click\n" * 200_000)
    (tmp_path / "a.csv.gz").write_bytes(content)
    monkeypatch.setattr(archives, "free_memory", lambda: 4_000_000)
    monkeypatch.setattr(sizes, "free_memory", lambda: 4_000_000)
    archives.check_gzip(tmp_path / "a.csv.gz")
    with pytest.raises(DataError, match=r"x: its text needs more than [\d,]+ bytes, but 4,000,000 are free: free more"):
        archives.gunzip(content, "x")
    monkeypatch.setattr(archives, "free_memory", lambda: 5_000_000)
    assert len(archives.gunzip(content, "x")) == 2_400_000


@pytest.mark.parametrize("settings", [{"compression": "lzf"}, {"compression": "szip"}, {"scaleoffset": 3}])
def test_filters_that_come_with_h5py_are_read(tmp_path, settings):
    values = np.arange(700, dtype=np.float32).reshape(100, 7)

    def fill(file):
        file.create_dataset("value", data=values, chunks=(16, 7), shuffle="scaleoffset" not in settings, **settings)

    with written(tmp_path / "a.h5", fill) as file:
        assert np.array_equal(hdf5.read_dataset(file, "value"), values)
        with pytest.raises(DataError, match=r"/value has the HDF5 filter \d+, which is not read"):
            hdf5.check_all(file)


def nbit(file):
    """Numbers of 12 bits from bit 4."""
    kind, created = h5py.h5t.STD_I32LE.copy(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_precision(12)
    kind.set_offset(4)
    created.set_chunk((16, 7))
    created.set_filter(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_MANDATORY, ())
    made = h5py.h5d.create(file.id, b"value", kind, h5py.h5s.create_simple((100, 7)), created)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(700, dtype=np.int32).reshape(100, 7))


def test_parameters_of_a_filter_that_hdf5_would_not_choose_are_refused(tmp_path):
    with written(tmp_path / "a.h5", nbit) as file:
        assert np.array_equal(hdf5.read_dataset(file, "value"), np.arange(700).reshape(100, 7))
    content = (tmp_path / "a.h5").read_bytes()
    # Parameters of nbit: how many they are, whether it is needed, and the values of a chunk: 16 * 7.
    values = np.array([8, 0, 112], "<u4").tobytes()
    assert content.count(values) == 1
    (tmp_path / "b.h5").write_bytes(content.replace(values, np.array([8, 0, 112 << 16], "<u4").tobytes()))
    with (
        h5py.File(tmp_path / "b.h5") as file,
        pytest.raises(DataError, match=r"b\.h5: value has a filter whose parameters do not fit its type and chunks"),
    ):
        hdf5.read_dataset(file, "value")


@pytest.mark.parametrize("settings", [{}, {"chunks": (16, 7)}, {"chunks": (16, 7), "compression": "gzip"}])
def test_values_that_were_never_written_are_fill_values(tmp_path, settings):
    def fill(file):
        value = file.create_dataset("value", (100, 7), "f4", fillvalue=2, **settings)
        if settings:
            value[:32] = 1

    with written(tmp_path / "a.h5", fill) as file:
        found = hdf5.read_dataset(file, "value")
        assert found.sum() == (100 * 7 * 2 - 32 * 7 if settings else 100 * 7 * 2)
        # A dataset of this project is whole.
        with pytest.raises(DataError, match=r"/value declares .* in the file: it is damaged"):
            hdf5.check_all(file, filters=hdf5.BUILT_IN)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_hdf5_of_a_user_is_read(tmp_path, compression):
    values = np.arange(70, dtype=np.float32).reshape(10, 7)
    settings = {} if compression is None else {"compression": compression, "shuffle": True, "fletcher32": True}

    def fill(file):
        file.create_dataset("value", data=values, **settings)
        file["key"] = np.array([b"a", b"bc"])
        file.create_dataset("text", data=["é", "xyz"], dtype=h5py.string_dtype())

    with written(tmp_path / "a.h5", fill) as file:
        assert np.array_equal(hdf5.read_dataset(file, "value"), values)
        assert hdf5.read_dataset(file, "key", texts=True).tolist() == [b"a", b"bc"]
        assert [text.decode() for text in hdf5.read_dataset(file, "text", texts=True)] == ["é", "xyz"]
        with pytest.raises(DataError, match="text holds texts, not numbers"):
            hdf5.read_dataset(file, "text")


def test_hdf5_that_declares_more_than_it_holds_is_refused(tmp_path):
    for name, settings, message in (
        ("sparse", {"shape": (10**12,), "chunks": (1000,)}, "declares shape .* chunks, but 0 are in the file"),
        ("whole", {"shape": (10**9,)}, "declares 4,000,000,000 bytes, but 0 are in the file"),
        ("packed", {"shape": (10**12,), "chunks": (1000,), "compression": "gzip"}, "declares shape"),
    ):
        with (
            written(
                tmp_path / f"{name}.h5", lambda file, s=settings: file.create_dataset("x", dtype="f4", **s)
            ) as file,
            pytest.raises(DataError, match=f"{name}.h5: x {message}"),
        ):
            hdf5.read_dataset(file, "x")


def test_parquet_of_equal_values_is_counted(tmp_path, monkeypatch):
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), ["a"])
    pq.write_table(pa.table({"a": column}), tmp_path / "a.parquet", compression="zstd")
    check_parquet(tmp_path / "a.parquet", whole=True)
    monkeypatch.setattr("fuxictr_multimodal.system.untrusted.parquet.ROOM_ROWS", 1000)
    with pytest.raises(DataError, match=r"a\.parquet declares 2,000,000 values of a column in a file of"):
        check_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(sizes, "free_memory", lambda: 1 << 20)
    monkeypatch.setattr("fuxictr_multimodal.system.untrusted.parquet.ROOM_ROWS", 10**9)
    with pytest.raises(DataError, match="are free"):
        check_parquet(tmp_path / "a.parquet", whole=["a"])
    check_parquet(tmp_path / "a.parquet")


def test_an_npy_header_must_fit_its_member(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(4))
    for found, message in (
        (content.getvalue() + b"x", "declares shape"),
        (content.getvalue()[:-8], "declares shape"),
        (b"\x93NUMPY\x03\x00" + content.getvalue()[8:], "version"),
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", found)
        with pytest.raises(DataError, match=message):
            archives.read_npz(tmp_path / "a.npz")
