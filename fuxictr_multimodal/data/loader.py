"""`MultimodalDataLoader`: batches of a split, from memory or streamed from disk.

Both modes give the same batches: the mode is a choice of speed and memory, never of results.
"""

from __future__ import annotations

import contextlib
import itertools
import numbers
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch, Jagged, join, send
from fuxictr_multimodal.data.order import Block, Window, shuffled_windows, stored_windows
from fuxictr_multimodal.data.prefetch import prefetch
from fuxictr_multimodal.data.shares import Picks, own_share
from fuxictr_multimodal.data.store import SplitReader, Store
from fuxictr_multimodal.data.store.ranges import Ranges
from fuxictr_multimodal.data.stored_columns import stored_columns
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.system.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

MODES = ("auto", "resident", "streaming")
# Batches made ahead: enough to hide a hiccup of the reader, few enough to cost no memory.
BATCHES_AHEAD = 4

# Cuts the rows of this process out of a global batch: rows in memory, and those of the batch.
ShareOf = Callable[[Batch, Picks], Batch]


class MultimodalDataLoader:
    """Batches of one split, in stored order or shuffled.

    Labels, weights and numbers are float32, ids int32 and meta columns as stored. Meta columns and the group id stay on
    the host, since nothing computes with them on a device and FuxiCTR calls `.numpy()` on them. Batches of an
    unshuffled resident loader share memory with it: do not write into them.

    A pass over a shuffled loader is one epoch, in an order that depends on the seed, the epoch and the dataset only:
    blocks of the split are visited in random order, `shuffle_window` of them are pooled, and the rows of a pool are
    shuffled (see `order.py`). With a window of all blocks an epoch is one permutation.

    Where several processes train one model, `batch_size` is that of all of them together. The `train` split yields this
    process's share of each global batch (see `shares.py`); every process holds, or streams, the whole split, since a
    shuffled batch has rows of all of it. Of the other splits a process reads and yields its contiguous part alone.

    Args:
        feature_map: names the columns: labels, features whose source is not `item`, and `group_id`. Those whose source
            is `event` are read of the histories too.
        data_path: `train.h5`, the folder `train` of parts, or either without its suffix.
        split: `train`, `valid` or `test`; only a test split may lack the labels.
        batch_size: rows of a batch; the last batch of a pass holds what is left, see `least_rows`.
        shuffle: whether the order of rows changes with every epoch.
        max_len: newest history items to keep; None keeps what the dataset holds, which is at most its own `max_len`.
        seed: of the shuffle, not negative.
        mode: `resident` keeps the split in memory, on a CUDA `device` if it takes at most a quarter of what is free
            there; `streaming` holds two windows; `auto` is resident if the split takes at most half of the free
            memory of the host.
        device: where batches are put.
        shuffle_window: blocks that are shuffled together.
        least_rows: what is left at the end of a pass joins the batch before it when it is fewer rows than this. The
            order of the rows is the same for every value. `Trainer` asks for 2 where a model cannot train on one row.
        ranks: the processes that train together, and which of them this is.
        store: the dataset of `data_path`: its build is read, wherever it lies. Without it, what the path names is.
        fuxictr_params: ignored; FuxiCTR passes every parameter of a run to its loader.

    Raises:
        ConfigError: an argument has no meaning.
        DataError: the split is missing, damaged, or lacks a column; a value is out of range (also while streaming).
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        data_path: str | Path,
        split: str = "train",
        batch_size: int = 32,
        shuffle: bool = False,
        *,
        max_len: int | None = None,
        seed: int = 0,
        mode: str = "auto",
        device: torch.device | str = "cpu",
        shuffle_window: int = 32,
        least_rows: int = 1,
        ranks: Ranks = ALONE,
        store: Store | None = None,
        **fuxictr_params: object,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"loader mode {mode!r} is unknown. {did_you_mean(str(mode), MODES)}")
        for name, value in (("batch_size", batch_size), ("shuffle_window", shuffle_window), ("least_rows", least_rows)):
            _check_integer(name, value, least=1)
        _check_integer("seed", seed, least=0)
        if max_len is not None:
            _check_integer("max_len", max_len, least=1)
        self.data_path = Path(data_path)
        self._store = store
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.max_len = max_len
        self.seed = seed
        self.device = torch.device(device)
        self.shuffle_window = shuffle_window
        self.least_rows = least_rows
        # Rows of a share, if it has any; `Trainer` asks for 2 where a model normalises over each share by itself.
        self.least_share = 1
        self.ranks = ranks
        self._dealt = ranks.several and split == "train"
        self._next = self._yielded = (0, 0)
        self._group = feature_map.group_id
        self._group_is_feature = self._group in feature_map.features
        self._label = feature_map.labels[0]
        self._labels = frozenset(feature_map.labels)
        meta = [name for name, spec in feature_map.features.items() if spec["type"] == "meta"]
        self._on_host = {*meta, self._group}
        with self._open() as reader:
            part = range(reader.rows) if self._dealt else ranks.part_of(reader.rows)
            self._blocks = _within(reader.blocks, part)
            self.num_samples = reader.rows
            self.own_samples = len(part)
            self._stored = stored_columns(reader, feature_map, split, self.data_path)
            self._ranges = Ranges.of(reader, feature_map)
            # Every process of this machine holds what it reads.
            held = reader.nbytes * len(part) // max(reader.rows, 1) * ranks.local_world_size
            self.mode = _choose_mode(held) if mode == "auto" else mode
            self._resident = self._keep(self._pool(reader, self._blocks)) if self.mode == "resident" else None

    def _open(self) -> SplitReader:
        if self._store is None:
            return SplitReader(self.data_path)
        return self._store.read(lambda folder: SplitReader(folder / self.data_path.name))

    @property
    def num_blocks(self) -> int:
        """Blocks of the split on disk."""
        return len(self._blocks)

    def __len__(self) -> int:
        """Batches of a whole pass."""
        full, left = divmod(self.own_samples, self.batch_size)
        joined = full > 0 and left < self.least_rows
        return full if joined or not left else full + 1

    def __iter__(self) -> Iterator[Batch]:
        """One pass: the next epoch of a shuffled loader, or what is left of it after `load_state_dict`."""
        epoch, batch = self._next
        self._next, self._yielded = (epoch + 1, 0), (epoch, batch)
        return self._pass(epoch, batch)

    def labels_and_groups(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels (rows,) and group ids (rows,), or None without a group column, of the whole split in stored order.

        No batch is made. Labels are those that metrics are of: the first of the feature map.
        """
        with self._open() as reader:
            groups = None if self._group is None else reader.read(self._group, 0, reader.rows)
            return self._ranges.read(reader, self._label, 0, reader.rows), groups

    def state_dict(self) -> dict[str, int]:
        """The epoch and the batch that come next, by what the latest pass has yielded."""
        epoch, batch = self._yielded
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass yield exactly what was still to come when `state` was taken.

        Raises:
            ConfigError: this loader has no such position.
        """
        epoch, batch = state["epoch"], state["batch"]
        _check_integer("epoch of the loader state", epoch, least=0)
        _check_integer("batch of the loader state", batch, least=0)
        if batch and batch >= len(self):
            raise ConfigError(
                f"the loader state is at batch {batch}, but a pass over {self.data_path} has {len(self)}: "
                "resume with the data and the batch_size of the interrupted run"
            )
        self._next = self._yielded = (epoch, batch)

    def _pass(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        batches = self._make(epoch, skip=first * self.batch_size)
        if self._resident is None or self._resident.target.device.type != self.device.type:
            batches = prefetch(batches, depth=BATCHES_AHEAD)
        with contextlib.closing(batches):
            for index, batch in enumerate(batches, start=first + 1):
                # Known before the consumer continues: it may ask for the state while it holds this batch.
                self._yielded = (epoch, index) if index < len(self) else (epoch + 1, 0)
                yield batch

    def _make(self, epoch: int, skip: int) -> Generator[Batch, None, None]:
        source = self._from_disk if self._resident is None else self._from_memory
        last = len(self) - skip // self.batch_size - 1
        rest = self.own_samples - skip - last * self.batch_size
        sizes = itertools.chain(itertools.repeat(self.batch_size, last), [rest])
        with contextlib.closing(source(epoch, skip)) as pooled:
            for batch in cut_batches(pooled, sizes, self._share if self._dealt else None):
                yield self._finish(batch)

    def _share(self, rows: Batch, picks: Picks) -> Batch:
        return own_share(rows, picks, self.ranks, least=self.least_share)

    def _windows(self, epoch: int, skip: int) -> Iterator[Window]:
        if not self.shuffle:
            return stored_windows(self._blocks, skip=skip)
        return shuffled_windows(self._blocks, seed=self.seed, epoch=epoch, window=self.shuffle_window, skip=skip)

    def _from_memory(self, epoch: int, skip: int) -> Generator[tuple[Batch, Picks], None, None]:
        assert self._resident is not None
        if not self.shuffle:
            yield self._resident, range(skip, self.own_samples)
            return
        for window in self._windows(epoch, skip):
            yield self._resident, window.rows()

    def _from_disk(self, epoch: int, skip: int) -> Generator[tuple[Batch, Picks], None, None]:
        def read() -> Generator[tuple[Batch, Picks], None, None]:
            with self._open() as reader:
                for window in self._windows(epoch, skip):
                    yield self._pool(reader, window.blocks), window.picks

        # One window is read while batches are cut from the one before: two in memory.
        return prefetch(read(), depth=1)

    def _pool(self, reader: SplitReader, blocks: Sequence[Block]) -> Batch:
        """The rows of some blocks, end to end, as one large batch in host memory."""
        rows = sum(stop - start for start, stop in blocks)
        stored = self._stored

        def column(name: str) -> Tensor:
            stored = reader.columns[name]
            pieces = (self._ranges.read(reader, name, start, stop) for start, stop in blocks)
            return _fill(np.empty((rows, *stored.shape), stored.dtype), pieces)

        def history(behaviour: str | None) -> Jagged:
            found = [self._read_history(reader, *block, behaviour) for block in blocks]
            lengths = torch.cat([block.lengths for block in found])
            values = [block.values.numpy() for block in found]
            events = {name: [block.events[name].numpy() for block in found] for name in self._stored.events}
            del found
            # Each block is let go as soon as it is copied, so the histories are never in memory twice.
            filled = {name: _fill_and_drop(pieces) for name, pieces in events.items()}
            return Jagged.from_lengths(_fill_and_drop(values), lengths, filled)

        # Histories first: the columns then take the memory in which their blocks were.
        if stored.target is None:
            found, behaviours = Jagged.empty(rows), {}
        else:
            found, behaviours = history(None), {name: history(name) for name in stored.behaviours}
        return Batch(
            features={name: column(name) for name in stored.columns},
            target=torch.zeros(rows, dtype=torch.int32) if stored.target is None else column(stored.target),
            history=found,
            behaviours=behaviours,
            weight=column(stored.weight) if stored.weight else None,
            fold=column(stored.fold) if stored.fold else None,
        )

    def _read_history(self, reader: SplitReader, start: int, stop: int, behaviour: str | None) -> Jagged:
        found = self._ranges.read_jagged(reader, start, stop, behaviour=behaviour, events=self._stored.events)
        events = {name: torch.from_numpy(values) for name, values in found.events.items()}
        history = Jagged(torch.from_numpy(found.values), torch.from_numpy(found.offsets), events)
        return history if self.max_len is None else history.newest(self.max_len)

    def _keep(self, rows: Batch) -> Batch:
        """The rows on the device if they leave it free enough; offsets stay on the host, see `Jagged.take`."""
        if self.device.type != "cuda":
            return rows
        features = {name: values for name, values in rows.features.items() if name not in self._on_host}
        jagged = (rows.history, *rows.behaviours.values())
        columns = [*features.values(), rows.target]
        columns += [column for one in jagged for column in (one.values, *one.events.values())]
        columns += [column for column in (rows.weight, rows.fold) if column is not None]
        if sum(values.nbytes for values in columns) > torch.cuda.mem_get_info(self.device)[0] // 4:
            return rows

        def keep(history: Jagged) -> Jagged:
            return replace(history.to(self.device), offsets=history.offsets)

        return Batch(
            rows.features | {name: values.to(self.device) for name, values in features.items()},
            rows.target.to(self.device),
            keep(rows.history),
            behaviours={name: keep(history) for name, history in rows.behaviours.items()},
            weight=self._sent(rows.weight),
            fold=self._sent(rows.fold),
        )

    def _finish(self, batch: Batch) -> Batch:
        """The batch as it is yielded: on its device, labels float32, the group named."""
        features = {
            name: values if name in self._on_host else self._send(values) for name, values in batch.features.items()
        }
        for name in self._labels & features.keys():
            features[name] = features[name].float()
        group = None if self._group is None else features[self._group]
        if not self._group_is_feature:
            features.pop(self._group, None)
        return Batch(
            features,
            self._send(batch.target),
            self._send_jagged(batch.history),
            group,
            {name: self._send_jagged(history) for name, history in batch.behaviours.items()},
            self._sent(batch.weight),
            batch.share,
            self._sent(batch.fold),
        )

    def _sent(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else self._send(values)

    def _send_jagged(self, history: Jagged) -> Jagged:
        events = {name: self._send(column) for name, column in history.events.items()}
        return Jagged(self._send(history.values), self._send(history.offsets), events)

    def _send(self, values: Tensor) -> Tensor:
        return send(values, self.device)


def cut_batches(
    pooled: Iterable[tuple[Batch, Picks]], sizes: Iterable[int], share_of: ShareOf | None = None
) -> Generator[Batch, None, None]:
    """Cut picked rows of successive pools into batches; a batch may begin in one pool and end in another.

    Args:
        pooled: rows in memory, and the positions in them that come next.
        sizes: rows of each batch, together as many as there are picks.
        share_of: takes out of each batch what is yielded; by default all of it. Rows of others are copied only where a
            batch begins in one pool and ends in another.
    """
    wanted = iter(sizes)
    size = next(wanted, 0)
    started: Batch | None = None
    for rows, picks in pooled:
        at = 0
        while at < len(picks):
            have = 0 if started is None else len(started)
            chosen = picks[at : at + size - have]
            at += len(chosen)
            whole = have == 0 and len(chosen) == size
            if whole and share_of is not None:
                full = share_of(rows, chosen)
            else:
                piece = _take(rows, chosen)
                started = piece if started is None else join([started, piece])
                if len(started) < size:
                    continue
                full = started if share_of is None else share_of(started, range(size))
            # A full batch is not held back until the next pool is there.
            yield full
            started, size = None, next(wanted, 0)
        del rows


def _take(rows: Batch, picks: Picks) -> Batch:
    return rows.take(picks if isinstance(picks, range) else torch.from_numpy(picks))


def _fill_and_drop(pieces: list[np.ndarray]) -> Tensor:
    """The pieces end to end, int32; the list is emptied on the way."""
    filled = np.empty(sum(map(len, pieces)), np.int32)
    pieces.reverse()
    return _fill(filled, (pieces.pop() for _ in range(len(pieces))))


def _fill(filled: np.ndarray, pieces: Iterable[np.ndarray]) -> Tensor:
    """Copy the pieces end to end into `filled`; memory is only taken as they come."""
    at = 0
    for piece in pieces:
        filled[at : at + len(piece)] = piece
        at += len(piece)
    assert at == len(filled)
    return torch.from_numpy(filled)


def _choose_mode(nbytes: int) -> str:
    """Resident if what the processes of this machine hold takes at most half of its free memory."""
    return "resident" if nbytes <= psutil.virtual_memory().available // 2 else "streaming"


def _within(blocks: Iterable[Block], part: range) -> list[Block]:
    """What lies of the blocks within a part of the rows; one empty block where that is nothing."""
    cut = [(max(start, part.start), min(stop, part.stop)) for start, stop in blocks]
    return [block for block in cut if block[0] < block[1]] or [(part.start, part.start)]


def _check_integer(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}, but it must be an integer of at least {least}")
