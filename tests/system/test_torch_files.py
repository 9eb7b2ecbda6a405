"""Files of weights that are damaged, hostile or of another model: one error that names the file and the weight."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.torch_files import check_weights, is_finite, read_torch


class Evil:
    """Runs a command where a pickle of it is read."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("scale", torch.ones(2))


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def weights(**other):
    return {**Net().state_dict(), **other}


def zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


WHOLE = saved(weights(**{"linear.bias": torch.tensor([1.25, 2.5])}))


def flipped(content):
    """One bit of the bias: torch itself does not see it."""
    changed = bytearray(content)
    changed[content.index(torch.tensor([1.25, 2.5]).numpy().tobytes())] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b"garbage", "it is not a file of torch.save, or its beginning is damaged"),
        (b"PK\x03\x04" + b"garbage" * 99, "it is cut or damaged"),
        (WHOLE[: len(WHOLE) // 2], "it is cut or damaged"),
        (flipped(WHOLE), "a checksum is wrong"),
        (pickle.dumps(Evil()), "it is not a file of torch.save"),
        (saved(Evil()), r"something else than tensors, numbers and texts \(posix.system\), which is never run"),
        (saved({"linear.weight": Evil()}), r"\(posix.system\), which is never run"),
        (saved(Net()), r"Net\), which is never run"),
        (zipped({"word/document.xml": "a letter"}), "it is a zip of another kind"),
        (zipped({"x/data.pkl": b"\0" * 10**7}, zipfile.ZIP_DEFLATED), "its parts are larger than the file"),
        (zipped({"x/data.pkl": os.urandom(99)}, zipfile.ZIP_BZIP2), "its parts are compressed or encrypted"),
        (zipped({"x/data.pkl": b"garbage", "x/version": "3\n"}), "which is never run"),
        (zipped({"x/data.pkl": pickle.dumps({"a": 1}, 2), "x/version": "3\n"}), None),
    ],
)
def test_a_file_that_is_damaged_or_of_another_kind(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.model"
    if content is not None:
        path.write_bytes(content)
    if said is None:
        assert read_torch(path, remedy="train again") == {"a": 1}
        return
    with pytest.raises(DataError, match=rf"x\.model cannot be read \(.*{said}.*\): train again$") as caught:
        read_torch(path, remedy="train again")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_run").exists()


HUGE = torch.zeros(1).expand(10**6, 10**6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(2)], r"x\.model holds a list, not weights by name"),
        (weights(more=1), r"x\.model: 'more' is a int, not a weight with a name"),
        ({**weights(), 3: torch.ones(1)}, "3 is a Tensor, not a weight with a name"),
        (weights(more=torch.ones(1)), r"x\.model has a weight 'more' that the model lacks"),
        ({"linear.bias": torch.ones(2)}, r"x\.model lacks the weight 'linear.weight' and 2 more that the model has"),
        (weights(**{"linear.bias": torch.ones(3)}), r"'linear.bias' has shape \(3,\), but the model needs \(2,\)"),
        (weights(**{"linear.bias": torch.ones(2).double()}), "'linear.bias' is torch.float64, but the model needs"),
        (weights(**{"linear.bias": torch.ones(2).long()}), "'linear.bias' is torch.int64, but the model needs"),
        (weights(**{"linear.bias": HUGE}), r"'linear.bias' holds fewer values than its shape \(1000000, 1000000\)"),
        (weights(**{"linear.bias": torch.ones(2).to_sparse()}), "'linear.bias' holds fewer values than its shape"),
        (weights(**{"linear.bias": torch.tensor([1.0, float("nan")])}), "'linear.bias' holds a value that is not fin"),
        (weights(**{"linear.bias": torch.tensor([float("inf"), 0])}), "'linear.bias' holds a value that is not finite"),
        (weights(scale=torch.tensor([float("nan"), 0])), "'scale' holds a value that is not finite"),
    ],
)
def test_weights_that_a_model_cannot_take(tmp_path, content, said):
    path = tmp_path / "x.model"
    path.write_bytes(saved(content))
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=rf"{said}.*: train again$"):
        check_weights(read_torch(path, remedy="train again"), model, path, remedy="train again")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_mask_of_infinities_is_no_damage(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(saved(weights()))
    found = check_weights(read_torch(path, remedy=""), Net(), path, remedy="")
    assert found.keys() == Net().state_dict().keys()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_finite_values_of_every_type(dtype):
    values = torch.ones(5).to(dtype)
    assert is_finite(values)
    assert is_finite(values[:0])
    if dtype.is_floating_point:
        for bad in (float("nan"), float("inf"), float("-inf")):
            values[3] = bad
            assert not is_finite(values)
