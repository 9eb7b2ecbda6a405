"""The fuzzer in small: inputs of each cheap target in this process, and a planted fault that is reported."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from fuxictr_multimodal.config import yaml_files
from fuxictr_multimodal.errors import ConfigError
from tests.torture.fuzz import harness, targets, workers
from tests.torture.fuzz.byte_mutator import mutated, smaller
from tests.torture.fuzz.harness import Target, fuzz, random_of
from tests.torture.fuzz.seeds import of_bytes, shrink_bytes

# Inputs of each target here; those that need a trained model or many imports are left to the long attack.
COUNTS = {
    "yaml model_config": 60,
    "yaml dataset_config": 150,
    "yaml tuner": 60,
    "yaml comparison": 60,
    "yaml embedding": 60,
    "set": 100,
    "expids and seeds": 200,
    "scan csv": 80,
    "build log frames": 12,
    "build samples parquet": 12,
    "rows script": 30,
    "requests": 200,
    "export model.json": 60,
    "export vocabulary.json": 60,
    "vectors": 60,
    "dataset json": 30,
    "movielens csv": 80,
    "text sources": 150,
}


@pytest.mark.parametrize("name", COUNTS)
def test_mutated_inputs_are_read_or_refused(name, tmp_path):
    target = next(target for target in targets() if target.name == name)
    found = fuzz(target, tmp_path, seed=1, start=0, stop=COUNTS[name])
    assert found.inputs == COUNTS[name] == found.accepted + found.refused
    assert not found.faults
    assert found.refused


def planted(call, shrink=None):
    """A target that calls a function with mutated bytes."""
    return Target("planted", 10, lambda work: (of_bytes([b"learning_rate: 0.1"]), call), shrink)


def test_an_undocumented_exception_is_reported_once_with_its_place_and_a_small_input(tmp_path, monkeypatch):
    def careless(value, where):
        if b"rate" in value:
            raise KeyError("planted")
        raise ConfigError("documented")

    # As if the reader of YAML forgot a case.
    code = careless.__code__.replace(co_filename=yaml_files.__file__)
    monkeypatch.setattr(yaml_files, "parse_value", type(careless)(code, globals()))
    target = planted(lambda content: yaml_files.parse_value(content, "planted"), shrink_bytes)
    found = fuzz(target, tmp_path, seed=0, start=0, stop=60)
    [fault] = found.faults.values()
    assert fault.kind == "KeyError"
    assert fault.place.startswith("fuxictr_multimodal/config/yaml_files.py:")
    assert fault.count + found.refused == found.inputs == 60
    assert found.refused
    assert "rate" in fault.given
    assert len(fault.given) < len(repr(b"learning_rate: 0.1"))
    # It is repeated by its number alone.
    make, call = target.prepare(tmp_path)
    with pytest.raises(KeyError):
        call(make(random_of("planted", 0, fault.number)))


def test_what_takes_too_long_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "LONGEST", 0.05)
    found = fuzz(
        planted(lambda content: [time.perf_counter() for _ in iter(int, 1)]), tmp_path, seed=0, start=0, stop=1
    )
    assert [fault.kind for fault in found.faults.values()] == ["TimeLimit"]


def test_what_takes_a_lot_of_memory_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "LARGEST", 50 << 20)
    found = fuzz(planted(lambda content: b"x" * (100 << 20)), tmp_path, seed=0, start=0, stop=1)
    assert [fault.kind for fault in found.faults.values()] == ["MemoryLimit"]


def test_an_input_that_ends_its_process_is_a_fault_and_the_next_ones_follow(tmp_path):
    def call(content):
        if b"learn" not in content:
            os.kill(os.getpid(), signal.SIGSEGV)

    found = workers.attack_target(planted(call), tmp_path, seed=0, count=25)
    assert found.inputs == 25
    [fault] = found.faults.values()
    assert (fault.kind, fault.place) == ("SIGSEGV", "a process")
    assert fault.count + found.accepted == 25
    assert found.accepted


def test_a_fault_of_the_fuzzer_itself_is_no_finding(tmp_path):
    def make(rng):
        raise ZeroDivisionError

    target = Target("broken", 1, lambda work: (make, print))
    with pytest.raises(RuntimeError, match=r"itself is wrong(.|\n)*ZeroDivisionError"):
        workers.attack_target(target, tmp_path, seed=0, count=1)


def test_inputs_are_a_function_of_target_seed_and_number():
    make = of_bytes([b"a: 1\n", b"b: [2, 3]\n"])
    first = [make(random_of("t", 3, number)) for number in range(40)]
    assert first == [make(random_of("t", 3, number)) for number in range(40)]
    assert first != [make(random_of("t", 4, number)) for number in range(40)]
    assert len({*first}) > 30


def test_smaller_inputs_are_smaller():
    content = json.dumps({"key": list(range(30))}).encode()
    assert all(len(one) < len(content) for one in smaller(content))
    assert mutated(b"", [], random_of("t", 0, 0)) is not None


def test_the_whole_attack_has_the_inputs_that_it_promises():
    assert sum(target.inputs for target in targets()) >= 300_000
    assert len({target.name for target in targets()}) == len(targets())
