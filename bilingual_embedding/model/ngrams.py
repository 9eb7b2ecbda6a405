"""Hashed character n-grams as a second channel of the encoder: what a text shares letter by letter, names and numbers.

Legend: N texts, M n-grams of all of them, G buckets, W width.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths

SHORTEST, LONGEST = 3, 5
LONGEST_PIECE = 64  # characters of a word that are hashed, and kept, together: some scripts have no spaces
KEPT_WORDS = 200_000
SHORTEST_SUM = 1e-2  # below it a sum is not stretched, since its gradient would drown all others
ROW_SIZE = 0.3  # length of an average row at the start, that of a row of 256 random numbers of 0.02


class NgramHasher:
    """Texts to n-grams of 3 to 5 characters within a word and its two spaces, as scikit-learn's `char_wb`, hashed.

    Args:
        buckets: values are from 0 to this.
    """

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self._of_word: dict[str, NDArray[np.int32]] = {}

    def hash(self, texts: Sequence[str], *, max_words: int) -> JaggedArrays:
        """N-grams of the first `max_words` words of each text, lowercased.

        >>> NgramHasher(1000).hash(["a cat", "", "CAT"], max_words=9).offsets.tolist()
        [0, 7, 7, 13]
        """
        rows = [self._of_text(text, max_words) for text in texts]
        values = np.concatenate([np.zeros(0, dtype=np.int32), *rows])
        return JaggedArrays(values, offsets_from_lengths([len(row) for row in rows]))

    def _of_text(self, text: str, max_words: int) -> NDArray[np.int32]:
        words = unicodedata.normalize("NFC", text).lower().split(maxsplit=max_words)[:max_words]
        pieces = [word[i : i + LONGEST_PIECE] for word in words for i in range(0, len(word), LONGEST_PIECE)]
        found = [self._word(piece) for piece in pieces[:max_words]]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int32)

    def _word(self, word: str) -> NDArray[np.int32]:
        known = self._of_word.get(word)
        if known is None:
            framed = f" {word} "
            sizes = range(SHORTEST, min(LONGEST, len(framed)) + 1)
            grams = [framed[i : i + size] for size in sizes for i in range(len(framed) - size + 1)]
            known = np.array([zlib.crc32(gram.encode()) % self.buckets for gram in grams], dtype=np.int32)
            if len(self._of_word) < KEPT_WORDS:
                self._of_word[word] = known
        return known


class NgramChannel(nn.Module):
    """Sum of the vectors of a text's n-grams, brought to a learnt length that is the same for all texts.

    Args:
        buckets: [G] rows of the table.
        width: [W] of a vector.
    """

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(buckets, width, mode="sum")
        self.log_length = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.table.weight, std=ROW_SIZE / width**0.5)

    def forward(self, values_M: Tensor, starts_N: Tensor) -> Tensor:
        """(N, W) float32; zero for a text without n-grams, and shorter where their sum is all but zero."""
        return self.log_length.exp() * F.normalize(self.table(values_M, starts_N).float(), dim=-1, eps=SHORTEST_SUM)

    @torch.no_grad()
    def start_as_tfidf(self, ngrams: JaggedArrays, *, seed: int) -> None:
        """Make the channel TF-IDF reduced by truncated SVD, both fitted on some texts: row g is idf_g V_g.

        The sum of such rows is the text's projection, so cosines are those of TF-IDF in the first W components.

        Args:
            ngrams: of the texts, on which training starts.
            seed: of the randomised SVD.
        """
        import scipy.sparse as sparse
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        buckets, width = self.table.weight.shape
        shape = (len(ngrams.offsets) - 1, buckets)
        ones = np.ones(len(ngrams.values), dtype=np.float32)
        # A copy, since adding up doubles sorts in place.
        counts = sparse.csr_matrix((ones, ngrams.values, ngrams.offsets), shape=shape, copy=True)
        counts.sum_duplicates()
        tfidf = TfidfTransformer()
        weighted = tfidf.fit_transform(counts)
        svd = TruncatedSVD(min(width, *shape), n_iter=2, random_state=seed).fit(weighted)
        rows = np.zeros((buckets, width), dtype=np.float32)
        rows[:, : len(svd.components_)] = (svd.components_ * tfidf.idf_).T
        scale = ROW_SIZE / max(float(np.sqrt(np.square(rows).sum(axis=1).mean())), 1e-9)
        self.table.weight.copy_(torch.from_numpy(rows * scale))
