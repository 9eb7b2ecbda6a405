"""The interest network folded for ranking: what candidates of a request share is computed once a request.

With t = [v, e] the target (v of its item, e of its events), h_s the history, and x = [c, t, out_1 .. out_K]:

    weights    a_s = weight(t . (W_q^T W_k h_s) / sqrt(A) + g . r_s): history items are mapped, candidates are not
    out        = t + sum_s a_s (W_o W_v h_s)
    first map  = W x + b = (W_t + sum_k W_k) t + sum_s a_s (W_k W_o W_v h_s) + (W_c c + b)

The maps in brackets are multiplied out here. Only the first term of the first map is a product a candidate.

Shape legend: R requests, C candidates, T history slots of a behaviour, K behaviours, D = I + E width of a target (of
its item and of its events), Q width of what a request has alone, F width of x, M numbers of the first map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_zoo.QIN.attention import SparseTargetAttention
from model_zoo.QIN.attention_weights import weights_of_padded
from model_zoo.QIN.folded_interaction import fold_interaction, linear_of
from model_zoo.QIN.interest_network import InterestNetwork


class FoldedAttention(nn.Module):
    """`SparseTargetAttention` with its projections multiplied out.

    Args:
        attention: trained.
        first_MD: the columns of the first map that read what it pools.
    """

    def __init__(self, attention: SparseTargetAttention, first_MD: Tensor) -> None:
        super().__init__()
        w_q, w_k, w_v, w_o = (getattr(attention, f"W_{name}").weight.detach().double() for name in "qkvo")
        value, dtype = w_o @ w_v, first_MD.dtype
        self.activation = attention.activation
        self.key = linear_of((w_q.T @ w_k * attention.scale).to(dtype))
        self.value = linear_of(value.to(dtype))
        self.first = linear_of((first_MD.double() @ value).to(dtype))
        similarity = attention.similarity
        self.similarity = None if similarity is None else nn.Parameter(similarity.detach(), requires_grad=False)

    def of_cosines(self, cosines: Tensor | None) -> Tensor | None:
        """What cosines (..., E) add to the scores; None where they are not read."""
        if self.similarity is None:
            return None
        assert cosines is not None
        return cosines.to(self.similarity.dtype) @ self.similarity

    def weights(
        self,
        items_RCI: Tensor,
        events_RE: Tensor,
        history_RTD: Tensor,
        mask_RT: Tensor,
        cosines_RCTE: Tensor | None,
    ) -> Tensor:
        """a_s of every candidate, (R, C, T)."""
        key_RTD = self.key(history_RTD)
        width = items_RCI.shape[2]
        score_RCT = items_RCI @ key_RTD[..., :width].transpose(1, 2)
        if events_RE.shape[1]:
            score_RCT = score_RCT + (key_RTD[..., width:] * events_RE[:, None]).sum(dim=2)[:, None]
        if (added_RCT := self.of_cosines(cosines_RCTE)) is not None:
            score_RCT = score_RCT + added_RCT
        return weights_of_padded(score_RCT, mask_RT[:, None], self.activation)


class RankedInputs(NamedTuple):
    """What a network reads.

    Attributes:
        context_RQ: embedded context, of width 0 where there is none.
        events_RE: embedded event features of the target, of width 0 where none are read.
        items_RCI: vectors of the candidates.
        histories: of each behaviour, vectors of its items and their events (R, T, D), 0 on padding, and its mask
            (R, T), True on items.
        cosines_RCTE: of candidates and the items of the first history, or None.
    """

    context_RQ: Tensor
    events_RE: Tensor
    items_RCI: Tensor
    histories: Sequence[tuple[Tensor, Tensor]]
    cosines_RCTE: Tensor | None


class FoldedNetwork(nn.Module):
    """From vectors to logits.

    Args:
        network: trained, in any mode: running statistics are folded.

    Attributes:
        attentions: of each behaviour; none where histories are averaged.
    """

    def __init__(self, network: InterestNetwork) -> None:
        super().__init__()
        interaction = network.qnn if network.mlp is None else network.mlp
        assert interaction is not None
        self.interaction = fold_interaction(interaction)
        weight_MF, bias_M = (tensor.detach() for tensor in self.interaction.first)
        pools, items = network.attentions, network.item_width
        widths = [network.target_width] * (1 + len(pools))
        of_context, of_target, *of_pooled = weight_MF.split([weight_MF.shape[1] - sum(widths), *widths], dim=1)
        self.attentions = nn.ModuleList()
        for pool, first_MD in zip(pools, of_pooled, strict=True):
            if isinstance(pool, SparseTargetAttention):
                self.attentions.append(FoldedAttention(pool, first_MD))
                of_target = of_target + first_MD
        of_means = [] if self.attentions else of_pooled
        self.of_candidate = linear_of(of_target[:, :items])
        self.of_request = linear_of(torch.cat([of_context, of_target[:, items:], *of_means], dim=1), bias_M)

    def forward(self, inputs: RankedInputs) -> Tensor:
        """Logits (R, C)."""
        items_RCI, histories = inputs.items_RCI, inputs.histories
        means = [] if self.attentions else [_mean(*history) for history in histories]
        weights = [
            attention.weights(items_RCI, inputs.events_RE, *history, inputs.cosines_RCTE)  # type: ignore[operator]
            for attention, history in zip(self.attentions, histories, strict=False)
        ]
        request_RM = self._of_request(torch.cat([inputs.context_RQ, inputs.events_RE, *means], dim=1))
        z_RCM = self.of_candidate(items_RCI)
        z_RCM = z_RCM + self._of_histories(weights, histories, request_RM)
        x_BF = None
        if self.interaction.reads_x:
            x_BF = self._x(inputs, weights, means).flatten(0, 1)
        return self.interaction(x_BF, z_RCM.flatten(0, 1)).view(items_RCI.shape[:2])

    def _of_request(self, shared_RQ: Tensor) -> Tensor:
        """The part of the first map that a request has alone, (R, M)."""
        if not shared_RQ.shape[1]:
            return self.of_request.bias.expand(shared_RQ.shape[0], -1)
        return self.of_request(shared_RQ)

    def _of_histories(
        self, weights: Sequence[Tensor], histories: Sequence[tuple[Tensor, Tensor]], request_RM: Tensor
    ) -> Tensor:
        """The part of the first map that is a sum over history slots, with that of the request: (R, C, M) or (R, 1, M).

        The request is one more slot of weight 1: a product with it costs less than another pass over (R, C, M).
        """
        if not weights:
            return request_RM[:, None]
        values = [
            attention.first(history_RTD)  # type: ignore[operator]
            for attention, (history_RTD, _) in zip(self.attentions, histories, strict=True)
        ]
        weights_RCT = F.pad(torch.cat(list(weights), dim=2), (0, 1), value=1.0)
        return weights_RCT @ torch.cat([*values, request_RM[:, None]], dim=1)

    def _x(self, inputs: RankedInputs, weights: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
        """The input of the interaction, (R, C, F)."""
        rows = inputs.items_RCI.shape[1]

        def of_all(shared_RQ: Tensor) -> Tensor:
            return shared_RQ[:, None].expand(-1, rows, -1)

        target = [inputs.items_RCI]
        if inputs.events_RE.shape[1]:
            target.append(of_all(inputs.events_RE))
        target_RCD = target[0] if len(target) == 1 else torch.cat(target, dim=2)
        pooled = [
            weights_RCT @ attention.value(history_RTD) + target_RCD  # type: ignore[operator]
            for attention, weights_RCT, (history_RTD, _) in zip(
                self.attentions, weights, inputs.histories, strict=False
            )
        ]
        context = [of_all(inputs.context_RQ)] if inputs.context_RQ.shape[1] else []
        return torch.cat([*context, target_RCD, *pooled, *map(of_all, means)], dim=2)


def _mean(vectors_RTD: Tensor, mask_RT: Tensor) -> Tensor:
    """The mean of the real items of a history, (R, D); 0 of none."""
    return vectors_RTD.sum(dim=1) / mask_RT.sum(dim=1, keepdim=True).clamp(min=1)
