"""The processor as the files of the system describe it."""

from __future__ import annotations

from pathlib import Path

from fuxictr_multimodal.system.processor import DEFAULT_L2_BYTES, Processor, processor


def machine(root: Path, cpuinfo: str, caches: list[tuple[int, str]]) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for number, (level, size) in enumerate(caches):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    return root


def test_vendor_flags_and_caches_are_read(tmp_path):
    cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 fma avx512f sse2\n\nprocessor\t: 1\n"
    root = machine(tmp_path, cpuinfo, [(1, "48K"), (1, "32K"), (2, "1024K"), (3, "32768K")])
    assert processor(root) == Processor("AuthenticAMD", ("avx2", "avx512f", "fma"), 1 << 20, 32 << 20)


def test_an_arm_processor_without_a_vendor_or_a_third_cache(tmp_path):
    root = machine(tmp_path, "Features\t: fp asimd sve\n", [(2, "2M"), (3, "?")])
    assert processor(root) == Processor("", ("asimd", "sve"), 2 << 20, 0)


def test_a_system_that_says_nothing(tmp_path):
    assert processor(tmp_path) == Processor("", (), DEFAULT_L2_BYTES, 0)
