"""A folder that appears in one step: work in a hidden folder under a file lock, then rename."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from fuxictr_multimodal.data.store.held import aside_paths, move_aside, remove_unread, replaced_path
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import make_folder, sync, sync_tree
from fuxictr_multimodal.system.writing import writing

logger = logging.getLogger(__name__)
# Characters of a name in a message that says that it is too long.
_SHOWN = 60


class StoreExistsError(DataError):
    """The folder is there already and `overwrite` was not given."""


class Staging:
    """Builds the folder `final_dir`; a context manager that leaves nothing behind unless `commit` was called.

    A second build of the same folder waits for the first. The lock is a file `.<name>.lock` beside the folder.

    Args:
        final_dir: the folder to appear. A symbolic link stays, and the folder that it points at is the one to appear.
        overwrite: replace it where it is there.
        owned: names of what such a folder holds; one that holds anything else is never replaced.
        marker: the file that says that a folder is finished.
        what: the folder is, for messages.

    Raises:
        DataError: there can be no folder of this name.
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
        self.final_dir = final_dir = _followed(final_dir)
        self.dir = final_dir.with_name(f".{final_dir.name}.building")
        self._replaced = replaced_path(final_dir)
        self._overwrite = overwrite
        self._owned, self._marker, self._what = owned, marker, what
        self._committed = False
        self._lock = FileLock(final_dir.with_name(f".{final_dir.name}.lock"))

    def check(self) -> None:
        """Refuse what `__enter__` would, without waiting or leaving anything: for a caller with work to do first.

        Raises:
            StoreExistsError: the folder is there and `overwrite` is not given.
            DataError: it is not finished, or holds other files, or the place cannot be written to.
        """
        # Another build may move the folder meanwhile: what counts is found under the lock.
        with contextlib.suppress(FileNotFoundError):
            self._check_target()
        self._check_place()

    def __enter__(self) -> Staging:
        """Wait for the lock, then make an empty folder.

        Raises:
            StoreExistsError: the folder is there and `overwrite` is not given.
            DataError: it is not finished, or holds other files, or the place cannot be written to.
        """
        make_folder(self.final_dir.parent)
        self._check_place()
        self._lock.acquire()
        try:
            self._recover()
            self._check_target()
            if self.dir.exists():
                logger.warning("Replacing %s, left over by an interrupted build", self.dir)
                shutil.rmtree(self.dir)
            self.dir.mkdir()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            shutil.rmtree(self.dir, ignore_errors=True)
        finally:
            self._release()

    def commit(self) -> None:
        """Move the folder to its place; one that it replaces is removed after the move, unless it is being read.

        Its files are on the disk before it has its name: a power cut leaves the earlier folder or this one.

        Raises:
            Unwritable: the disk is full or the like.
        """
        sync_tree(self.dir)
        with writing(self.final_dir, temporary=self.dir):
            try:
                if self.final_dir.exists():
                    self.final_dir.rename(self._replaced)
                self.dir.rename(self.final_dir)
                sync(self.final_dir.parent)
                self._committed = True
            except BaseException:
                # An error says that there is no new folder: one whose name may not last goes, the earlier one returns.
                if not self.dir.exists():
                    self.final_dir.rename(self.dir)
                self._recover()
                raise
        self._remove_replaced()

    def _release(self) -> None:
        if not self._committed:
            # Safe while the lock is held, as the last thing: a build that waits for a file that has lost its name takes
            # the file of that name instead. A system that keeps open files refuses.
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _recover(self) -> None:
        """Undo a `commit` that was killed between its two renames, or finish one killed after them."""
        # Not of ours any more: a link stays where it is.
        if self._replaced.is_symlink():
            self._replaced.unlink()
        if self._replaced.exists() and not self.final_dir.exists():
            self._replaced.rename(self.final_dir)
        self._remove_replaced()

    def _remove_replaced(self) -> None:
        """Remove what was replaced, now and before, as far as nobody reads it any more."""
        if self._replaced.exists():
            # First out of the name of a folder that may have to be restored: it is not whole while it is removed.
            move_aside(self.final_dir)
        for folder in aside_paths(self.final_dir):
            if not remove_unread(folder):
                logger.warning(
                    "%s is the earlier build of %s, which is still being read; the next build removes it",
                    folder,
                    self.final_dir,
                )

    def _check_place(self) -> None:
        """Make and remove a folder with a name as long as any of ours: a lock would wait for such a place for ever."""
        try:
            place = next(parent for parent in self.final_dir.absolute().parents if parent.exists())
            Path(tempfile.mkdtemp(prefix=f".{self.final_dir.name}.", dir=place)).rmdir()
        except OSError as error:
            raise _impossible(self.final_dir, error) from None

    def _check_target(self) -> None:
        if not self.final_dir.exists():
            return
        if not self.final_dir.is_dir():
            raise DataError(f"{self.final_dir} is a file: move it away first, or choose another folder")
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


def _followed(folder: Path) -> Path:
    """The folder itself, where its name is a symbolic link."""
    try:
        if folder.is_symlink():
            if not folder.exists():
                raise DataError(
                    f"{folder} is a symbolic link to {folder.readlink()}, which is not there: make that folder, or "
                    "remove the link"
                )
            folder = folder.resolve()
        # A name such as `..` has no place beside it.
        found = folder if folder.name not in ("", "..") else folder.resolve()
        found.exists()
    except OSError as error:
        raise _impossible(folder, error) from None
    if not found.name:
        raise DataError(f"{found} cannot be replaced: name a folder in it")
    return found


def _impossible(folder: Path, error: OSError) -> DataError:
    shown = str(folder) if len(folder.name) <= _SHOWN else str(folder.with_name(f"{folder.name[:_SHOWN]}..."))
    return DataError(f"the folder {shown} cannot be created ({error.strerror or error}): choose another one")
