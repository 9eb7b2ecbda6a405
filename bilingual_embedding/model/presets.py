"""Sizes of the encoder: its configuration, the named presets and the exact parameter count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fuxictr_multimodal.errors import ConfigError, did_you_mean

POSITIONS = ("alibi", "learned")
BLOCKS = ("post_norm", "zero_start")
POOLINGS = ("mean", "weighted")
LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of an encoder; symbols of arXiv 2402.17016 in brackets.

    Attributes:
        vocabulary_size: [V] rows of the token table.
        hidden: [H] width of a token.
        inner: [I] width inside the feed-forward part.
        layers: [L] number of blocks; 0 for the mean of the token vectors.
        heads: attention heads; divides `hidden`.
        max_length: tokens of the longest input.
        dropout: on the embedding and on both outputs of a block. NOTE[DIFF] attention weights have none, so that
            every backend computes the same.
        query_key_norm: LayerNorm on queries and keys over all heads at once (the Spanish model).
        positions: `alibi`, or `learned` for one trained vector a position, the control of the ablation.
        blocks: `post_norm` as published, or `zero_start`: LayerNorm inside the residual branches, whose last maps start
            at zero, so that an encoder starts as the mean of its token vectors (after arXiv 2003.04887).
        pooling: `mean` of a text's token vectors as published, or `weighted` by a learnt number a token that starts at
            the token's inverse document frequency.
        ngram_buckets: [G] rows of the table of hashed character n-grams; 0 for an encoder without that channel.
        ngram_width: [W] width of an n-gram's vector.
    """

    vocabulary_size: int
    hidden: int
    inner: int
    layers: int
    heads: int
    max_length: int = 8192
    dropout: float = 0.1
    query_key_norm: bool = False
    positions: str = "alibi"
    blocks: str = "post_norm"
    pooling: str = "mean"
    ngram_buckets: int = 0
    ngram_width: int = 0

    def __post_init__(self) -> None:
        least = {"vocabulary_size": 1, "hidden": 1, "inner": 1, "layers": 0, "heads": 1, "max_length": 1}
        for name, lowest in {**least, "ngram_buckets": 0, "ngram_width": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= LARGEST:
                raise ConfigError(
                    f"{name} must be a whole number from {lowest} to {LARGEST}, found {str(value)[:80]!r}"
                )
        if not isinstance(self.dropout, int | float) or not isinstance(self.query_key_norm, bool):
            raise ConfigError("dropout must be a number, and query_key_norm true or false")
        if self.hidden % self.heads:
            raise ConfigError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.positions not in POSITIONS:
            hint = did_you_mean(str(self.positions), POSITIONS)
            raise ConfigError(f"positions {self.positions!r} is unknown. {hint}")
        if self.blocks not in BLOCKS:
            raise ConfigError(f"blocks {self.blocks!r} is unknown. {did_you_mean(str(self.blocks), BLOCKS)}")
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling {self.pooling!r} is unknown. {did_you_mean(str(self.pooling), POOLINGS)}")
        if (self.ngram_buckets > 0) != (self.ngram_width > 0):
            raise ConfigError("ngram_buckets and ngram_width must both be 0 or both be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be from 0 to below 1, found {self.dropout!r}")

    @property
    def width(self) -> int:
        """Width of a text's vector."""
        return self.hidden + self.ngram_width

    @property
    def parameters(self) -> int:
        """Exact number of parameters, the pooler counted though mean pooling is used.

        V H + 4H + L [4(H^2 + H) + 2H + 2HI + IH + H + 2H (+ 4H with query-key norm)] + H^2 + H
        (+ H a position when they are learned, + V with weighted pooling, + G W + 1 with n-grams).

        >>> PRESETS["base-es"].parameters
        160850688
        """
        h, inner = self.hidden, self.inner
        block = 4 * (h * h + h) + 2 * h + 3 * h * inner + h + 2 * h + (4 * h if self.query_key_norm else 0)
        positions = self.max_length * h if self.positions == "learned" else 0
        ngrams = self.ngram_buckets * self.ngram_width + 1 if self.ngram_buckets else 0
        weights = self.vocabulary_size if self.pooling == "weighted" else 0
        return self.vocabulary_size * h + 4 * h + self.layers * block + h * h + h + positions + weights + ngrams

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of one token's matrix products in a forward pass, attention scores left out."""
        return 2 * self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)


def _published(vocabulary_size: int, *, query_key_norm: bool = False) -> EncoderConfig:
    return EncoderConfig(
        vocabulary_size=vocabulary_size, hidden=768, inner=3072, layers=12, heads=12, query_key_norm=query_key_norm
    )


_STATIC = EncoderConfig(
    vocabulary_size=12_288,
    hidden=256,
    inner=1,
    layers=0,
    heads=1,
    blocks="zero_start",
    pooling="weighted",
    ngram_buckets=32_768,
    ngram_width=128,
)
PRESETS = {
    "nano": EncoderConfig(vocabulary_size=512, hidden=32, inner=64, layers=2, heads=2, max_length=256, dropout=0.0),
    "static": _STATIC,
    "static-tiny": replace(_STATIC, inner=512, layers=2, heads=4),
    "tiny": EncoderConfig(vocabulary_size=12_288, hidden=256, inner=512, layers=2, heads=4),
    "mini": EncoderConfig(vocabulary_size=24_576, hidden=384, inner=1024, layers=4, heads=6),
    "small-en": EncoderConfig(vocabulary_size=30_528, hidden=512, inner=2048, layers=4, heads=8),
    "base-en": _published(30_528),
    "base-de": _published(61_056),
    "base-es": _published(61_056, query_key_norm=True),
}


def preset(
    name: str,
    *,
    vocabulary_size: int | None = None,
    max_length: int | None = None,
    dropout: float | None = None,
    positions: str | None = None,
) -> EncoderConfig:
    """A named size; values other than None replace the preset's.

    Raises:
        ConfigError: an unknown name (nearest given) or a bad value.

    >>> preset("tiny", dropout=0.0).hidden
    256
    """
    if name not in PRESETS:
        raise ConfigError(f"encoder preset {name!r} is unknown. {did_you_mean(name, PRESETS)}")
    changes: dict[str, Any] = {
        "vocabulary_size": vocabulary_size, "max_length": max_length, "dropout": dropout, "positions": positions,
    }  # fmt: skip
    return replace(PRESETS[name], **{key: value for key, value in changes.items() if value is not None})
