"""Read the authors' weight files (`QIN_variety_v9_*.model`) into QIN, and write weights under their names.

A file is a state dict. Their names, with `<f>` a feature and `<i>` a layer (arXiv 2504.17699, public repository):

| name | shape |
|---|---|
| `embedding_layer.embedding_layer.embedding_layers.<f>.weight` | (vocabulary, embedding_dim) |
| `embedding_layer.embedding_layer.feature_encoders.<f>.weight` | (embedding_dim, width of the pretrained embedding) |
| `attention_layers.W_{q,k,v}.weight`, `attention_layers.W_o.weight` | (A, D), (D, A) |
| `qnn.layer.<i>.linear.0.{weight,bias}` | (R F, F), (R F,): the R rows stacked, r outermost |
| `qnn.norm.<i>.{weight,bias,running_mean,running_var}` | (F,) |
| `qnn.activation.<i>.weight` | (1,) |
| `qnn.fc.{weight,bias}` | (1, F), (1,) |

QIN uses the same names, so nothing is renamed; this file refuses everything else by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.system.torch_files import named_tensors, read_torch

_PUBLISHED = re.compile(
    r"embedding_layer\.embedding_layer\.(embedding_layers|feature_encoders)\.\w+\.weight"
    r"|attention_layers\.W_[qkvo]\.weight"
    r"|qnn\.layer\.\d+\.linear\.0\.(weight|bias)"
    r"|qnn\.norm\.\d+\.(weight|bias|running_mean|running_var|num_batches_tracked)"
    r"|qnn\.activation\.\d+\.weight"
    r"|qnn\.fc\.(weight|bias)"
)
# A counter that some versions of torch do not write, and that scoring does not read.
_OPTIONAL = re.compile(r"qnn\.norm\.\d+\.num_batches_tracked")


def import_weights(model: nn.Module, path: Path) -> None:
    """Replace all weights of `model` by those of a published file.

    Raises:
        ConfigError: the model has weights without a published name, such as those of an ablation.
        DataError: the file is not a state dict, a name is missing or unknown, a shape is another one, or a value is not
            finite; the model is untouched then.
    """
    ours = _published_state(model)
    theirs = _read(path)
    for name in theirs:
        if name not in ours:
            raise DataError(f"{path}: {name!r} is not a weight of this model. {_layer_hint(name, ours)}")
    for name, wanted in ours.items():
        if name not in theirs:
            if _OPTIONAL.fullmatch(name):
                continue
            raise DataError(f"{path}: {name!r} is missing. {_layer_hint(name, theirs)}")
        found = theirs[name]
        if found.shape != wanted.shape:
            raise DataError(
                f"{path}: {name!r} has shape {tuple(found.shape)}, the model needs {tuple(wanted.shape)}. "
                f"{_shape_hint(name, found, wanted)}"
            )
        if found.is_floating_point() != wanted.is_floating_point():
            raise DataError(f"{path}: {name!r} holds {found.dtype}, the model needs {wanted.dtype}")
        if not torch.isfinite(found).all():
            raise DataError(f"{path}: {name!r} holds a value that is not finite")
    model.load_state_dict({**ours, **theirs})
    if callable(forget := getattr(model, "forget", None)):
        forget()


def export_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of `model` under the published names, on the CPU, in one step.

    Raises:
        ConfigError: the model has weights without a published name.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in _published_state(model).items()}
    make_folder(path.parent)
    with replace_atomically(path) as temporary:
        torch.save(state, temporary)


def _published_state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name in state:
        if not _PUBLISHED.fullmatch(name):
            raise ConfigError(
                f"{type(model).__name__} has the weight {name!r}, which the published network does not: only QIN with "
                "its attention and its quadratic layers has published names"
            )
    return dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: the file of weights does not exist")
    remedy = "not a state dict of tensors, or damaged; name a file of weights, as the authors published them"
    stored = read_torch(path, remedy=remedy)
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise DataError(f"{path}: holds {type(stored).__name__}, expected a state dict: names to tensors")
    return named_tensors(stored, path, remedy=remedy)


def _layer_hint(name: str, known: Mapping[str, Tensor]) -> str:
    layers = {match[1] for other in known if (match := re.match(r"qnn\.layer\.(\d+)\.", other))}
    match = re.match(r"qnn\.(?:layer|norm|activation)\.(\d+)\.", name)
    if match and layers and match[1] not in layers:
        return f"It belongs to layer {int(match[1]) + 1}, but the other side has num_layers {len(layers)}."
    return "The file belongs to another network, or the model has another configuration."


def _shape_hint(name: str, found: Tensor, wanted: Tensor) -> str:
    if re.fullmatch(r"qnn\.layer\.\d+\.linear\.0\.weight", name) and found.dim() == 2:
        rows, width = found.shape
        if width == wanted.shape[1] and rows % width == 0:
            return f"The file has {rows // width} rows per layer: --set num_row={rows // width}."
    if "embedding" in name and found.dim() == 2 and found.shape[0] != wanted.shape[0]:
        return "The dataset has another vocabulary: the weights belong to another dataset."
    return "The model had another configuration: compare embedding_dim and the dataset's columns."
