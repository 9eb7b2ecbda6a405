"""Files of `torch.save` that may be damaged or hostile are checked before they are read, and weights before use.

`torch.load(weights_only=True)` runs no code. It does not see flipped bits, though, inflates what an archive declares,
and says "invalid header or archive is corrupted" of most faults.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import DataError

# What reading a file raises that is cut, empty, or of something else than it should be.
DAMAGE = (
    OSError, pickle.UnpicklingError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError,
    AssertionError, MemoryError, RecursionError, OverflowError,
)  # fmt: skip
# What torch says of a pickle that names a function: `Unsupported global: GLOBAL posix.system was not an allowed ...`.
_CODE = re.compile(
    r"(?:GLOBAL|class|function|Trying to (?:instantiate|call reduce for unrecognized function)) ([\w.]+)"
)
# Structure of a file without its tensors: names, shapes and a learning curve take megabytes at most.
_LARGEST_PICKLE = 256 << 20
_CHUNK = 1 << 22


def read_torch(path: Path, *, device: torch.device | str = "cpu", remedy: str) -> Any:
    """Read what `torch.save` wrote: tensors, numbers, texts, lists and dicts; no code from the file is run.

    Args:
        path: the file.
        device: where its tensors go.
        remedy: what the user can do if it is damaged.

    Raises:
        DataError: it is missing, empty, damaged, of another kind, or holds code.
    """
    try:
        with path.open("rb") as file:
            _check_archive(file)
        return torch.load(path, map_location=device, weights_only=True)
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): {remedy}") from None


def check_weights(weights: Any, model: nn.Module, path: Path, *, remedy: str) -> dict[str, Tensor]:
    """Weights that a model can take, by name; the model is not changed.

    Args:
        weights: what a file holds.
        model: which has weights of these names, shapes and types. A buffer of the model that holds infinities, such as
            a mask, may hold them in the file.
        path: the file, for the error.
        remedy: what the user can do.

    Raises:
        DataError: naming the first weight that does not fit, or is not finite.
    """
    found = named_tensors(weights, path, remedy=remedy)
    own = model.state_dict(keep_vars=True)
    for names, what in ((own.keys() - found.keys(), "lacks the weight"), (found.keys() - own.keys(), "has a weight")):
        if names:
            first, *others = sorted(names)
            more = f" and {len(others)} more" if others else ""
            which = "that the model has" if "lacks" in what else "that the model lacks"
            raise DataError(f"{path} {what} {first!r}{more} {which}: {remedy}")
    for name, weight in found.items():
        here = own[name]
        if weight.shape != here.shape:
            raise DataError(
                f"{path}: the weight {name!r} has shape {tuple(weight.shape)}, but the model needs "
                f"{tuple(here.shape)}: {remedy}"
            )
        check_values(name, weight, here, path, remedy=remedy)
    return found


def check_values(name: str, weight: Tensor, here: Tensor, path: Path, *, remedy: str) -> None:
    """Refuse a weight of another type than the model's, or with values that are not finite.

    Args:
        name: of the weight.
        weight: the file's.
        here: the model's, a parameter or a buffer.
        path: the file, for the error.
        remedy: what the user can do.

    Raises:
        DataError: naming file and weight.
    """
    if weight.dtype != here.dtype:
        raise DataError(f"{path}: the weight {name!r} is {weight.dtype}, but the model needs {here.dtype}: {remedy}")
    may_be_infinite = not isinstance(here, nn.Parameter) and not is_finite(here)
    if not may_be_infinite and not is_finite(weight):
        raise DataError(f"{path}: the weight {name!r} holds a value that is not finite (NaN or infinite): {remedy}")


def named_tensors(weights: Any, path: Path, *, remedy: str) -> dict[str, Tensor]:
    """What a file holds, if it is dense tensors by name.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(weights, Mapping):
        raise DataError(f"{path} holds a {type(weights).__name__}, not weights by name: {remedy}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: {name!r} is a {type(value).__name__}, not a weight with a name: {remedy}")
        # A view of few bytes may declare any shape.
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise DataError(f"{path}: {name!r} holds fewer values than its shape {tuple(value.shape)} says: {remedy}")
    return dict(weights)


@torch.no_grad()
def is_finite(values: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinities; one pass without a copy, 12 ms for 31 million weights."""
    if not (values.is_floating_point() and values.numel()):
        return True
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(values.detach()))


def all_finite(model: nn.Module) -> bool:
    """Whether all parameters of a model are."""
    return all(map(is_finite, model.parameters()))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_archive(file: BinaryIO) -> None:
    """Refuse what `torch.save` does not write, before anything is inflated or allocated; check all checksums."""
    size = file.seek(0, 2)
    file.seek(0)
    if not size:
        raise ValueError("the file is empty")
    if file.read(4) != b"PK\x03\x04":
        raise ValueError("it is not a file of torch.save, or its beginning is damaged")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("its parts are larger than the file: it is not a file of torch.save")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise ValueError("its parts are compressed or encrypted: it is not a file of torch.save")
            pickles = [entry for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry.filename)]
            if len(pickles) != 1 or len({entry.filename for entry in entries}) != len(entries):
                raise ValueError("it is a zip of another kind")
            if pickles[0].file_size > _LARGEST_PICKLE:
                raise ValueError("its structure is larger than any of torch.save")
            for entry in entries:
                with archive.open(entry) as part:
                    while part.read(_CHUNK):
                        pass
    except zipfile.BadZipFile as error:
        what = "a checksum is wrong" if "CRC" in str(error) else "it is cut or damaged"
        raise ValueError(f"{what}, {first_line(error)}") from None
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(first_line(error)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError):
        match = _CODE.search(str(error))
        named = f" ({match[1]})" if match else ""
        return f"it holds something else than tensors, numbers and texts{named}, which is never run"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
