"""PyTorch's compiler for one small graph, without what pays off for many."""

import contextlib
from collections.abc import Iterator

# For a process of its own. The check of vector instructions compiles a program for each kind that the CPU has.
UNCHECKED = {"TORCHINDUCTOR_VEC_ISA_OK": "1"}


@contextlib.contextmanager
def small_compile() -> Iterator[None]:
    """Compile no headers ahead, and no programs that only try the CPU's vector instructions: half of the time."""
    from torch._inductor import config

    settings = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False}
    with config.patch({**settings, "cpp.vec_isa_ok": True}):
        yield
