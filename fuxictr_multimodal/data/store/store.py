"""A finished dataset on disk: opened by its name, with its manifest, splits, ids and integrity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fuxictr_multimodal.data.store.held import HeldFolder, is_there, replaced_path
from fuxictr_multimodal.data.store.integrity import Mode, check_files
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, Manifest
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from fuxictr_multimodal.data.store.ids import IdMap

Result = TypeVar("Result")


@dataclass(frozen=True, repr=False)
class Store:
    """A finished dataset on disk: one build of it, also where another build replaces it meanwhile.

    Attributes:
        folder: its folder, held.
        manifest: its metadata.
    """

    folder: HeldFolder
    manifest: Manifest

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {counts.rows:,}" for name, counts in self.manifest.splits.items())
        return f"Store({str(self.place)!r}: {splits})"

    @property
    def place(self) -> Path:
        """`<data_root>/<dataset_id>`, where another build may lie by now: for names and messages."""
        return self.folder.place

    @property
    def dir(self) -> Path:
        """Where this build lies at the moment: at its place, or aside. To open files, use `read`."""
        return self.folder.path

    def read(self, reading: Callable[[Path], Result]) -> Result:
        """What `reading` returns for the folder of this build; it is called again if the folder moved meanwhile."""
        return self.folder.read(reading)

    @classmethod
    def open(cls, data_root: str | Path, dataset_id: str, *, verify: Mode = "auto") -> Store:
        """Open `<data_root>/<dataset_id>`.

        Args:
            data_root: folder of the datasets.
            dataset_id: name of the dataset.
            verify: which files are compared with their checksums; see `check_files`. By default those that changed
                since they last matched.

        Raises:
            DataError: there is no such dataset, its build was interrupted, it has another format version, or a
                file is missing, damaged or of another build. The message says what to do.
        """
        directory = Path(data_root) / dataset_id
        try:
            folder = HeldFolder(directory)
        except FileNotFoundError:
            remedy = "build the dataset first"
            if replaced_path(directory).exists():
                remedy = "a build was killed while it replaced it; build it again with fxmm build --overwrite"
            raise DataError(f"{directory} does not exist: {remedy}. {_known_datasets(data_root, dataset_id)}") from None
        return cls(folder, folder.read(lambda found: _checked(found, dataset_id, verify)))

    @staticmethod
    def exists(data_root: str | Path, dataset_id: str) -> bool:
        """Whether a finished dataset of any format version exists."""
        directory = Path(data_root) / dataset_id
        return is_there(directory) and (directory / MANIFEST_NAME).is_file()

    def split_path(self, split: str) -> Path | None:
        """`train.h5`, or the folder `train` of parts, or None where the dataset has no such split."""
        if split not in self.manifest.splits:
            return None
        return self.read(lambda folder: _split_path(folder, split))

    def reader(self, split: str) -> SplitReader:
        """Open a split for reading."""
        if split not in self.manifest.splits:
            raise DataError(f"{self.place} has no split {split!r}. {did_you_mean(split, self.manifest.splits)}")
        return self.read(lambda folder: SplitReader(_split_path(folder, split)))

    def ids(self, column: str) -> IdMap | None:
        """The user's own ids of a column's codes, or None where the column holds what the user gave.

        Raises:
            DataError: the file is damaged.
        """
        if column not in self.manifest.ids:
            return None
        # Ids need pyarrow, which takes a while to load; a split and its loader do not.
        from fuxictr_multimodal.data.store.ids import IdMap, ids_name

        return self.read(lambda folder: IdMap.read(folder / ids_name(column)))

    def verify(self, *, progress: bool = False) -> None:
        """Compare every file with its SHA-256 in the manifest, whatever is recorded of it, and check every value.

        Raises:
            DataError: a file differs, a value is out of range, or two files disagree.
        """
        # FuxiCTR, which reads the feature map, takes seconds to import.
        from fuxictr_multimodal.data.store.full_check import check_values

        def check(folder: Path) -> None:
            check_files(folder, self.manifest.files, "full")
            check_values(folder, self.manifest, progress=progress)

        self.read(check)


def _checked(directory: Path, dataset_id: str, verify: Mode) -> Manifest:
    """The manifest of a folder that has all files of a dataset, as they were built."""
    if not (directory / MANIFEST_NAME).is_file():
        raise DataError(
            f"{directory} has no {MANIFEST_NAME}: its build was interrupted, or it is not a dataset of this "
            f"format; build it again with fxmm build --overwrite"
        )
    manifest = Manifest.read(directory)
    if manifest.dataset_id != dataset_id:
        raise DataError(
            f"{directory / MANIFEST_NAME} is of dataset {manifest.dataset_id!r}, not {dataset_id!r}: "
            f"the folder must have the name of its dataset"
        )
    check_files(directory, manifest.files, verify)
    return manifest


def _split_path(directory: Path, split: str) -> Path:
    single = directory / f"{split}.h5"
    return single if single.is_file() else directory / split


def _known_datasets(data_root: str | Path, dataset_id: str) -> str:
    root = Path(data_root)
    known = [path.parent.name for path in root.glob(f"*/{MANIFEST_NAME}")] if root.is_dir() else []
    return did_you_mean(dataset_id, known)
