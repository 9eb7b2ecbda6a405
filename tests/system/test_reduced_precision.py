"""bfloat16 is chosen where it is faster, the choice is logged, and the measurement leaves the random state alone."""

import pytest
import torch

from fuxictr_multimodal.system import reduced_precision
from fuxictr_multimodal.system.reduced_precision import Choice, choose

CPU = torch.device("cpu")


@pytest.fixture
def speedup(monkeypatch):
    return lambda value: monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: value)


@pytest.mark.parametrize(("value", "used"), [(0.1, "float32"), (1.0, "float32"), (1.19, "float32"), (1.6, "bf16")])
def test_auto_takes_the_faster_one_and_says_so(speedup, caplog, value, used):
    caplog.set_level("INFO")
    speedup(value)
    choice = choose("auto", CPU, bfloat16="bf16")
    assert (choice.asked, choice.used) == ("auto", used)
    assert caplog.messages == [f"precision: {used} was chosen: {choice.why}"]


def test_a_configured_precision_is_used_with_a_warning_if_slow(speedup, caplog):
    speedup(0.1)
    why = "a linear layer in bfloat16 was measured 10.0 times slower than in float32 on this processor"
    assert choose("bfloat16", CPU, bfloat16="bfloat16") == Choice("bfloat16", "bfloat16", why)
    assert caplog.messages == [f"precision: bfloat16 is configured, but {why}; precision: auto chooses the faster one"]
    caplog.clear()
    speedup(1.6)
    assert choose("bfloat16", CPU, bfloat16="bfloat16").used == "bfloat16"
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_other_precisions_are_not_measured(monkeypatch, name):
    monkeypatch.setattr(reduced_precision, "cpu_speedup", None)
    assert choose(name, CPU, bfloat16="bf16") == Choice(name, name, "as configured")


@pytest.mark.parametrize(("supported", "used", "has"), [(True, "bf16", "has"), (False, "float32", "has no")])
def test_a_gpu_is_asked_for_its_capability(monkeypatch, supported, used, has):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    choice = choose("auto", torch.device("cuda", 0), bfloat16="bf16")
    assert (choice.used, choice.why) == (used, f"NVIDIA T4 {has} bfloat16 instructions")


def test_the_measurement_draws_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ratio = reduced_precision.cpu_speedup.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 < ratio < 100
