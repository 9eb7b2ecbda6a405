"""What an engine is told about the processor."""

import pytest

from fuxictr_multimodal.serving.runtime.engines import has_dot_products


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx2 avx512f\n", False),
        ("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags : avx512f avx512_vnni\n", True),
        ("Features : fp asimd\n", False),
    ],
)
def test_dot_products_of_bytes_are_looked_up(text, found, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_dot_products(tmp_path / "cpuinfo") is found


def test_a_system_that_does_not_say_has_none(tmp_path):
    assert has_dot_products(tmp_path / "missing") is False
