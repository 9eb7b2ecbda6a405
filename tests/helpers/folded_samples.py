"""Trained-like QINs, requests for their folded form, and the same requests as samples for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.zoo import servable
from fuxictr_multimodal.zoo.servable import Servable
from model_zoo.QIN import QIN


@torch.no_grad()
def as_trained(model: QIN, *, seed: int = 5) -> QIN:
    """Norms with statistics and slopes of both signs, terms with weights, averages that are not the weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)

    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d)]
    for norm in norms:
        norm.running_mean.copy_(draw(norm.running_mean) * 0.3)
        norm.running_var.copy_(draw(norm.running_var).abs() + 0.5)
        norm.weight.copy_(draw(norm.weight))
        norm.bias.copy_(draw(norm.bias) * 0.2)
    for number, part in enumerate(part for part in model.modules() if isinstance(part, nn.PReLU)):
        part.weight.fill_((0.3, -0.4)[number % 2])
    if model.first_order is not None:
        for name in ("weight", "averaged_weight"):
            if (weight := getattr(model.first_order, name, None)) is not None:
                weight[1:] = draw(weight[1:])
        model.first_order.bias.fill_(0.4)
        if model.first_order.averaging:
            model.first_order.averaged_bias.fill_(-0.2)
    for name, parameter in model.named_parameters():
        if "similarity_map" in name:
            parameter.copy_(draw(parameter) * 0.5)
    model.forget()
    return model


def in_float32(model: QIN) -> QIN:
    """A model of `small_qin` in the type that runs have."""
    for part in model.modules():
        part._forward_pre_hooks.clear()  # those that hand float64 to the encoders
    model.float().forget()
    return model


def requests_of(
    model: QIN, rng: np.random.Generator, *, requests: int, candidates: int, longest: int, empty: bool = False
) -> Batch:
    """A sample for every candidate of every request, request after request; of a request they share all but the item.

    The last request has no history, and none has one where `empty`.
    """
    specs, items = model.feature_map.features, model.item_table.num_items

    def column(name: str) -> Tensor:
        spec = specs[name]
        if spec["type"] == "numeric":
            return torch.from_numpy(rng.standard_normal(requests)).float()
        if spec["type"] == "embedding":
            return torch.from_numpy(rng.standard_normal((requests, spec["pretrain_dim"]))).float()
        shape = (requests, spec["max_len"]) if spec["type"] == "sequence" else requests
        return torch.from_numpy(rng.integers(0, spec["vocab_size"], shape)).int()

    def history() -> Jagged:
        lengths = rng.integers(1, longest + 1, requests)
        lengths[0], lengths[-1] = longest, 0 if requests > 1 or empty else longest
        lengths *= not empty
        total = int(lengths.sum())
        events = {
            name: torch.from_numpy(rng.integers(0, specs[name]["vocab_size"], total)).int()
            for name in model.fields.events
        }
        return Jagged.from_lengths(
            torch.from_numpy(rng.integers(1, items, total)).int(), torch.from_numpy(lengths), events
        )

    rows = torch.arange(requests).repeat_interleave(candidates)
    others = [behaviour.name for behaviour in model.fields.behaviours[1:]]
    batch = Batch(
        {name: column(name) for name in (*model.fields.context, *model.fields.events)},
        torch.zeros(requests, dtype=torch.int32),
        history(),
        behaviours={name: history() for name in others},
    ).take(rows)
    targets = torch.from_numpy(rng.integers(1, items, len(rows))).int()
    return Batch(batch.features, targets, batch.history, behaviours=batch.behaviours)


def tensors_of(
    folded: Servable, batch: Batch, *, requests: int, slots: int | None = None, padding: float = 0.0
) -> tuple[Tensor, ...]:
    """The samples of `requests_of` as the tensors that a folded graph reads; items are gathered from its catalogue."""
    candidates = len(batch) // requests
    one = batch.take(torch.arange(requests) * candidates)
    histories = {"history": one.history, **one.behaviours}
    found: dict[str, Tensor] = {}
    for name, values in one.features.items():
        found[servable.context(name)] = values if values.is_floating_point() else values.long()
    for behaviour in folded.behaviours:
        history = histories[behaviour]
        ids = history.to_padded(max(1, int(history.lengths.max())) if slots is None else slots).long()
        found[servable.mask(behaviour)] = ids > 0
        for array, values in folded.items.items():
            rows = values[ids]
            rows[ids == 0] = padding if values.is_floating_point() else 0
            found[servable.history(behaviour, array)] = rows
        for name in history.events:
            found[servable.event(behaviour, name)] = history.event(name).to_padded(ids.shape[1]).long()
    targets = batch.target.view(requests, candidates).long()
    for array, values in folded.items.items():
        found[servable.candidate(array)] = values[targets]
    return tuple(found[each.name] for each in folded.inputs)


def scores_of(model: QIN, batch: Batch, *, requests: int) -> Tensor:
    """The model's own scores, (R, C)."""
    model.eval()
    with torch.no_grad():
        return model(batch)["y_pred"].view(requests, -1)


def onnx_feeds(folded: Servable, tensors: Sequence[Tensor]) -> Mapping[str, np.ndarray]:
    """The same tensors by name, as ONNX Runtime takes them."""
    return {each.name: tensor.numpy() for each, tensor in zip(folded.inputs, tensors, strict=True)}
