"""The log of a run: FuxiCTR's format, on stderr and in a file that never ends the run."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from fuxictr_multimodal.system.files import kept_if_possible
from fuxictr_multimodal.text.escape import visible


@contextlib.contextmanager
def log_to(path: Path, *, append: bool) -> Iterator[None]:
    """Log to `path` and stderr in FuxiCTR's format, and leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler()]
    with kept_if_possible(path):
        if path.is_fifo():
            # Opening it would wait for a reader.
            raise OSError(errno.ENXIO, "it is a pipe")
        root.handlers.append(_LogFile(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace"))
    for handler in root.handlers:
        handler.setFormatter(_Visible("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    root.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm():
            yield
    finally:
        for log_file in root.handlers[1:]:
            with contextlib.suppress(OSError):
                log_file.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def log_nowhere() -> Iterator[None]:
    """Log nothing: of several processes that train together, rank 0 keeps the log."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers[:] = handlers


class _Visible(logging.Formatter):
    """Shows control characters of names, notes and errors by their escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        return visible(super().format(record))


class _LogFile(logging.FileHandler):
    """A log file that is given up, with one warning, where it cannot be written any more."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called in place of an error of the write."""
        logging.getLogger().removeHandler(self)
        with contextlib.suppress(OSError):
            self.close()
        with kept_if_possible(Path(self.baseFilename)):
            raise
