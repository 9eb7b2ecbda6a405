"""Contrastive batches larger than memory: vectors first, then one chunk of texts at a time (arXiv 2101.06983).

A contrastive loss needs every vector of the batch at once, but the activations of one chunk only. So: encode all
chunks without gradients, take the loss and its gradient on the vectors, then encode each chunk again and push its part
of that gradient through. Values and gradients are those of the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.tokens import TokenTable, batches_by_length


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The context in which the encoder runs: `float32` as it is, `bfloat16` by automatic mixed precision."""
    assert precision in ("float32", "bfloat16"), precision
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def backward_through(
    encoder: Encoder,
    table: TokenTable,
    loss_of: Callable[[Tensor], Tensor],
    *,
    max_tokens: int,
    precision: str = "float32",
) -> Tensor:
    """Add to the encoder's gradients those of `loss_of` on the vectors of all rows of `table`; return the loss.

    Args:
        encoder: in training mode.
        table: all texts of the batch.
        loss_of: takes the vectors (N, D), in the table's order, to a scalar.
        max_tokens: tokens encoded with gradients at a time; a batch within it is encoded once.
        precision: see `autocast`.
    """
    device = encoder.device
    chunks = list(batches_by_length(table.lengths, max_tokens=max_tokens))
    packed = [Packed.from_table(table.take(rows), device) for rows in chunks]
    back = torch.from_numpy(np.argsort(np.concatenate(chunks))).to(device)

    def embed(chunk: Packed) -> Tensor:
        with autocast(device, precision):
            return encoder.embed(chunk)

    if len(chunks) == 1:
        loss = loss_of(embed(packed[0])[back])
        loss.backward()
        return loss.detach()
    states, vectors = [], []
    with torch.no_grad():
        for chunk in packed:
            states.append(_random_state(device))
            vectors.append(embed(chunk))
    vectors_ND = torch.cat(vectors)[back].requires_grad_()
    loss = loss_of(vectors_ND)
    loss.backward()
    assert vectors_ND.grad is not None
    order = torch.from_numpy(np.concatenate(chunks)).to(device)
    parts = vectors_ND.grad[order].split([len(rows) for rows in chunks])
    after = _random_state(device)
    for chunk, state, gradient in zip(packed, states, parts, strict=True):
        # The same dropout masks as in the first pass.
        _set_random_state(device, state)
        embed(chunk).backward(gradient)
    _set_random_state(device, after)
    return loss.detach()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
