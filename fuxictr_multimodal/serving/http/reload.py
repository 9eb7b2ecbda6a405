"""The model in use: taken from a folder, replaced when the folder is, with the items that came at run time."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_multimodal.serving.http.metrics import Metrics
from fuxictr_multimodal.serving.runtime import FolderError, Ranker, RequestError

log = logging.getLogger(__name__)

Id = str | int
# An item's id and its features, or None where it was removed.
Change = tuple[Id, Mapping[str, Any] | None]
Stamp = tuple[int, int, int]
MODEL_FILE = "model.json"
# A folder that is copied in place is broken until it is complete; it is tried again, less and less often.
LONGEST_PAUSE_SECONDS = 60.0


class Models:
    """The model of a folder, and what was changed in its catalogue since the server started.

    Args:
        folder: an exported model; it is loaded at once.
        load: reads a folder.
        metrics: what is counted.

    Raises:
        FolderError: the folder holds no model.
    """

    def __init__(self, folder: Path, load: Callable[[Path], Ranker], metrics: Metrics) -> None:
        self._folder, self._load, self._metrics = folder, load, metrics
        self._changing = threading.Lock()
        # The last change of each item, in order.
        self._journal: dict[str, Change] = {}
        self._failed: Stamp | None = None
        self._looks_missing = 0
        self._retry_at = self._pause = 0.0
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None
        self._stamp, self._ranker = self._read()
        self._publish()

    def current(self) -> Ranker:
        """The model in use."""
        return self._ranker

    def upsert(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Add items, or replace those of the same id; a later model gets them too.

        Returns:
            Number of items added, and of items replaced.

        Raises:
            RequestError: an item is wrong; none is changed.
        """
        with self._changing:
            counts = self._ranker.upsert_items(items)
            column = self._ranker.item_column
            self._note((item[column], item) for item in items)
        return counts

    def remove(self, ids: Sequence[Id]) -> int:
        """Remove items, of a later model too; returns how many were there."""
        with self._changing:
            # What is not there is not kept in mind: names that a caller makes up would fill the memory.
            there = [item_id for item_id in ids if item_id in self._ranker]
            removed = self._ranker.remove_items(ids)
            self._note((item_id, None) for item_id in there)
        return removed

    def watch(self, seconds: float) -> None:
        """Look at the folder every so many seconds, in a thread, until `stop`."""

        def work() -> None:
            while not self._stopped.wait(seconds):
                try:
                    self.look()
                except Exception:
                    log.exception("The look at %s failed; the old model stays.", self._folder)

        self._watcher = threading.Thread(target=work, name="watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End `watch`; a model that is being loaded is loaded to its end."""
        self._stopped.set()
        if self._watcher:
            self._watcher.join()

    def look(self) -> bool:
        """Load the folder if it was replaced; returns whether there is a new model.

        A folder that is broken or missing leaves the old model in its place.
        """
        stamp = _stamp(self._folder)
        self._say_missing(stamp is None)
        if stamp is None or stamp == self._stamp or (stamp == self._failed and time.monotonic() < self._retry_at):
            return False
        try:
            stamp, ranker = self._read()
            with self._changing:
                self._replay(ranker)
                self._stamp, self._ranker, self._failed = stamp, ranker, None
        except Exception as error:
            # A folder that went away while it was read says nothing of the one that follows.
            if _stamp(self._folder) == stamp:
                self._put_off(stamp, error)
            return False
        self._metrics.reloads.labels("succeeded").inc()
        self._publish()
        log.info("The model is now %s, version %s, with %s items.", ranker.name, ranker.version, f"{len(ranker):,}")
        return True

    def _read(self) -> tuple[Stamp, Ranker]:
        """A model and the stamp of its folder, which was not replaced in between."""
        while True:
            before = _stamp(self._folder)
            if before is None:
                raise FolderError(f"{self._folder / MODEL_FILE} is missing: give a folder that `fxmm export` wrote")
            ranker = self._load(self._folder)
            if _stamp(self._folder) == before:
                return before, ranker

    def _say_missing(self, missing: bool) -> None:
        """Log that the folder went missing, and that it is back, once each.

        One that is replaced is missing for a moment, which is no news: it is told at the second look.
        """
        if not missing and self._looks_missing > 1:
            log.info("%s is back.", self._folder / MODEL_FILE)
        self._looks_missing = self._looks_missing + 1 if missing else 0
        if self._looks_missing == 2:
            log.warning("%s is missing: the model in use stays until it is back.", self._folder / MODEL_FILE)

    def _put_off(self, stamp: Stamp, error: Exception) -> None:
        self._metrics.reloads.labels("failed").inc()
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if stamp == self._failed else 1.0
        self._failed, self._retry_at = stamp, time.monotonic() + self._pause
        if isinstance(error, FolderError):
            log.error("The new model is not used: %s. The old one stays.", error)
        else:
            log.error("The new model cannot be loaded. The old one stays.", exc_info=error)

    def _note(self, changes: Iterable[Change]) -> None:
        for item_id, item in changes:
            self._journal.pop(str(item_id), None)
            self._journal[str(item_id)] = item_id, item

    def _replay(self, ranker: Ranker) -> None:
        """Apply what was changed at run time to a new model; a change that does not fit it is left out."""
        for _, group in itertools.groupby(self._journal.values(), key=lambda change: change[1] is None):
            changes = list(group)
            try:
                _apply(ranker, changes)
            except RequestError:
                for change in changes:
                    try:
                        _apply(ranker, [change])
                    except RequestError as error:
                        log.error("A change that came at run time does not fit the new model: %s", error)

    def _publish(self) -> None:
        ranker = self._ranker
        self._metrics.model.info({"name": ranker.name, "version": ranker.version})
        self._metrics.model_loaded.set_to_current_time()
        self._metrics.items.set_function(lambda: len(self._ranker))


def _apply(ranker: Ranker, changes: Sequence[Change]) -> None:
    """Apply changes that are all removals, or none of them."""
    items = [item for _, item in changes if item is not None]
    if items:
        ranker.upsert_items(items)
    else:
        ranker.remove_items([item_id for item_id, _ in changes])


def _stamp(folder: Path) -> Stamp | None:
    """What differs between two folders that were at this place one after the other; None while there is none."""
    try:
        found = (folder / MODEL_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
