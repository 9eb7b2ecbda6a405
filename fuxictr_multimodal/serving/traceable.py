"""Models whose code does not trace: forms of them that do and give the same scores, or the reason.

Shape legend: B rows, T history slots, K of them that a model keeps, D width of an embedded item, H hashes.
"""

from __future__ import annotations

import copy
import types
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.layers import KMaxPooling
from torch import Tensor, nn

from fuxictr_multimodal.errors import InputError

if TYPE_CHECKING:
    from fuxictr.pytorch.models import BaseModel


def traceable(model: BaseModel) -> BaseModel:
    """The model in a form that traces and shares its weights; the model itself where it does.

    Raises:
        InputError: there is none; the message says why.
    """
    name = _longctr_name(model)
    if getattr(model, "reuse_hash", True) is False:
        raise InputError(
            f"{type(model).__name__} draws new hashes at every score (reuse_hash: False), so no graph gives its "
            "scores: train it with reuse_hash: True"
        )
    if name != "DIEN" and type(model).__name__ == "DIEN":
        raise InputError(
            "DIEN of a clone packs its histories, and a graph has no packed histories: train LongCTR/DIEN instead"
        )
    if getattr(model, "form", None) == "fast":
        plain = with_parts(model)
        plain.form = "plain"  # QIN's optimized form gathers what is in the histories, however much it is
        return plain
    if name == "DIEN":
        return with_method(model, "forward", _dien_without_packing)
    if name == "SDIM":
        return with_method(model, "lsh_attentioin", _sum_of_collisions)
    if name == "MIRRN":
        return with_parts(model, MHFT_block=nn.ModuleList(_RealFilter(block) for block in model.MHFT_block))
    return model


def needs_fixed_slots(model: BaseModel) -> bool:
    """Whether the graph runs over the slots one by one, so that their number is part of it."""
    return _longctr_name(model) == "DIEN"


def _longctr_name(model: BaseModel) -> str:
    """Name of a model of FuxiCTR's LongCTR; a clone has others of the same names."""
    return type(model).__name__ if type(model).__module__.startswith("model_zoo.LongCTR") else ""


def only_torch(model: BaseModel, slots: int | None) -> str:
    """Why another engine than torch would give other scores; empty where it would not."""
    name, kept = _longctr_name(model), getattr(model, "topk", 0)
    if name in ("ETA", "MIRRN") and slots is not None and kept < slots:
        return (
            f"{name} keeps {kept} of {slots} history slots by distances of hashes, which are often equal, and torch "
            f"chooses among equals in an order of its own: train it with topk: {slots}, which keeps all"
        )
    if any(isinstance(part, KMaxPooling) for part in model.modules()):
        return (
            f"{type(model).__name__} keeps the largest of its values, which may be equal, and torch chooses among "
            "equals in an order of its own"
        )
    return ""


def with_parts(model: BaseModel, **parts: nn.Module) -> BaseModel:
    """A copy of the model that has other modules under these names; all others, and the weights, are shared."""
    changed = copy.copy(model)
    changed._modules = {**model._modules, **parts}
    return changed


def with_method(model: BaseModel, name: str, method: Any) -> BaseModel:
    """The model with another method; its weights are shared."""
    changed = with_parts(model)
    setattr(changed, name, types.MethodType(method, changed))
    return changed


def _dien_without_packing(self: Any, inputs: Any) -> dict[str, Tensor]:
    """DIEN's forward pass over all slots, filled after the items: a row keeps its state where it has no item.

    FuxiCTR packs the items, and leaves out rows without any: both depend on the data.
    """
    columns, items, mask_BT = self.get_inputs(inputs)
    parts = [self.embedding_layer(columns, flatten_emb=True)] if columns else []
    items_BSD = self.embedding_layer(items, flatten_emb=True).view(mask_BT.shape[0], -1, self.item_info_dim)
    target_BD, history_BTD = items_BSD[:, -1, :], items_BSD[:, 0:-1, :]
    parts += [target_BD, _evolved(self, history_BTD, target_BD, mask_BT)]
    if self.enable_sum_pooling:
        sum_BD = self.sum_pooling(history_BTD)
        parts += [sum_BD, target_BD * sum_BD]
    return {"y_pred": self.dnn(torch.cat(parts, dim=-1))}


