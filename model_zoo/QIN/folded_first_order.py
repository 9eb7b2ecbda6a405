"""First-order terms split by what they read: an item alone, a request alone, or both.

Shape legend: R requests, C candidates, B rows, n values of a term, V values of a feature or of a cross.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model_zoo.QIN.first_order import FirstOrder, crossed_values


class Terms(nn.Module):
    """The sum of the weights of some terms, as scoring reads them.

    Args:
        terms: trained.
        names: which of them.
    """

    def __init__(self, terms: FirstOrder, names: Sequence[str]) -> None:
        super().__init__()
        weight_V1 = terms.scoring_weights[0].detach()
        self.factors = {name: dict(terms.factors[name]) for name in names}
        for number, name in enumerate(names):
            # Row 0 of every term is padding.
            self.register_buffer(f"weight_{number}", torch.cat([weight_V1[:1] * 0, weight_V1[terms.rows[name]]]))

    def forward(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Sums (B,) of the codes (B, ...) of features."""
        parts = [
            nn.functional.embedding(crossed_values(ids, sizes), getattr(self, f"weight_{number}")).sum(dim=(1, 2))
            for number, sizes in enumerate(self.factors.values())
        ]
        return torch.stack(parts).sum(dim=0)


class FoldedFirstOrder(nn.Module):
    """`FirstOrder` for ranking.

    Args:
        terms: trained.
        items: names of the features of items.

    Attributes:
        of_items: the terms that read an item alone, one number an item; None where there are none.
        codes: features of items that are crossed with those of a request.
    """

    bias: Tensor

    def __init__(self, terms: FirstOrder, items: Sequence[str]) -> None:
        super().__init__()

        def chosen(*, request: bool, item: bool) -> Terms | None:
            names = [
                term
                for term, sizes in terms.factors.items()
                if any(name not in items for name in sizes) == request and any(name in items for name in sizes) == item
            ]
            return Terms(terms, names) if names else None

        self.of_items = chosen(request=False, item=True)
        self.of_request = chosen(request=True, item=False)
        self.of_both = chosen(request=True, item=True)
        self.register_buffer("bias", terms.scoring_weights[1].detach().clone())
        crossed = [] if self.of_both is None else [name for f in self.of_both.factors.values() for name in f]
        self.codes = tuple(name for name in items if name in crossed)

    def forward(self, columns: Mapping[str, Tensor], items_RC: Tensor | None, codes: Mapping[str, Tensor]) -> Tensor:
        """The terms' logits, (R, C), or (R, 1) where candidates share them.

        Args:
            columns: codes of the request by feature, (R, ...).
            items_RC: `of_items` of the candidates, or None.
            codes: of the candidates by feature, (R, C, ...).
        """
        total = self.bias[None]
        if self.of_request is not None:
            total = total + self.of_request(columns)[:, None]
        if items_RC is not None:
            total = total + items_RC
        if self.of_both is not None:
            requests, candidates = next(iter(codes.values())).shape[:2]
            shared = {name for sizes in self.of_both.factors.values() for name in sizes} - codes.keys()
            ids = {name: values.flatten(0, 1) for name, values in codes.items()}
            for name in shared:
                values = columns[name].reshape(requests, 1, -1)
                ids[name] = values.expand(-1, candidates, -1).flatten(0, 1)
            total = total + self.of_both(ids).view(requests, candidates)
        return total
