"""Unpadded batches for the encoder: rows sorted by length, those of equal length side by side.

Legend: T tokens of the batch, N rows, n rows of one length l, D width.

Linear layers see (T, D) and do no work on padding. Rows of equal length are contiguous, so attention views them as
(n, l, D): there is neither padding nor a mask anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilingual_embedding.model.tokens import Numbers, TokenTable
from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of token rows.

    Attributes:
        ids_T: (T,) int64 tokens, rows in ascending length.
        groups: (rows n, length l) of each run of equal lengths.
        row_of_rank_N: (N,) which row of the caller comes at each place.
        token_order_T: (T,) which token of the caller's table comes at each place.
        ngrams: values (G,) and starts (N,) int64 of the rows' n-grams, rows as the caller gave them; None without.
    """

    ids_T: Tensor
    groups: tuple[tuple[int, int], ...]
    row_of_rank_N: Tensor
    token_order_T: Tensor
    ngrams: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_table(cls, table: TokenTable, device: torch.device | str = "cpu") -> Packed:
        """Pack every row of a table; rows hold at least one token.

        >>> packed = Packed.from_table(TokenTable.from_lists([[1, 5, 2], [1, 2], [1, 9, 2]]))
        >>> packed.ids_T.tolist(), packed.groups, packed.row_of_rank_N.tolist()
        ([1, 2, 1, 5, 2, 1, 9, 2], ((1, 2), (2, 3)), [1, 0, 2])
        """
        lengths = table.lengths
        assert len(lengths), "a batch has at least one row"
        assert lengths.min() > 0, "a row has at least one token"
        order = np.argsort(lengths, kind="stable")
        ordered = lengths[order]
        token_order = table.places(order)
        values, counts = np.unique(ordered, return_counts=True)
        ngrams = None
        if table.ngrams is not None:
            parts = (table.ngrams.values, table.ngrams.offsets[:-1])
            ngrams = (_longs(parts[0], device), _longs(parts[1], device))
        return cls(
            ids_T=torch.from_numpy(table.ids[token_order].astype(np.int64)).to(device),
            groups=tuple(zip(counts.tolist(), values.tolist(), strict=True)),
            row_of_rank_N=torch.from_numpy(order).to(device),
            token_order_T=torch.from_numpy(token_order).to(device),
            ngrams=ngrams,
        )

    @classmethod
    def from_padded(cls, ids_NL: Tensor, mask_NL: Tensor, ngrams_NM: Tensor | None = None) -> Packed:
        """Pack the real tokens of a padded batch, as sentence-transformers passes it; n-grams are padded with -1."""
        rows: list[Numbers] = [
            row[keep] for row, keep in zip(ids_NL.cpu().numpy(), mask_NL.bool().cpu().numpy(), strict=True)
        ]
        table = TokenTable.from_lists(rows)
        if ngrams_NM is not None:
            padded = ngrams_NM.cpu().numpy()
            offsets = offsets_from_lengths((padded >= 0).sum(axis=1))
            table = replace(table, ngrams=JaggedArrays(padded[padded >= 0], offsets))
        return cls.from_table(table, ids_NL.device)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.groups[-1][1]

    def split(self, values_TD: Tensor) -> list[Tensor]:
        """Views (n, l, D) of the groups; D stands for all trailing dimensions."""
        parts = values_TD.split([count * length for count, length in self.groups])
        return [part.unflatten(0, (count, length)) for part, (count, length) in zip(parts, self.groups, strict=True)]

    def positions_T(self) -> Tensor:
        """(T,) place of each token in its row, from 0."""
        device = self.ids_T.device
        return torch.cat([torch.arange(length, device=device).repeat(count) for count, length in self.groups])

    def mean_ND(self, states_TD: Tensor, weights_T: Tensor | None = None) -> Tensor:
        """(N, D) mean over each row's tokens, weighted or not, rows as the caller gave them; summed in float32."""
        parts = self.split(states_TD)
        if weights_T is None:
            means = torch.cat([part.float().mean(dim=1) for part in parts])
        else:
            fractions = [
                weights_nl / weights_nl.sum(dim=1, keepdim=True) for weights_nl in self.split(weights_T.float())
            ]
            pairs = zip(parts, fractions, strict=True)
            means = torch.cat([torch.einsum("nld,nl->nd", part.float(), fraction) for part, fraction in pairs])
        return means[torch.argsort(self.row_of_rank_N)]


def _longs(values: NDArray[np.integer], device: torch.device | str) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)
