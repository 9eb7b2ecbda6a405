"""Sizes that fit a dataset: rules from its counts to batch, widths, regularisers and epochs.

The rules pass through the settings that searches by hand ended at: on 80,000 samples of MovieLens batches of 1024 and
embeddings of 16 (results/protocol_MovieLens.md), on 3.6 million samples of MicroLens batches of 8192 and embeddings of
128, as published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fuxictr_multimodal.comparison.budgeted.shape import Shape

REFERENCE_ROWS = 80_000
# From 80,000 samples to 3.6 million, both the batch and the embedding grow eightfold.
GROWTH = 0.55
# Numbers of one embedding table: with gradient and Adam's moments it takes four times that in float32.
MOST_WEIGHTS = 2**28
LARGE_ROWS = 1_000_000
SMALL_ROWS = 20_000


@dataclass(frozen=True)
class Sizes:
    """Values to start from, and values to search.

    Attributes:
        batch_size: in the middle of `batch_sizes`.
        embedding_dim: in the middle of `embedding_dims`.
        hidden_units: in the middle of `widths`.
        attention_dim: of models that attend to histories.
        epochs: at most.
        patience: evaluations without a gain until training stops.
        regularizer: L2 weights of embeddings, the least and the largest.
        learning_rate: the least and the largest.
        cpu_threads: threads of a run on the CPU, or None for PyTorch's number.
    """

    batch_sizes: tuple[int, ...]
    embedding_dims: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    attention_dim: int
    epochs: int
    patience: int
    regularizer: tuple[float, float]
    learning_rate: tuple[float, float]
    cpu_threads: int | None

    @property
    def batch_size(self) -> int:
        """The middle one."""
        return self.batch_sizes[len(self.batch_sizes) // 2]

    @property
    def embedding_dim(self) -> int:
        """The middle one."""
        return self.embedding_dims[len(self.embedding_dims) // 2]

    @property
    def hidden_units(self) -> list[int]:
        """The middle ones."""
        return list(self.widths[len(self.widths) // 2])

    @classmethod
    def of(cls, shape: Shape) -> Sizes:
        """The rules."""
        rows = shape.informative_rows
        factor = (rows / REFERENCE_ROWS) ** GROWTH
        # An epoch has at least thirty steps, or else small data is hardly trained on.
        most_batch = _power_below(max(32, shape.rows / 30))
        batch = min(_power(1024 * factor, 64, 8192), most_batch)
        widest = _power_below(max(4, MOST_WEIGHTS / max(1, shape.items)))
        dim = min(_power(16 * factor, 8, 128), widest)
        wide, narrow = rows >= LARGE_ROWS, rows < SMALL_ROWS
        if wide:
            widths: tuple[tuple[int, ...], ...] = ((256, 128), (512, 256, 128), (1024, 512, 256))
        elif narrow:
            widths = ((32,), (64, 32), (128, 64))
        else:
            widths = ((64,), (128, 64), (256, 128, 64))
        strongest = _one_digit(3e-2 * math.sqrt(min(1.0, REFERENCE_ROWS / rows)))
        return cls(
            batch_sizes=_around(batch, 32, min(8192, most_batch)),
            embedding_dims=_around(dim, 4, min(128, widest)),
            widths=widths,
            attention_dim=128 if wide else 32,
            epochs=20 if narrow else 12 if rows < 300_000 else 10,
            patience=4 if narrow else 3 if rows < 300_000 else 2,
            regularizer=(_one_digit(strongest / 1000), strongest),
            learning_rate=(3e-4, 3e-3),
            cpu_threads=None if rows >= 300_000 else 1,
        )

    def space(self) -> dict[str, Any]:
        """The search space that all models share, in the form of a tuner file."""
        least, most = self.regularizer
        slow, fast = self.learning_rate
        return {
            "learning_rate": {"low": slow, "high": fast, "log": True},
            "embedding_regularizer": {"low": least, "high": most, "log": True},
            "net_regularizer": {"low": 1e-8, "high": 1e-4, "log": True},
            "net_dropout": {"low": 0.0, "high": 0.5},
            "batch_norm": [True, False],
            "batch_size": list(self.batch_sizes),
            "embedding_dim": list(self.embedding_dims),
            "num_layers": {"low": 1, "high": 4},
            "hidden_units": [list(widths) for widths in self.widths],
        }


def _power(value: float, least: int, most: int) -> int:
    """The nearest power of two within bounds."""
    return int(min(max(2 ** round(math.log2(value)), least), most))


def _power_below(value: float) -> int:
    return int(2 ** math.floor(math.log2(value)))


def _around(value: int, least: int, most: int) -> tuple[int, ...]:
    """Half of it, itself and twice it, within bounds."""
    return tuple(sorted({max(value // 2, least), value, min(value * 2, most)} | {value}))


def _one_digit(value: float) -> float:
    """A number as one writes it.

    >>> _one_digit(0.0314), _one_digit(4.47e-3)
    (0.03, 0.004)
    """
    return float(f"{value:.0e}")
