"""What is used of torchrec, imported where tables are sharded and nowhere else, and which versions fit.

torchrec 1.N and FBGEMM 1.N are released together for torch 2.(N + 5). Others load, if at all, with errors from inside.
"""

from __future__ import annotations

import functools
import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from fuxictr_multimodal.errors import ConfigError

# The pair that the tests run with; on a GPU it is `fbgemm-gpu` in place of `fbgemm-gpu-cpu`.
TORCHREC = "1.8.0"
INSTALL = (
    f"pip install --no-deps torchrec=={TORCHREC} fbgemm-gpu-cpu=={TORCHREC} tensordict pyvers torchmetrics==1.0.3 "
    "pyre-extensions typing-inspect"
)
KERNELS = ("fbgemm-gpu", "fbgemm-gpu-cpu", "fbgemm-gpu-nightly", "fbgemm-gpu-nightly-cpu")


class Library(NamedTuple):
    """The names that the tables use."""

    EmbeddingCollection: Any
    EmbeddingConfig: Any
    EmbeddingCollectionSharder: Any
    KeyedJaggedTensor: Any
    KJTList: Any
    ShardingEnv: Any
    OptimType: Any
    construct_module_sharding_plan: Any
    row_wise: Any


@functools.cache
def load_library() -> Library:
    """Import torchrec, without its warnings, which no user can act on.

    Raises:
        ConfigError: it is missing, or of a version that does not fit FBGEMM or torch; with the command that installs
            what fits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fbgemm_gpu.split_embedding_configs import EmbOptimType
            from torchrec.distributed.comm_ops import set_gradient_division
            from torchrec.distributed.embedding import EmbeddingCollectionSharder
            from torchrec.distributed.embedding_types import KJTList
            from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
            from torchrec.distributed.types import ShardingEnv
            from torchrec.modules.embedding_configs import EmbeddingConfig
            from torchrec.modules.embedding_modules import EmbeddingCollection
            from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    except Exception as error:  # versions that do not fit fail in many ways, missing operators among them
        raise ConfigError(_remedy(error)) from None
    # Gradients are sums over the ranks, as those of all other weights of a model.
    set_gradient_division(False)
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_worth_saying)
    return Library(
        EmbeddingCollection,
        EmbeddingConfig,
        EmbeddingCollectionSharder,
        KeyedJaggedTensor,
        KJTList,
        ShardingEnv,
        EmbOptimType,
        construct_module_sharding_plan,
        row_wise,
    )


def fitting(torch_version: str) -> str:
    """The release of torchrec and FBGEMM for a release of torch.

    >>> fitting("2.13.0+cpu"), fitting("2.14.1")
    ('1.8', '1.9')
    """
    major, minor = torch_version.split(".")[:2]
    return f"1.{int(minor) - 5}" if major == "2" else TORCHREC


def _remedy(error: Exception) -> str:
    """What is wrong with the installed versions, and what to install."""
    found = {name: _version(name) for name in ("torch", "torchrec", *KERNELS)}
    there = {name: number for name, number in found.items() if number is not None}
    wanted = fitting(there.get("torch", "2.13"))
    command = INSTALL.replace(TORCHREC, f"{wanted}.0")
    if "torchrec" not in there or not any(name in there for name in KERNELS):
        lacking = "torchrec" if "torchrec" not in there else "fbgemm-gpu or fbgemm-gpu-cpu"
        return f"shard_min_rows needs {lacking}, which is not installed: {command}"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    listed = ", ".join(f"{name} {number}" for name, number in there.items())
    return (
        f"shard_min_rows needs torchrec, which cannot be imported ({text}). Installed are {listed}; "
        f"torch {there.get('torch')} goes with torchrec {wanted} and FBGEMM {wanted}: {command}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what torchrec's own call of torch makes torch say to those who call it."""
    return "is_fx_tracing will return true" not in record.getMessage()
