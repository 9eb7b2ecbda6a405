"""The cost model of several GPUs: sums that can be done by hand, and what must hold at any size."""

import dataclasses
import math
from pathlib import Path

import pytest


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import _scaling

    return _scaling


@pytest.fixture
def machine(scaling):
    """Of round numbers: 4 devices a node."""
    return scaling.Machine(
        flops_per_s=1e12,
        memory=100e9,
        near_bytes_per_s=1e9,
        far_bytes_per_s=1e8,
        per_node=4,
        latency=1e-3,
        overhead=0.0,
        resident_rows_per_s=1e6,
        streaming_rows_per_s=5e5,
    )


def test_public_size_of_a_table(scaling):
    """10^10 rows of 64 float32 with row-wise Adagrad are 2.6 TB."""
    assert math.isclose(scaling.table_bytes(10**10, 64, "rowwise_adagrad"), 1e10 * 65 * 4)
    assert scaling.table_bytes(1000, 64, "adam") == 3 * scaling.table_bytes(1000, 64, "sgd") == 768_000


def test_step_of_two_devices_by_hand(scaling, machine):
    model = scaling.Model(flops=1e6, weights=1000, items=10, width=2, history=4)
    step = scaling.step(machine, model, rows=100, devices=2, design="sharded")
    assert math.isclose(step.compute, 100 * 1e6 / 1e12)
    assert math.isclose(step.load, 100 / 1e6)
    # Weights in a ring; half of 500 lookups leave the device: an id, a vector there and its gradient back.
    assert math.isclose(step.bytes_sent, 4000 + 0.5 * 500 * (8 + 2 * 8))
    assert math.isclose(step.exchange, step.bytes_sent / 1e9 + 4 * 1e-3)
    assert step.bottleneck == "exchange"
    assert math.isclose(step.rows_per_s, 200 / (1e-4 + step.exchange))


@pytest.mark.parametrize("design", ["dense", "rowwise", "sharded"])
def test_one_device_exchanges_nothing_and_other_nodes_are_further(scaling, machine, design):
    model = scaling.Model()
    alone, node, far = (scaling.step(machine, model, rows=512, devices=n, design=design) for n in (1, 4, 8))
    assert alone.exchange == alone.bytes_sent == 0
    assert far.exchange > 5 * node.exchange > 0


def test_what_each_design_sends(scaling):
    """A dense gradient is as large as the table, however many look up; shared rows grow with the devices."""
    model = dataclasses.replace(scaling.Model(), items=10**6)

    def sent(design, rows, devices):
        return scaling.table_bytes_sent(model, design, rows=rows, devices=devices)

    assert sent("dense", 1, 8) == sent("dense", 8192, 8) == 2 * 7 / 8 * 10**6 * 128 * 4
    assert math.isclose(sent("rowwise", 10, 9), 8 * sent("rowwise", 10, 2))
    assert sent("sharded", 10, 512) < 2 * sent("sharded", 10, 2) + 1


def test_reading_from_disk_bounds_all_devices_together(scaling, machine):
    steps = [scaling.step(machine, scaling.Model(), rows=512, devices=n, streaming=True) for n in (2, 64)]
    assert all(step.rows_per_s < machine.streaming_rows_per_s for step in steps)


def test_devices_for_a_table(scaling, machine):
    assert [scaling.devices_for(size, machine) for size in (1, 60e9, 61e9, 600e9)] == [1, 1, 2, 10]
