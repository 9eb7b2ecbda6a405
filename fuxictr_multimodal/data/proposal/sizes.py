"""Sizes that fit a dataset: rules from its counts to batch, widths, regularisers and epochs.

The rules pass through the settings that searches by hand ended at: on 80,000 samples of MovieLens batches of 1024 and
embeddings of 16 (results/protocol_MovieLens.md), on 3.6 million samples of MicroLens batches of 8192 and embeddings of
128, as published. The L2 weight of embeddings falls from 1e-2 to 1e-4 between the two. Where users are new at test
time, ids tell less and a stronger one pays: 1e-1 on 64,000 samples of MicroLens_50k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

REFERENCE_ROWS = 80_000
# From 80,000 samples to 3.6 million, both the batch and the embedding grow eightfold, and L2 falls a hundredfold.
GROWTH = 0.55
DECAY = 1.2
# Where users are new it falls faster, until both are the same at 800,000 samples: with 64,000 of MicroLens_50k 1.2e-1
# is best, with 81,000 of every interaction there 1e-2 to 1e-1; with 394,000 5e-4 is far ahead of 2e-2 after two epochs.
NEW_USERS_ROWS = 64_000
NEW_USERS_DECAY = 2.0
# Numbers of one embedding table: with gradient and Adam's moments it takes four times that in float32.
MOST_WEIGHTS = 2**28
LARGE_ROWS = 1_000_000
MIDDLE_ROWS = 300_000
SMALL_ROWS = 20_000


class Counted(Protocol):
    """Counts of a dataset: of `Counts`, or of a dataset that is built."""

    @property
    def rows(self) -> int:
        """Samples of train."""

    @property
    def informative_rows(self) -> int:
        """Fewer of them where one of the labels is rare."""

    @property
    def items(self) -> int:
        """Items of the item table."""

    @property
    def known_users(self) -> float | None:
        """Fraction of the samples of valid whose user occurs in train; None where nobody knows."""


@dataclass(frozen=True)
class Counts:
    """What is known of a dataset before it is built."""

    rows: int
    items: int = 0
    known_users: float | None = None

    @property
    def informative_rows(self) -> int:
        """All of them: how many labels are positive is not known yet."""
        return max(1, self.rows)


def new_users(counts: Counted) -> bool:
    """Whether most samples of valid have users that train does not know."""
    return counts.known_users is not None and counts.known_users < 0.5


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
        embedding_regularizer: L2 weight of embeddings, to start from.
        regularizer: the least and the largest to search.
        learning_rate: the least and the largest.
        num_layers: quadratic layers of QIN.
        net_dropout: of its network.
        cpu_threads: threads of a run on the CPU, or None for PyTorch's number.
    """

    batch_sizes: tuple[int, ...]
    embedding_dims: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    attention_dim: int
    epochs: int
    patience: int
    embedding_regularizer: float
    regularizer: tuple[float, float]
    learning_rate: tuple[float, float]
    num_layers: int
    net_dropout: float
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
    def of(cls, counts: Counted) -> Sizes:
        """The rules."""
        rows = counts.informative_rows
        factor = (rows / REFERENCE_ROWS) ** GROWTH
        # An epoch has at least thirty steps, or else small data is hardly trained on.
        most_batch = _power_below(max(32, counts.rows / 30))
        batch = min(_power(1024 * factor, 64, 8192), most_batch)
        widest = _power_below(max(4, MOST_WEIGHTS / max(1, counts.items)))
        dim = min(_power(16 * factor, 8, 128), widest)
        wide, narrow, middle = rows >= LARGE_ROWS, rows < SMALL_ROWS, rows >= MIDDLE_ROWS
        if wide:
            widths: tuple[tuple[int, ...], ...] = ((256, 128), (512, 256, 128), (1024, 512, 256))
        elif narrow:
            widths = ((32,), (64, 32), (128, 64))
        else:
            widths = ((64,), (128, 64), (256, 128, 64))
        new = new_users(counts)
        start, regularizer = _penalties(rows, new=new)
        return cls(
            batch_sizes=_around(batch, 32, min(8192, most_batch)),
            embedding_dims=_around(dim, 4, min(128, widest)),
            widths=widths,
            attention_dim=128 if wide else 32,
            # With a strong penalty training is slow.
            epochs=10 if middle else 20 if narrow or new else 12,
            patience=4 if narrow else 2 if middle else 3,
            embedding_regularizer=start,
            regularizer=regularizer,
            learning_rate=(3e-4, 3e-3),
            # Where users are new, further layers overfit.
            num_layers=1 if new and not wide else 3 if middle else 2,
            net_dropout=0.4 if new and not wide else 0.1 if middle else 0.3,
            cpu_threads=None if middle else 1,
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


def _penalties(rows: int, *, new: bool) -> tuple[float, tuple[float, float]]:
    """L2 weight of embeddings to start from, and the least and the largest to search."""
    strongest = _one_digit(3e-2 * math.sqrt(min(1.0, REFERENCE_ROWS / rows)))
    least = _one_digit(strongest / 1000)
    start = max(_one_digit(1e-2 * min(1.0, REFERENCE_ROWS / rows) ** DECAY), least)
    if not new:
        return start, (least, strongest)
    start = max(_one_digit(1e-1 * min(1.0, NEW_USERS_ROWS / rows) ** NEW_USERS_DECAY), start)
    return start, (_one_digit(start / 10), 3e-1 if rows < MIDDLE_ROWS else max(_one_digit(10 * start), strongest))


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
