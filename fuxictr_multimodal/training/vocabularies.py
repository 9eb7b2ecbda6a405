"""What the codes of a dataset stand for: kept with the runs, so that a rebuilt dataset can be matched with an old one.

A build of a dataset replaces the one before it. `<model_root>/<dataset_id>/.builds/<hash>/` keeps the metadata and the
vocabularies of each build on which a run was trained, without samples; where the file system allows, as links.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.events import EventFeature, from_facts
from fuxictr_multimodal.data.store.encoding import FEATURE_MAP_NAME, FEATURE_VOCAB_NAME
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.held import HeldFolder
from fuxictr_multimodal.data.store.ids import UNKNOWN, IdMap, ids_name
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, Manifest, read_json
from fuxictr_multimodal.data.store.store import Store
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import kept_if_possible

BUILDS_FOLDER = ".builds"
_HASH_DIGITS = 16
Result = TypeVar("Result")


@dataclass(frozen=True)
class Match:
    """Which codes of a column in two builds of a dataset mean the same.

    Attributes:
        old: codes (M,) in the earlier build.
        new: those of the same values (M,) in the later one.
    """

    old: NDArray[np.int64]
    new: NDArray[np.int64]


@dataclass(frozen=True)
class Vocabularies:
    """The vocabularies of one build of a dataset.

    Attributes:
        folder: of the dataset, or of what `keep_build` kept of it.
        manifest: its metadata.
    """

    folder: HeldFolder
    manifest: Manifest

    def __str__(self) -> str:
        return f"dataset {self.manifest.dataset_id!r} (build {self.manifest.hash[:12]})"

    @classmethod
    def of_build(cls, folders: Iterable[Path], manifest_hash: str) -> Vocabularies | None:
        """The first of some folders that holds this build, or None."""
        for folder in folders:
            with contextlib.suppress(DataError, FileNotFoundError):
                held = HeldFolder(folder)
                manifest = held.read(Manifest.read)
                if manifest.hash == manifest_hash:
                    return cls(held, manifest)
        return None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of codes of each feature that has a vocabulary, padding included."""
        features = self.folder.read(lambda folder: read_json(folder / FEATURE_MAP_NAME))["features"]
        specs = {name: spec for entry in features for name, spec in entry.items()}
        return {name: spec["vocab_size"] for name, spec in specs.items() if "vocab_size" in spec}

    def matched(self, column: str, earlier: Vocabularies) -> Match:
        """The codes of a column that both builds have, by the user's ids or by token; quantile bins by their number.

        Features of history events are matched by category, or by bin where there are as many.

        A column that comes encoded, without ids, is matched by its codes: the user's own data gives them their meaning.

        Raises:
            DataError: the column is encoded in one build and not in the other, or its ids are of another type.
        """
        there, here = earlier._values(column), self._values(column)
        if isinstance(there, IdMap) and isinstance(here, IdMap):
            try:
                new = here.codes(there.ids)
            except DataError as error:
                raise DataError(f"column {column!r} of {earlier} and {self}: {error}") from None
            if len(there) and len(here) and there.ids[0] is None and here.ids[0] is None:
                new = np.append(0, new[1:])  # padding
            old = np.flatnonzero(new != UNKNOWN)
            return Match(old, new[old])
        before, now = (side.manifest.normalizers.get(column, {}).get("boundaries") for side in (earlier, self))
        if before is not None and now is not None and len(before) == len(now):
            # Every build has boundaries of its own: the third of ten bins is the third of ten.
            codes = np.arange(self.sizes[column])
            return Match(codes, codes)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            both = [(code, here[token]) for token, code in there.items() if token in here]
            pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
            return Match(pairs[:, 0], pairs[:, 1])
        if there is None and here is None:
            codes = np.arange(min(earlier.sizes.get(column, 0), self.sizes.get(column, 0)))
            return Match(codes, codes)
        raise DataError(
            f"column {column!r} has {_kind(there)} in {earlier} and {_kind(here)} in {self}, so that its values cannot "
            "be matched: describe it alike in both datasets"
        )

    def _values(self, column: str) -> IdMap | Mapping[Any, int] | None:
        """What the codes of a column stand for: ids, tokens with their codes, or None where they are themselves."""
        ids = self.folder.read(lambda folder: _if_there(folder / ids_name(column), IdMap.read))
        if ids is not None:
            return ids
        if (feature := self._events.get(column)) is not None:
            return feature.tokens
        # FuxiCTR writes a vocabulary of numbers for a column that comes encoded.
        return self._tokens.get(column) if column in self._fitted else None

    @cached_property
    def _fitted(self) -> frozenset[str]:
        return frozenset(column["name"] for column in self.manifest.feature_cols if is_fitted(column))

    @cached_property
    def _events(self) -> dict[str, EventFeature]:
        return from_facts(self.manifest.facts)

    @cached_property
    def _tokens(self) -> dict[str, Any]:
        return self.folder.read(lambda folder: _if_there(folder / FEATURE_VOCAB_NAME, read_json)) or {}


def keep_build(store: Store, runs: Path) -> None:
    """Keep metadata and vocabularies of a dataset beside its runs; a warning where that is impossible.

    Args:
        store: the dataset.
        runs: folder of the runs.
    """
    kept = build_folder(runs, store.manifest.hash)
    if kept.is_dir():
        return
    partial = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    with kept_if_possible(kept):
        try:
            store.read(lambda folder: _copy(folder, partial))
            # Another run of the same build may have been faster.
            with contextlib.suppress(FileExistsError):
                partial.rename(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def build_folder(runs: Path, manifest_hash: str) -> Path:
    """Where `keep_build` keeps a build."""
    return runs / BUILDS_FOLDER / manifest_hash[:_HASH_DIGITS]


def _copy(folder: Path, partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    names = [MANIFEST_NAME, FEATURE_MAP_NAME, FEATURE_VOCAB_NAME]
    names += [path.relative_to(folder).as_posix() for path in folder.glob(ids_name("*"))]
    for name in names:
        if (folder / name).is_file():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _link(folder / name, partial / name)


def _if_there(path: Path, read: Callable[[Path], Result]) -> Result | None:
    return read(path) if path.is_file() else None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without links.
        shutil.copyfile(source, target)


def _kind(values: IdMap | Mapping[Any, int] | None) -> str:
    if values is None:
        return "codes of its own"
    return "ids" if isinstance(values, IdMap) else "a vocabulary"
