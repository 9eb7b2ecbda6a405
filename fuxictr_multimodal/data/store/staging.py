"""A folder that appears in one step: work in a hidden folder under a file lock, then rename."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import make_folder

logger = logging.getLogger(__name__)


class StoreExistsError(DataError):
    """The folder is there already and `overwrite` was not given."""


class Staging:
    """Builds the folder `final_dir`; a context manager that leaves nothing behind unless `commit` was called.

    A second build of the same folder waits for the first. The lock is a file `.<name>.lock` that stays.

    Args:
        final_dir: the folder to appear.
        overwrite: replace it where it is there.
        owned: names of what such a folder holds; one that holds anything else is never replaced.
        marker: the file that says that a folder is finished.
        what: the folder is, for messages.
    """

    def __init__(
        self,
        final_dir: Path,
        *,
        overwrite: bool,
        owned: Collection[str],
        marker: str = MANIFEST_NAME,
        what: str = "a dataset",
    ) -> None:
        self.final_dir = final_dir
        self.dir = final_dir.with_name(f".{final_dir.name}.building")
        self._replaced = final_dir.with_name(f".{final_dir.name}.replaced")
        self._overwrite = overwrite
        self._owned, self._marker, self._what = owned, marker, what
        self._lock = FileLock(final_dir.with_name(f".{final_dir.name}.lock"))

    def __enter__(self) -> Staging:
        """Wait for the lock, then make an empty folder.

        Raises:
            StoreExistsError: the folder is there and `overwrite` is not given.
            DataError: it is not finished, or holds other files.
        """
        make_folder(self.final_dir.parent)
        self._lock.acquire()
        try:
            self._recover()
            self._check_target()
            if self.dir.exists():
                logger.warning("Replacing %s, left over by an interrupted build", self.dir)
                shutil.rmtree(self.dir)
            self.dir.mkdir()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            shutil.rmtree(self.dir, ignore_errors=True)
        finally:
            self._lock.release()

    def commit(self) -> None:
        """Move the folder to its place; one that it replaces is removed after the move."""
        if self.final_dir.exists():
            self.final_dir.rename(self._replaced)
        self.dir.rename(self.final_dir)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _recover(self) -> None:
        """Undo a `commit` that was killed between its two renames, or finish one killed after them."""
        if not self._replaced.exists():
            return
        if self.final_dir.exists():
            shutil.rmtree(self._replaced)
        else:
            self._replaced.rename(self.final_dir)

    def _check_target(self) -> None:
        if not self.final_dir.exists():
            return
        # First: what is never replaced is not helped by `overwrite`.
        foreign = sorted(path.name for path in self.final_dir.iterdir() if path.name not in self._owned)
        if foreign:
            raise DataError(f"{self.final_dir} holds {foreign[0]!r}, not a file of {self._what}: move it away first")
        if self._overwrite:
            return
        if (self.final_dir / self._marker).is_file():
            raise StoreExistsError(
                f"{self.final_dir} already holds {self._what}: give --overwrite (overwrite=True in code) to replace it"
            )
        raise DataError(
            f"{self.final_dir} exists but has no {self._marker} (an interrupted build, or not {self._what} of this "
            f"format): give --overwrite (overwrite=True in code) to replace it"
        )
