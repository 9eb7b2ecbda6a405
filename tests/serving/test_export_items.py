"""Arrays of the catalogue in every storage, read back by the runtime; the reported error is the real one."""

import stat

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.serving.items_file import ROWS, Stored, write_items
from fuxictr_multimodal.serving.runtime.storage import Rows
from fuxictr_multimodal.serving.runtime.storage import Stored as RuntimeStored


def vectors(rows=50, width=8):
    found = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, rows)[:, None]
    found[0] = 0
    return found


def read(path, name):
    """The rows as a server gathers them."""
    file = load_file(path)
    scale = file.get(f"{name}.scale")
    stored = RuntimeStored(Rows.of(file[name]), None if scale is None else Rows.of(scale))
    return stored.gather(np.arange(len(file[name])))


@pytest.mark.parametrize(("storage", "relative"), [("float32", 0), ("float16", 2**-11), ("int8", 1 / 254)])
@pytest.mark.parametrize("shape", [(8,), (4, 2)])
def test_every_storage_is_as_exact_as_it_says(tmp_path, storage, relative, shape):
    values = vectors().view(50, *shape)
    stored = write_items(tmp_path / "items.safetensors", {"vector": values}, storage)["vector"]
    found, expected = read(tmp_path / "items.safetensors", "vector"), values.numpy()
    assert found.dtype == np.float32
    assert stored.storage == storage
    error = np.abs(found - expected).reshape(50, -1)
    assert stored.largest_error == error.max()
    assert stored.relative_error == pytest.approx(np.sqrt((error**2).sum() / (expected**2).sum()))
    assert (stored.relative_error == 0) == (storage == "float32")
    # int8 errs by half a step of the row; float16 by half a digit of each number, or of the smallest ones.
    largest = np.abs(expected).reshape(50, -1).max(axis=1)
    assert (error.max(axis=1) <= 1.01 * largest * relative + (3e-8 if storage == "float16" else 0)).all()
    assert not found[0].any()


def test_scales_lie_beside_int8_rows(tmp_path):
    write_items(tmp_path / "x", {"vector": vectors(), "number": torch.arange(50.0)}, "int8")
    file = load_file(tmp_path / "x")
    assert {name: (array.dtype.name, array.shape) for name, array in file.items()} == {
        "vector": ("int8", (50, 8)),
        "vector.scale": ("float32", (50, 1)),
        "number": ("float32", (50,)),
    }


def test_codes_keep_their_values(tmp_path):
    codes = {"item_id": torch.arange(50), "tags": torch.tensor([[0, 2**31]] * 50)}
    stored = write_items(tmp_path / "x", codes, "int8")
    assert stored == {"item_id": Stored("int32"), "tags": Stored("int64")}
    for name, values in codes.items():
        assert read(tmp_path / "x", name).dtype == np.int64
        assert np.array_equal(read(tmp_path / "x", name), values)


def test_errors_of_large_catalogues_are_measured_in_parts(tmp_path):
    values = vectors(rows=ROWS + 3, width=1)
    stored = write_items(tmp_path / "x", {"vector": values}, "float16")["vector"]
    assert stored.largest_error == np.abs(read(tmp_path / "x", "vector") - values.numpy()).max() > 0


def test_others_may_read_the_file_as_they_may_others(tmp_path):
    write_items(tmp_path / "x", {"vector": vectors()}, "float32")
    (tmp_path / "y").touch()
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_numbers_that_cannot_be_stored_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"--items float16: the item array 'vector' reaches 100000: choose float32"):
        write_items(tmp_path / "x", {"vector": vectors() * 0 + 1e5}, "float16")
    broken = vectors()
    broken[3, 1] = float("nan")
    with pytest.raises(DataError, match=r"the item array 'vector' holds a number that is not finite"):
        write_items(tmp_path / "x", {"vector": broken}, "int8")
    assert list(tmp_path.iterdir()) == []
