"""Batches from the loader to a model: ids, jagged histories and context features.

Shape legend: B rows, T padded history slots, N history items of all rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fuxictr_multimodal.data import jagged


@dataclass(frozen=True)
class Jagged:
    """Rows of different lengths, stored end to end without padding.

    `values` (N,) holds row b at `values[offsets[b]:offsets[b + 1]]`; `offsets` (B + 1,) is int64 and starts at 0.
    `events` are more columns of the same rows by name, each (N,): what is known of each value, such as its age. They
    move along with the values.

    >>> rows = Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3]), {"age": torch.tensor([3, 1, 2])})
    >>> rows.lengths.tolist()
    [2, 0, 1]
    >>> rows.to_padded().tolist()
    [[7, 8], [0, 0], [0, 9]]
    >>> rows.event("age").to_padded().tolist()
    [[3, 1], [0, 0], [0, 2]]
    """

    values: Tensor
    offsets: Tensor
    events: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor, events: Mapping[str, Tensor] | None = None) -> Jagged:
        """Rows that hold `lengths` (B,) of the values each, in their order."""
        return cls(values, F.pad(lengths.cumsum(0), (1, 0)), events or {})

    @classmethod
    def empty(cls, rows: int) -> Jagged:
        """Rows without a value, on the host."""
        return cls(torch.empty(0, dtype=torch.int32), torch.zeros(rows + 1, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Items of each row, (B,) int64."""
        return self.offsets.diff()

    def event(self, name: str) -> Jagged:
        """The same rows with one column of events as their values."""
        return Jagged(self.events[name], self.offsets)

    def row_index(self) -> Tensor:
        """The row that each value belongs to, (N,) int64."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=len(self.values))

    def to_padded(self, length: int | None = None) -> Tensor:
        """Return (B, T) with zeros on the left and the newest item last; T is the longest row, or `length`.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        width = longest if length is None else length
        if longest > width:
            raise ValueError(f"a row has {longest} items, more than the {width} requested slots")
        padded = self.values.new_zeros(len(self), width)
        rows = self.row_index()
        # A value's distance to the end of its row is its distance to the right edge.
        slots = width - (self.offsets[1:][rows] - torch.arange(len(self.values), device=rows.device))
        padded[rows, slots] = self.values
        return padded

    def take(self, rows: Tensor | range) -> Jagged:
        """The given rows, in the given order; a range of step 1 shares memory with `self.values`.

        `offsets` may stay on the host while `values` are on a device: then nothing here waits for the device.

        >>> rows = Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3]))
        >>> rows.take(torch.tensor([2, 1, 0])).values.tolist()
        [9, 7, 8]
        """
        if isinstance(rows, range):
            offsets = self.offsets[rows.start : rows.stop + 1]
            span = slice(int(offsets[0]), int(offsets[-1]))
            return self._with(offsets - offsets[0], lambda column: column[span])._together()
        starts = _take(self.offsets, rows)
        return self._gather(starts, _take(self.offsets, rows + 1) - starts)

    def newest(self, length: int) -> Jagged:
        """The last `length` items of each row.

        >>> Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3])).newest(1).to_padded().tolist()
        [[8], [0], [9]]
        """
        lengths = self.lengths.clamp(max=length)
        if int(lengths.sum()) == len(self.values):
            return self
        return self._gather(self.offsets[1:] - lengths, lengths)

    def offsets_where(self, keep_N: Tensor) -> Tensor:
        """Offsets of the same rows with only the values that are kept, (B + 1,).

        >>> rows = Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3]))
        >>> rows.offsets_where(torch.tensor([False, True, True])).tolist()
        [0, 1, 1, 2]
        """
        return F.pad(keep_N.cumsum(0), (1, 0))[self.offsets]

    def _gather(self, starts: Tensor, lengths: Tensor) -> Jagged:
        """Rows that begin at `starts` (R,) and hold `lengths` (R,) values."""
        device = self.values.device
        if device.type == "cpu":
            where, offsets = map(torch.from_numpy, jagged.slices(starts.numpy(), lengths.numpy()))
            return self._with(offsets, lambda column: _take(column, where))
        # The same on the device, without a wait where the offsets are on the host.
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        total = int(offsets[-1])
        where = torch.repeat_interleave(send(starts - offsets[:-1], device), send(lengths, device), output_size=total)
        where += torch.arange(total, device=device)
        return self._with(offsets, lambda column: column.index_select(0, where))._together()

    def _together(self) -> Jagged:
        return replace(self, offsets=send(self.offsets, self.values.device))

    def _with(self, offsets: Tensor, change: Callable[[Tensor], Tensor]) -> Jagged:
        """Rows of these offsets, with `change` done to the values and to every column of events."""
        return Jagged(change(self.values), offsets, {name: change(column) for name, column in self.events.items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Jagged:
        """The same rows on another device."""

        def move(values: Tensor) -> Tensor:
            return values.to(device, non_blocking=non_blocking)

        return self._with(move(self.offsets), move)


@dataclass(frozen=True)
class Share:
    """What part of a global batch a `Batch` is, where several processes train one model.

    Attributes:
        rows: of the batch that count; 0 where it holds stand-ins.
        of: rows of the global batch.
        longest: items of its longest history.
        mean_weight: of its samples, a scalar, or None without weights.
    """

    rows: int
    of: int
    longest: int = 0
    mean_weight: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one training or scoring step; only ids travel, item features live in an `ItemTable`.

    Attributes:
        features: context features, event features of the target, and labels by column name, (B,) or (B, T).
        target: item ids, (B,); all 0 in a dataset without items.
        history: ids of real history items, newest last, at most `max_len` of them a row; empty in a dataset without
            histories. Its events are the event features of the dataset.
        group: group id for grouped metrics, (B,), or None.
        behaviours: further kinds of history by name, such as carts beside clicks, each like `history`.
        weight: weight of each sample in the loss, (B,) float32, or None where the dataset has no weights.
        share: what part of a global batch these rows are; None where they are all of it.
        fold: fold of each sample's user, (B,), where item features depend on it, see `ItemTable.of_batch`; else None.
    """

    features: dict[str, Tensor]
    target: Tensor
    history: Jagged
    group: Tensor | None = None
    behaviours: Mapping[str, Jagged] = field(default_factory=dict)
    weight: Tensor | None = None
    share: Share | None = None
    fold: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def global_rows(self) -> int:
        """Rows of the global batch."""
        return len(self) if self.share is None else self.share.of

    def take(self, rows: Tensor | range) -> Batch:
        """The given rows, in the given order; `rows` is on the host, a range of step 1 gives views.

        Every tensor stays on its own device; only the offsets of histories join their values.
        """
        index: dict[torch.device, Tensor] = {}

        def pick(column: Tensor) -> Tensor:
            if isinstance(rows, range):
                return column[rows.start : rows.stop]
            if column.device not in index:
                index[column.device] = send(rows, column.device)
            return _take(column, index[column.device])

        return Batch(
            features={name: pick(column) for name, column in self.features.items()},
            target=pick(self.target),
            history=self.history.take(rows),
            group=None if self.group is None else pick(self.group),
            behaviours={name: rows_of.take(rows) for name, rows_of in self.behaviours.items()},
            weight=None if self.weight is None else pick(self.weight),
            fold=None if self.fold is None else pick(self.fold),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same rows on another device."""

        def move(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features={k: v.to(device, non_blocking=non_blocking) for k, v in self.features.items()},
            target=self.target.to(device, non_blocking=non_blocking),
            history=self.history.to(device, non_blocking=non_blocking),
            group=move(self.group),
            behaviours={k: v.to(device, non_blocking=non_blocking) for k, v in self.behaviours.items()},
            weight=move(self.weight),
            fold=move(self.fold),
        )


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]`; on the host with numpy, in one thread.

    torch would divide work of microseconds among all its threads, while the loader runs beside a model that keeps them
    busy: on two busy cores that made it 20 times slower.
    """
    if values.device.type != "cpu":
        return values.index_select(0, rows)
    return torch.from_numpy(values.numpy().take(rows.numpy(), axis=0))


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device, copied without waiting for what the device still has to do."""
    if values.device.type == device.type:
        return values
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def join(parts: Sequence[Batch]) -> Batch:
    """The rows of several batches with the same columns, end to end."""
    first = parts[0]
    return Batch(
        features={name: torch.cat([part.features[name] for part in parts]) for name in first.features},
        target=torch.cat([part.target for part in parts]),
        history=_join_jagged([part.history for part in parts]),
        group=_join_optional([part.group for part in parts]),
        behaviours={name: _join_jagged([part.behaviours[name] for part in parts]) for name in first.behaviours},
        weight=_join_optional([part.weight for part in parts]),
        fold=_join_optional([part.fold for part in parts]),
    )


def _join_jagged(parts: Sequence[Jagged]) -> Jagged:
    return Jagged.from_lengths(
        torch.cat([part.values for part in parts]),
        torch.cat([part.lengths for part in parts]),
        {name: torch.cat([part.events[name] for part in parts]) for name in parts[0].events},
    )


def _join_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
