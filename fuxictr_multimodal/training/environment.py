"""Environment of a run: package versions, the git commit, peak memory, and the size of its model."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from fuxictr_multimodal.version import __version__

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("fuxictr", "torch", "numpy", "h5py", "polars")


def peak_memory_mib() -> dict[str, float | None]:
    """Peak resident memory of this process, and peak allocated memory of the current CUDA device or None."""
    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"host": round(host, 1), "device": device}


def versions() -> dict[str, str]:
    """Versions of this project, Python and the packages that decide a result."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"fuxictr_multimodal": __version__, "python": platform.python_version(), **found}


def git_commit() -> str | None:
    """The commit of this package's repository, `-dirty` appended when tracked files differ; None if it has none.

    An installed package may lie in a folder of somebody else's repository: only one that tracks it counts.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        # A hook of another repository sets its own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    return commit or None


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters; `embedding` counts those that FuxiCTR counts as embedding, by name."""
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    for name, part in model.named_modules():
        # A table that is built later, see `sharded/stand_ins.py`.
        if (rows := getattr(part, "whole_rows", None)) is not None:
            sizes[f"{name}.weight"] = rows * part.embedding_dim
    return {"total": sum(sizes.values()), "embedding": sum(n for name, n in sizes.items() if "embedding" in name)}
