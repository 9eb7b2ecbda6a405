"""Close HDF5 files whose disk refuses a write: one error that names the file, and a process that continues.

HDF5 does not survive a failed write: after it, the release of a dataset fails, and that of its file ends the process.
So the file is closed at once, with all that is open in it and into memory, while the error is on its way.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py

from fuxictr_multimodal.system.writing import writing

_FAULTS = (OSError, RuntimeError, ValueError)


def created(path: Path, **options: Any) -> h5py.File:
    """A new file.

    Raises:
        Unwritable: the disk refuses it.
    """
    with writing(path):
        return h5py.File(path, "w", **options)


@contextlib.contextmanager
def written(file: h5py.File, path: Path) -> Iterator[None]:
    """Write to an open file so that what the disk refuses is an error of the block, and harmless afterwards.

    The block flushes what it wrote. Else an error would come when a dataset or the file is closed, where h5py drops it
    and HDF5 ends the process.

    Raises:
        Unwritable: naming the file, which is closed.
    """
    with writing(path):
        try:
            yield
        except BaseException:
            forget(file)
            raise


def flushed(datasets: list[h5py.Dataset]) -> None:
    """Write the chunks of datasets before Python closes them, where h5py drops what the disk says."""
    for dataset in datasets:
        dataset.flush()
    datasets.clear()


def finish(file: h5py.File, path: Path) -> None:
    """Close a file that is flushed; what a failed close leaves is not touched again, or it ends the process.

    Raises:
        Unwritable: the disk refuses what is written last.
    """
    with writing(path):
        file.close()


def forget(file: h5py.File) -> None:
    """Close a file whose content does not matter any more."""
    if file:
        _divert(file)
        with contextlib.suppress(*_FAULTS):
            file.close()


def _divert(file: h5py.File) -> None:
    """Let what HDF5 still writes to a file go to memory: after a failed write, a second one may end the process.

    The limit of a file's size, which holds for memory too, is lifted for the rest of this process: Python decides when
    the file's objects are closed.
    """
    with contextlib.suppress(*_FAULTS), _memory() as memory:
        os.dup2(memory.fileno(), file.id.get_vfd_handle())
        with contextlib.suppress(ImportError):  # Windows has no such limit
            import resource

            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("refused"), "w+b")
    return tempfile.TemporaryFile()
