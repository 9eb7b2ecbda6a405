"""Codes of tokens by FuxiCTR's vocabularies, for whole columns at once: value by value what its `Tokenizer` gives."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from fuxictr.preprocess.tokenizer import Tokenizer
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import places_in_rows, row_numbers

TOKEN = "token"
MOST_INT64 = 2**63 - 1


class TokenCodes:
    """A fitted tokenizer as a table that columns are joined with.

    FuxiCTR looks every value up in a dictionary, in a loop over samples; a join gives the same codes about ten times
    faster.

    Args:
        tokenizer: with its final vocabulary.
        integers: whether tokens are whole numbers, as in a category of `dtype: int`; else text.
    """

    def __init__(self, tokenizer: Tokenizer, *, integers: bool) -> None:
        self._tokenizer = tokenizer
        kind = int if integers else str
        known = {token: code for token, code in tokenizer.vocab.items() if isinstance(token, kind)}
        wide = any(isinstance(token, int) and abs(token) > MOST_INT64 for token in known)
        self._dtype = (pl.Int128 if wide else pl.Int64) if integers else pl.String
        self._table = pl.DataFrame(
            {TOKEN: list(known), "code": list(known.values())}, schema={TOKEN: self._dtype, "code": pl.Int32}
        )

    def of_categories(self, values: pl.Series) -> NDArray[np.int32]:
        """The code of each value, (rows,); that of `__OOV__` for what is not in the vocabulary."""
        tokens = values.cast(self._dtype, strict=False).to_frame(TOKEN)
        codes = tokens.join(self._table, on=TOKEN, how="left", maintain_order="left")["code"]
        return codes.fill_null(self._tokenizer.vocab["__OOV__"]).to_numpy(writable=True)

    def of_sequences(self, values: pl.Series) -> NDArray[np.int32]:
        """The codes of each text's tokens, (rows, max_len), cut and padded as the tokenizer says."""
        tokenizer, width = self._tokenizer, self._tokenizer.max_len
        tokens = values.str.split(tokenizer._splitter)
        lengths = tokens.list.len().to_numpy().astype(np.int64)
        flat = exploded(tokens.to_frame())[values.name]
        codes = self.of_categories(flat)
        if isinstance(tokenizer._na_value, str):
            codes = np.where((flat == tokenizer._na_value).to_numpy(), np.int32(tokenizer.vocab["__PAD__"]), codes)
        slots = places_in_rows(lengths)
        if tokenizer.padding == "pre":
            slots += width - np.repeat(lengths, lengths)
        padded = np.full((len(values), width), tokenizer.vocab["__PAD__"], dtype=np.int32)
        kept = (slots >= 0) & (slots < width)
        padded[row_numbers(lengths)[kept], slots[kept]] = codes[kept]
        return padded


def exploded(lists: pl.DataFrame) -> pl.DataFrame:
    """One row a token; the first column holds lists, none of them empty."""
    with warnings.catch_warnings():
        # Polars 2 will treat empty lists, of which there are none, in another way.
        warnings.filterwarnings("ignore", message="In Polars 2.0", category=DeprecationWarning)
        return lists.explode(lists.columns[0])