def _evolved(model: Any, history_BTD: Tensor, target_BD: Tensor, mask_BT: Tensor) -> Tensor:
    """The state of the second network after the last item, (B, D); zeros without an item."""
    interests_BTD = model.extraction_modules[0](history_BTD)[0] * mask_BT.unsqueeze(-1)
    evolving = model.evolving_modules[0]
    if model.gru_type in ("AGRU", "AUGRU"):
        weights_BT = model.attention_modules[0](interests_BTD, target_BD, mask_BT)
        state_BD = torch.zeros_like(target_BD)
        for slot in range(mask_BT.shape[1]):
            next_BD = evolving.gru_cell(interests_BTD[:, slot], state_BD, weights_BT[:, slot])
            state_BD = torch.where(mask_BT[:, slot, None] > 0, next_BD, state_BD)
        return state_BD
    if model.gru_type == "AIGRU":
        weights_BT = model.attention_modules[0](interests_BTD, target_BD, mask_BT)
        interests_BTD = interests_BTD * weights_BT.unsqueeze(-1)
    states_BTD = evolving(interests_BTD)[0]
    last_BT = mask_BT * (torch.cat([mask_BT[:, 1:], torch.zeros_like(mask_BT[:, :1])], dim=1) == 0)
    return (states_BTD * last_BT.unsqueeze(-1)).sum(dim=1)


def _sum_of_collisions(self: Any, rotations: Tensor, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """SDIM's long interest: the sum of items whose hash is the target's, mean over hashes, (B, D).

    FuxiCTR lists the items that collide, of which there are as many as the data has.
    """
    rotations = rotations.repeat(target_BD.size(0), 1, 1, 1)
    history_BTH = self.lsh_hash(history_BTD, rotations)
    target_B1H = self.lsh_hash(target_BD.unsqueeze(1), rotations)
    collide_BTH = (history_BTH == target_B1H) * mask_BT.unsqueeze(-1)
    sums_BHD = collide_BTH.transpose(1, 2) @ history_BTD
    if self.l2_norm:
        sums_BHD = nn.functional.normalize(sums_BHD, dim=-1)
    return sums_BHD.mean(dim=1)


class _RealFilter(nn.Module):
    """MIRRN's filter without complex numbers, which ONNX lacks.

    It multiplies all frequencies of channel d with one number a_d + i b_d: x becomes a_d x + b_d S x, with S a fixed
    matrix over the slots, the inverse transform of i times the transform.

    Args:
        block: of the model, in eval mode.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        # The sum over `ndd` in FuxiCTR's einsum is a diagonal: channels do not mix.
        weight_ND2 = block.complex_weight.diagonal(dim1=1, dim2=2).transpose(1, 2)
        self.real_D = nn.Parameter(weight_ND2[..., 0].flatten(), requires_grad=False)
        self.imaginary_D = nn.Parameter(weight_ND2[..., 1].flatten(), requires_grad=False)
        self.norm = block.LayerNorm

    def forward(self, slots_BKD: Tensor) -> Tensor:
        """The filtered slots, (B, K, D)."""
        turned_BKD = _quarter_turn(slots_BKD.shape[1]) @ slots_BKD
        return self.norm(slots_BKD * self.real_D + turned_BKD * self.imaginary_D + slots_BKD)


def _quarter_turn(slots: int) -> Tensor:
    """The matrix (K, K) that multiplies every frequency with i."""
    import numpy as np

    spectrum = np.fft.rfft(np.eye(slots), axis=0)
    return torch.from_numpy(np.fft.irfft(1j * spectrum, n=slots, axis=0)).float()
