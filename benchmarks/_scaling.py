"""A cost model of data-parallel training: seconds of a step and bytes of a device, from constants of machine and model.

A step takes the longer of computing and loading, and then the exchange: nothing is hidden behind anything else, so a
run that overlaps them is faster. All bytes are those that one device sends in one step.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT, ID, OFFSET = 4, 4, 8  # bytes


@dataclass(frozen=True)
class Machine:
    """What a device, its host and its network can do; rates are those that are reached, not those of a data sheet.

    Attributes:
        flops_per_s: products of a device.
        memory: bytes of a device.
        near_bytes_per_s: that a device sends to others of its node.
        far_bytes_per_s: that a device sends to other nodes.
        per_node: devices of a node.
        latency: seconds of the smallest collective, for each doubling of the processes.
        overhead: seconds of the least step, however few its rows are: kernel launches, Python.
        resident_rows_per_s: of one process that takes its rows from memory.
        streaming_rows_per_s: of one process that reads every row from disk, whichever of them are its own.
    """

    flops_per_s: float
    memory: float
    near_bytes_per_s: float
    far_bytes_per_s: float
    per_node: int
    latency: float
    overhead: float
    resident_rows_per_s: float
    streaming_rows_per_s: float

    def bytes_per_s(self, devices: int) -> float:
        """The slowest link on the way between so many devices."""
        return self.near_bytes_per_s if devices <= self.per_node else self.far_bytes_per_s

    def wait(self, devices: int) -> float:
        """Seconds of the smallest collective."""
        return self.latency * max(devices - 1, 0).bit_length()


@dataclass(frozen=True)
class Model:
    """What a sample costs; the defaults are the published QIN on MicroLens_1M.

    Attributes:
        flops: of a sample, forward and backward.
        weights: parameters of the network, which every device holds.
        items: rows of the item table.
        width: of an item's embedding.
        content_width: of an item's pretrained vectors.
        history: mean number of history items.
        sample_bytes: of a sample on disk and in memory.
    """

    flops: float = 100.7e6
    weights: int = 17_998_853
    items: int = 91_718
    width: int = 128
    content_width: int = 128
    history: float = 9.5
    sample_bytes: float = 70.35

    @property
    def lookups(self) -> float:
        """Item rows of a sample: the target and its history, none of them counted once only."""
        return 1 + self.history


def all_reduced(numbers: float, devices: int) -> float:
    """Bytes that a device sends in a ring all-reduce of so many float32.

    >>> all_reduced(1000, 2), all_reduced(1000, 1)
    (4000.0, 0.0)
    """
    return 2 * (devices - 1) / devices * numbers * FLOAT


DESIGNS = ("dense", "rowwise", "sharded")


def table_bytes_sent(model: Model, design: str, *, rows: float, devices: int) -> float:
    """Bytes that a device sends for the item table in a step of `rows` samples a device.

    `dense`: the whole gradient is all-reduced. `rowwise`: each device sends the rows that it looked up to all others.
    `sharded`: ids go to the devices that hold their rows, vectors come back, and gradients go there.
    """
    looked_up, others = rows * model.lookups, devices - 1
    if design == "dense":
        return all_reduced(model.items * model.width, devices)
    if design == "rowwise":
        return others * min(looked_up, model.items) * (model.width * FLOAT + OFFSET)
    return others / devices * looked_up * (OFFSET + 2 * model.width * FLOAT)


@dataclass(frozen=True)
class Step:
    """Seconds of a step, by part.

    Attributes:
        compute: products, or their launches where these take longer.
        load: making the batch.
        exchange: of gradients and rows.
        rows: samples of a device.
        devices: their number.
        bytes_sent: by a device.
    """

    compute: float
    load: float
    exchange: float
    rows: float
    devices: int
    bytes_sent: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.compute, self.load) + self.exchange

    @property
    def rows_per_s(self) -> float:
        """Of all devices."""
        return self.rows * self.devices / self.seconds

    @property
    def bottleneck(self) -> str:
        """The longest part."""
        return max(("compute", "load", "exchange"), key=lambda name: getattr(self, name))


def step(
    machine: Machine, model: Model, *, rows: float, devices: int, design: str = "sharded", streaming: bool = False
) -> Step:
    """Predict a step.

    Args:
        machine: constants of the hardware.
        model: constants of the model.
        rows: samples of a device in a step.
        devices: that train together.
        design: of the item table, one of `DESIGNS`.
        streaming: whether every process reads the whole split from disk, else it holds it in memory.
    """
    sent = all_reduced(model.weights, devices)
    collectives = 1 + (3 if design == "sharded" else 1)
    sent += table_bytes_sent(model, design, rows=rows, devices=devices)
    exchange = sent / machine.bytes_per_s(devices) + collectives * machine.wait(devices)
    loaded = rows * devices / machine.streaming_rows_per_s if streaming else rows / machine.resident_rows_per_s
    return Step(
        compute=max(rows * model.flops / machine.flops_per_s, machine.overhead),
        load=loaded,
        exchange=exchange if devices > 1 else 0.0,
        rows=rows,
        devices=devices,
        bytes_sent=sent if devices > 1 else 0.0,
    )


# Numbers that an optimizer keeps for each row of width d, beside the row.
MOMENTS = {"sgd": lambda d: 0, "rowwise_adagrad": lambda d: 1, "adam": lambda d: 2 * d}


def table_bytes(items: float, width: int, optimizer: str) -> float:
    """Bytes of a float32 embedding table with its optimizer's state.

    >>> round(table_bytes(1e10, 64, "rowwise_adagrad") / 1e12, 2)
    2.6
    """
    return items * (width + MOMENTS[optimizer](width)) * FLOAT


def content_bytes(items: float, width: int) -> float:
    """Bytes of the item table of pretrained vectors and ids, which every device holds whole."""
    return items * (width * FLOAT + ID)


def devices_for(size: float, machine: Machine, *, share: float = 0.6) -> int:
    """Devices that hold `size` bytes in a share of their memory."""
    return int(-(-size // (machine.memory * share)))
