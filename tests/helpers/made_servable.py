"""A small made-up model that ranks: products of every kind, two kinds of history and a feature of events."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuxictr_multimodal.zoo import servable as names
from fuxictr_multimodal.zoo.servable import CANDIDATES, ITEMS, REQUESTS, GraphInput, Servable

ITEM_ROWS, TEXT, WIDTH, HOURS, CITIES, AGES = 30, 6, 40, 24, 5, 4
KINDS = ("clicks", "carts")


class MadeGraph(nn.Module):
    """Attention of the candidates to both histories, then products of WIDTH; scores (R, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.city = nn.Embedding(CITIES, WIDTH)
        self.age = nn.Embedding(AGES, WIDTH)
        self.of_context, self.layer = nn.Linear(WIDTH + 1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.narrow, self.wide = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, *tensors: Tensor) -> Tensor:
        city_R, price_R, clicks_RT, clicked_RTD, ages_RT, carts_RS, carted_RSD, items_RCD = tensors
        context_RF = self.of_context(torch.cat([self.city(city_R), price_R[:, None]], dim=1))
        hidden_RCD = items_RCD + context_RF[:, None]
        for mask, vectors in ((clicks_RT, clicked_RTD + self.age(ages_RT)), (carts_RS, carted_RSD)):
            weights = (items_RCD @ vectors.transpose(1, 2)).relu() * mask[:, None]
            hidden_RCD = hidden_RCD + weights @ vectors / (weights.sum(dim=2, keepdim=True) + 1e-12)
        hidden_RCD = hidden_RCD + nn.functional.leaky_relu(hidden_RCD * self.layer(hidden_RCD), 0.25)
        hidden_RCD = hidden_RCD + self.wide(self.narrow(hidden_RCD).relu())
        return torch.sigmoid(self.score(hidden_RCD)[..., 0])


class MadeEncoder(nn.Module):
    """Texts and tags of items to their vectors, (N, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tag = nn.Linear(TEXT, WIDTH), nn.Embedding(7, WIDTH)

    def forward(self, text_ND: Tensor, tag_N: Tensor) -> Tensor:
        return self.text(text_ND) + self.tag(tag_N)


def made_servable(seed: int = 0) -> Servable:
    """The model with random weights, and its catalogue."""
    generator = torch.Generator().manual_seed(seed)
    graph, encoder = MadeGraph().eval(), MadeEncoder().eval()
    for weight in (*graph.parameters(), *encoder.parameters()):
        weight.data = torch.randn(weight.shape, generator=generator) / max(weight.shape[-1], 1) ** 0.5
        weight.requires_grad_(False)
    text = torch.randn(ITEM_ROWS, TEXT, generator=generator)
    tag = torch.arange(ITEM_ROWS) % 7
    text[0], tag[0] = 0, 0
    inputs = [
        GraphInput(names.context("city"), "int64", (REQUESTS,)),
        GraphInput(names.context("price"), "float32", (REQUESTS,)),
    ]
    for number, kind in enumerate(KINDS):
        dims = (REQUESTS, names.slots(number))
        inputs.append(GraphInput(names.mask(kind), "bool", dims))
        inputs.append(GraphInput(names.history(kind, "vector"), "float32", (*dims, WIDTH)))
        if number == 0:
            inputs.append(GraphInput(names.event(kind, "age"), "int64", dims))
    inputs.append(GraphInput(names.candidate("vector"), "float32", (REQUESTS, CANDIDATES, WIDTH)))
    return Servable(
        graph,
        inputs,
        items={"vector": encoder(text, tag)},
        encode_items=encoder,
        item_inputs=[GraphInput("text", "float32", (ITEMS, TEXT)), GraphInput("tag", "int64", (ITEMS,))],
        behaviours=KINDS,
    )


def made_inputs(servable: Servable, *, requests: int, candidates: int, slots: tuple[int, int], seed: int = 1) -> dict:
    """Tensors of made-up requests by name; the first request has empty histories."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {REQUESTS: requests, CANDIDATES: candidates, **{names.slots(i): size for i, size in enumerate(slots)}}
    found = {}
    for given in servable.inputs:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in given.dims]
        if given.dtype == "float32":
            found[given.name] = torch.randn(shape, generator=generator)
        elif given.dtype == "bool":
            found[given.name] = torch.rand(shape, generator=generator) < 0.7
            found[given.name][0] = False
        else:
            found[given.name] = torch.randint(0, AGES, shape, generator=generator)
    return found
