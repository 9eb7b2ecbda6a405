"""Reads an exported folder: model.json and what lies beside it, each checked against the others."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration, calibration_of
from .engines import DTYPES, SUFFIXES, Engine, Input, engine_of
from .errors import FolderError
from .storage import SCALE, Rows, Stored
from .stored import MOST_SLOTS, listed, whole

FORMAT = 1
ITEMS, VOCABULARY = "items.safetensors", "vocabulary.json"
STORAGES = ("float32", "float16", "int8", "int32", "int64")


@dataclass(frozen=True)
class Model:
    """What model.json says.

    Attributes:
        path: the folder.
        name: of the run.
        engine: `onnx` or `torch`.
        inputs: of the graph, in the order of its arguments.
        arrays: of the catalogue, name to type as stored, in the order of the item model's outputs.
        item_inputs: of the item model.
        behaviours: kinds of history, the main one first.
        fixed_slots: slots of every history; None for any number.
        padding: where a history is filled up: `pre` or `post`.
        max_len: the newest items of a history that are kept.
        calibration: of scores; None where there is none.
        fingerprint: eight characters that another model does not have.
    """

    path: Path
    name: str
    engine: str
    inputs: tuple[Input, ...]
    arrays: Mapping[str, str]
    item_inputs: tuple[Input, ...]
    behaviours: tuple[str, ...]
    fixed_slots: int | None
    padding: str
    max_len: int
    calibration: Calibration | None
    fingerprint: str

    @property
    def has_items(self) -> bool:
        """Whether it ranks candidates; a model of a dataset without items scores samples."""
        return bool(self.arrays)

    def graph(self, threads: int | None) -> Engine:
        """Load the graph that scores. Raises FolderError."""
        return engine_of(self.path / f"model{SUFFIXES[self.engine]}", self.inputs, threads)

    def item_graph(self, threads: int | None, features: Collection[str]) -> Engine | None:
        """Load the graph that encodes items; None where the catalogue holds the features themselves.

        Args:
            threads: that one run uses.
            features: of items that the vocabulary encodes.

        Raises:
            FolderError: it is damaged or reads another feature, or it is missing although the catalogue holds something
                else than features.
        """
        path = self.path / f"item_model{SUFFIXES[self.engine]}"
        if not path.exists() and set(features) >= set(self.arrays):
            return None
        for one in self.item_inputs:
            if one.name not in features:
                raise FolderError(
                    f"{path} reads {one.name!r}, which vocabulary.json does not encode: export the model again"
                )
        return engine_of(path, self.item_inputs, threads)

    def stored(self) -> dict[str, Stored]:
        """Load the arrays of the catalogue.

        Raises:
            FolderError: the file is missing or damaged, or an array is missing or of another form.
        """
        if not self.arrays:
            return {}
        path = self.path / ITEMS
        found = _safetensors(path)
        stored, sizes = {}, set()
        for name, storage in self.arrays.items():
            rows = _array(found, name, storage, path)
            scale = _array(found, name + SCALE, "float32", path) if storage == "int8" else None
            if scale is not None and scale.shape != (len(rows), 1):
                raise FolderError(f"{path}: {name + SCALE} has shape {scale.shape}, not {(len(rows), 1)}")
            stored[name] = Stored(Rows.of(rows), None if scale is None else Rows.of(scale))
            sizes.add(len(rows))
        if len(sizes) > 1 or not min(sizes):
            raise FolderError(
                f"{path}: its arrays have {sorted(sizes)} rows; they must have one number of them, from 1"
            )
        return stored


def read_model(path: Path) -> Model:
    """Read model.json.

    Raises:
        FolderError: the folder or the file is missing, damaged, or of a newer format; or another file of the folder is
            not the one that was exported with it.
    """
    file = path / "model.json"
    if not path.is_dir():
        raise FolderError(f"{path} is no folder: give one that `fxmm export` wrote")
    content = read_json(file)
    try:
        found = _model(path, content)
    except FolderError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise FolderError(f"{file} is damaged ({type(error).__name__}: {error}): export the model again") from None
    return found


def check_regular(file: Path) -> None:
    """Refuse a pipe or a device, which may never end. Raises FolderError, or OSError where there is no file."""
    mode = file.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FolderError(f"{file} is no regular file: export the model again")


def read_json(file: Path) -> dict[str, Any]:
    """Read a file of the folder that holds one JSON object with a format.

    Raises:
        FolderError: it is missing, damaged, or of a newer format.
    """
    try:
        check_regular(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"{file} is missing: give a folder that `fxmm export` wrote") from None
    except FolderError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{file} is damaged ({error}): export the model again") from None
    written = content.get("format") if isinstance(content, dict) else None
    if not isinstance(written, int) or written < 1:
        raise FolderError(f"{file} is damaged (it has no format): export the model again")
    if written > FORMAT:
        raise FolderError(f"{file} has format {written}, and this version reads up to {FORMAT}: update it")
    return content


def _model(path: Path, content: Mapping[str, Any]) -> Model:
    engine, padding = content["engine"], content["padding"]
    if not isinstance(engine, str) or engine not in SUFFIXES:
        raise ValueError(f"engine {engine!r} is unknown")
    if padding not in ("pre", "post"):
        raise ValueError(f"padding {padding!r} is unknown")
    arrays = {str(name): str(one["storage"]) for name, one in content["arrays"].items()}
    for name, storage in arrays.items():
        if storage not in STORAGES:
            raise ValueError(f"array {name} has the unknown storage {storage!r}")
    fixed = None if content["fixed_slots"] is None else whole(content, "fixed_slots", most=MOST_SLOTS)
    max_len = whole(content, "max_len", most=MOST_SLOTS)
    if content["behaviours"] and min(max_len, max_len if fixed is None else fixed) < 1:
        raise ValueError("histories have no slots")
    found = digests(path, engine)
    if "files" in content:
        _check_files(path, content["files"], found)
    return Model(
        path,
        str(content["name"]),
        engine,
        _inputs(content["inputs"]),
        arrays,
        _inputs(content["item_inputs"]),
        tuple(listed(content, "behaviours", str)),
        fixed,
        padding,
        max_len if fixed is None else min(max_len, fixed),
        calibration_of(content["calibration"]),
        _fingerprint(content, found),
    )


def _inputs(given: Sequence[Mapping[str, Any]]) -> tuple[Input, ...]:
    found = tuple(Input(str(one["name"]), str(one["dtype"]), tuple(one["dims"])) for one in given)
    for one in found:
        if one.dtype not in DTYPES:
            raise ValueError(f"input {one.name} has the unknown type {one.dtype!r}")
    return found


def digests(path: Path, engine: str) -> dict[str, str]:
    """SHA-256 of each file of a folder that scores depend on, by name; model.json itself is not among them.

    Raises:
        FolderError: a file cannot be read.
    """
    graphs = [f"{name}{SUFFIXES[engine]}" for name in ("model", "item_model")]
    # Weights of a large graph of ONNX lie beside it.
    weights = [f"{name}.data" for name in graphs if engine == "onnx"]
    found = {}
    for name in (*graphs, *weights, ITEMS, VOCABULARY):
        try:
            check_regular(path / name)
            with (path / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FolderError(f"{path / name} cannot be read ({error}): export the model again") from None
    return found


def _check_files(path: Path, said: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse files of two exports in one folder, which may load and score nonsense."""
    for name, digest in said.items():
        if name not in found:
            raise FolderError(f"{path / name} is missing: export the model again")
        if found[name] != digest:
            raise FolderError(
                f"{path / name} is not the file that was exported with model.json: it is damaged or of another "
                "export; copy the whole folder, or export the model again"
            )
    for name in found:
        if name not in said:
            raise FolderError(
                f"{path / name} was not exported with model.json: it is of another export; copy the whole folder to "
                "an empty place, or export the model again"
            )


def _fingerprint(content: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Of everything that scores depend on; a catalogue may be new where the graph is not."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for found in files.values():
        digest.update(bytes.fromhex(found))
    return digest.hexdigest()[:8]


def _safetensors(path: Path) -> dict[str, NDArray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise FolderError(f"{path} needs safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FolderError(f"{path} is missing: export the model again") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FolderError(f"{path} is damaged ({error}): export the model again") from None


def _array(found: Mapping[str, NDArray], name: str, storage: str, path: Path) -> NDArray:
    if name not in found:
        raise FolderError(f"{path}: array {name!r} is missing: export the model again")
    if found[name].dtype != np.dtype(storage) or not found[name].ndim:
        raise FolderError(f"{path}: array {name!r} is {found[name].dtype}, but model.json says {storage}")
    return found[name]
