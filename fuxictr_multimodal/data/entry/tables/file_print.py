"""Whether a file is the one that was opened first: another machine may have another one at the same path."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.errors import DataError

# The footer of a parquet file, or most of it.
END_BYTES = 2**16


@dataclass(frozen=True)
class FilePrint:
    """What tells a parquet file from another one of its name, without reading it all.

    Attributes:
        path: absolute.
        size: in bytes.
        end: SHA-256 of its last bytes, which say where its columns are and what they hold.
    """

    path: Path
    size: int
    end: str

    @classmethod
    def of(cls, path: Path) -> FilePrint:
        """That of a file; OSError where it cannot be read."""
        path = path.absolute()
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - END_BYTES, 0))
            return cls(path, size, hashlib.sha256(file.read()).hexdigest())

    def check(self, name: str) -> None:
        """Refuse another file at the path.

        Raises:
            DataError: naming the file by `name`, as the user wrote it.
        """
        try:
            found = FilePrint.of(self.path)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error}") from None
        if found != self:
            sizes = "" if found.size == self.size else f": {found.size:,} bytes, not {self.size:,}"
            raise DataError(f"{name} is another file than the one that was opened first ({self.path}{sizes})")
