"""Freed memory stays in the process, and the next tensor of that size costs no page faults; threads of a run."""

import platform
import subprocess
import sys

import pytest
import torch

from fuxictr_multimodal.system.machine import cpu_threads, keep_freed_memory

FAULTS = """
import resource, sys
import torch
from fuxictr_multimodal.system.machine import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(12):  # aligned blocks leave gaps: the first few do not fit where the ones before them were
    torch.ones(1 << 24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 24).sum()  # 64 MiB each
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_tensor_that_comes_again_costs_no_page_faults():
    """A setting of glibc; other C libraries are left as they are."""
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return

    def faults(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults("keep") < 1000 < faults("default")


@pytest.mark.parametrize(("count", "environment", "inside"), [(1, None, 1), (None, None, 2), (1, "2", 2)])
def test_threads_of_a_run(monkeypatch, count, environment, inside):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with cpu_threads(count):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
