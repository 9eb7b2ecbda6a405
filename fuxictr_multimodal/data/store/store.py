"""A finished dataset on disk: opened by its name, with its manifest, splits, ids and integrity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.data.store.ids import IdMap, ids_name
from fuxictr_multimodal.data.store.integrity import Mode, check_files
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, Manifest
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError, did_you_mean


@dataclass(frozen=True, repr=False)
class Store:
    """A finished dataset on disk.

    Attributes:
        dir: `<data_root>/<dataset_id>`.
        manifest: its metadata.
    """

    dir: Path
    manifest: Manifest

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {counts.rows:,}" for name, counts in self.manifest.splits.items())
        return f"Store({str(self.dir)!r}: {splits})"

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
        if not directory.is_dir():
            raise DataError(
                f"{directory} does not exist: build the dataset first. {_known_datasets(data_root, dataset_id)}"
            )
        if not (directory / MANIFEST_NAME).is_file():
            raise DataError(
                f"{directory} has no {MANIFEST_NAME}: its build was interrupted, or it is not a dataset of this "
                f"format; build it again with overwrite"
            )
        manifest = Manifest.read(directory)
        if manifest.dataset_id != dataset_id:
            raise DataError(
                f"{directory / MANIFEST_NAME} is of dataset {manifest.dataset_id!r}, not {dataset_id!r}: "
                f"the folder must have the name of its dataset"
            )
        check_files(directory, manifest.files, verify)
        return cls(directory, manifest)

    @staticmethod
    def exists(data_root: str | Path, dataset_id: str) -> bool:
        """Whether a finished dataset of any format version exists."""
        return (Path(data_root) / dataset_id / MANIFEST_NAME).is_file()

    def split_path(self, split: str) -> Path | None:
        """`train.h5`, or the folder `train` of parts, or None where the dataset has no such split."""
        if split not in self.manifest.splits:
            return None
        single = self.dir / f"{split}.h5"
        return single if single.is_file() else self.dir / split

    def reader(self, split: str) -> SplitReader:
        """Open a split for reading."""
        path = self.split_path(split)
        if path is None:
            raise DataError(f"{self.dir} has no split {split!r}. {did_you_mean(split, self.manifest.splits)}")
        return SplitReader(path)

    def ids(self, column: str) -> IdMap | None:
        """The user's own ids of a column's codes, or None where the column holds what the user gave.

        Raises:
            DataError: the file is damaged.
        """
        return IdMap.read(self.dir / ids_name(column)) if column in self.manifest.ids else None

    def verify(self, *, progress: bool = False) -> None:
        """Compare every file with its SHA-256 in the manifest, whatever is recorded of it, and check every value.

        Raises:
            DataError: a file differs, a value is out of range, or two files disagree.
        """
        # FuxiCTR, which reads the feature map, takes seconds to import.
        from fuxictr_multimodal.data.store.full_check import check_values

        check_files(self.dir, self.manifest.files, "full")
        check_values(self.dir, self.manifest, progress=progress)


def _known_datasets(data_root: str | Path, dataset_id: str) -> str:
    root = Path(data_root)
    known = [path.parent.name for path in root.glob(f"*/{MANIFEST_NAME}")] if root.is_dir() else []
    return did_you_mean(dataset_id, known)
