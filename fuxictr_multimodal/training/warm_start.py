"""Start a run from the weights of an earlier one, whose vocabularies may have grown or changed since.

The row of an id or token that both datasets have is copied as it is, wherever its code moved to; a new one keeps its
fresh initialisation. All other weights must have the same names and shapes, and are copied.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fuxictr_multimodal.config.changes import changes
from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS
from fuxictr_multimodal.config.identity import computed
from fuxictr_multimodal.config.run_settings import RUN_KEYS
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.torch_files import check_values, named_tensors, read_torch
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import REPORT_SUFFIX, RunFiles
from fuxictr_multimodal.training.vocabularies import Vocabularies, build_folder

MODEL_SUFFIX = ".model"
# Of settings or weights that differ, an error names so many.
MOST_NAMED = 4


@dataclass(frozen=True)
class Source:
    """The earlier run: its files, its report, and the build of the dataset on which it was trained."""

    files: RunFiles
    report: Report
    vocabularies: Vocabularies


def find_source(params: Mapping[str, Any], store: Store, files: RunFiles) -> Source | None:
    """The run that `warm_start` names, None where it names none.

    Args:
        params: of the run that starts.
        store: its dataset.
        files: its files.

    Raises:
        ConfigError: the run is the one that starts, or of another model.
        DataError: there is no such finished run, its dataset is not there any more, or the vectors of co-occurrence of
            this dataset are not those that it was trained on.
    """
    named = params.get("warm_start")
    if named is None:
        return None
    found = _files(str(named), files.directory)
    if found.report.resolve() == files.report.resolve():
        raise ConfigError(f"warm_start: {named} is the run itself: give the new run another name with --name")
    if not found.report.is_file():
        if str(named).endswith(MODEL_SUFFIX):
            raise DataError(
                f"warm_start: {found.model} has no {found.report.name} beside it, so that the dataset on which it was "
                "trained is not known: keep both files together"
            )
        runs = [RunFiles.of_report(path).run for path in found.directory.glob(f"*{REPORT_SUFFIX}")]
        raise DataError(f"warm_start: {found.report} does not exist. {did_you_mean(found.run, runs)}".strip())
    report = Report.read(found.report)
    if report.status != "completed" or not found.model.is_file():
        what = f"is of a run that is {report.status}" if report.status != "completed" else f"has no {found.model.name}"
        raise DataError(f"warm_start: {found.report} {what}: name a finished run")
    if _short(report.model) != _short(params["model"]):
        raise ConfigError(f"warm_start: {found.run} is a run of {report.model}, not of {params['model']}")
    _refuse_new_directions(found.run, report.manifest_hash, store)
    places = [store.dir, build_folder(found.directory, report.manifest_hash)]
    places += [
        Path(root) / report.dataset_id
        for root in dict.fromkeys([report.config.get("data_root"), store.dir.parent])
        if root
    ]
    vocabularies = Vocabularies.of_build(places, report.manifest_hash)
    if vocabularies is None:
        raise DataError(
            f"warm_start: the build of dataset {report.dataset_id!r} on which {found.run} was trained (manifest "
            f"{report.manifest_hash[:12]}) is not in {' or '.join(map(str, dict.fromkeys(places[1:])))}, so that its "
            "ids are not known: put the old dataset back there, or train without warm_start"
        )
    _refuse_other_encoders(vocabularies, store)
    return Source(found, report, vocabularies)


def _refuse_new_directions(run: str, trained_on: str, store: Store) -> None:
    """Vectors of co-occurrence that are computed anew have other directions, to which no earlier weight fits."""
    manifest = store.manifest
    if manifest.hash == trained_on:
        return
    for column, facts in _facts_of_vectors(manifest).items():
        if facts.get("method") == "ppmi_svd":
            raise DataError(
                f"warm_start: dataset {manifest.dataset_id!r} is another build than that on which {run} was trained, "
                f"and the vectors of its column {column!r} (item_vectors) have other directions: train without "
                "warm_start, or build the dataset without this column"
            )


def _refuse_other_encoders(earlier: Vocabularies, store: Store) -> None:
    """An encoder of texts that was trained again, or another one, gives vectors to which no earlier weight fits."""
    before = _facts_of_vectors(earlier.manifest)
    for column, facts in _facts_of_vectors(store.manifest).items():
        then, now = before.get(column, {}).get("fingerprint"), facts.get("fingerprint")
        if then is not None and now is not None and then != now:
            raise DataError(
                f"warm_start: the texts of column {column!r} are encoded by other weights in dataset "
                f"{store.manifest.dataset_id!r} than in {earlier}: train without warm_start, or build the dataset with "
                "the encoder of then"
            )


def _facts_of_vectors(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """Metadata of vectors by column: recipes write them beside other metadata, entries under `vectors`."""
    facts = {**manifest.facts, **manifest.facts.get("vectors", {})}
    return {column: values for column, values in facts.items() if isinstance(values, Mapping)}


def start_from(source: Source, model: nn.Module, store: Store, params: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the weights of an earlier run into a model, and log what became of each vocabulary.

    Args:
        source: of `find_source`.
        model: as it was initialised; it is changed only if all of it fits.
        store: its dataset.
        params: of the run.

    Returns:
        For the report: `run`, its `model_file` and `rows`, by column how many are `kept`, `new` and `dropped`.

    Raises:
        ConfigError: a weight has another name or shape.
        DataError: the file is damaged, or values of a column cannot be matched.
    """
    path = source.files.model
    remedy = "train that run again, or train without warm_start"
    earlier = named_tensors(read_torch(path, remedy=remedy), path, remedy=remedy)
    own = model.state_dict()
    _refuse_other_names(earlier, own, source, params)
    matches = _Matches(Vocabularies(store.folder, store.manifest), source.vocabularies)
    rows = dict(_rows(model, matches, earlier))
    for name, weight in own.items():
        there, here = tuple(earlier[name].shape), tuple(weight.shape)
        if there[1:] != here[1:] or (there[:1] != here[:1] and name not in rows):
            raise ConfigError(
                f"warm_start: {name!r} has shape {there} in {path} and {here} in this run: {_why(source, params)}"
            )
        check_values(name, earlier[name], weight, path, remedy=remedy)
    with torch.no_grad():
        for name, weight in own.items():
            if name in rows:
                old, new = rows[name]
                weight[torch.from_numpy(new).to(weight.device)] = earlier[name][torch.from_numpy(old)].to(weight)
            else:
                weight.copy_(earlier[name])
    if callable(forget := getattr(model, "forget", None)):
        forget()
    logging.info("Warm start from %s", path)
    for column, counts in matches.counts.items():
        logging.info("Rows of %s: %s", column, ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return {"run": source.files.run, "model_file": str(path), "rows": matches.counts}


class _Matches:
    """The matched codes of each column, computed once, and what became of its rows."""

    def __init__(self, here: Vocabularies, there: Vocabularies) -> None:
        self.here, self.there = here, there
        self.counts: dict[str, dict[str, int]] = {}
        self._found: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __call__(self, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes of the earlier dataset, and of the same values in this one."""
        if column not in self._found:
            before, now = (self._size(side, column) for side in (self.there, self.here))
            if self.here.manifest.hash == self.there.manifest.hash:
                old = new = np.arange(now)
            else:
                match = self.here.matched(column, self.there)
                old, new = match.old, match.new
            self._found[column] = old, new
            self.counts[column] = {"kept": len(old), "new": now - len(new), "dropped": before - len(old)}
        return self._found[column]

    @staticmethod
    def _size(side: Vocabularies, column: str) -> int:
        if column not in side.sizes:
            raise DataError(f"warm_start: {side.folder.place} has no feature {column!r} with a vocabulary")
        return side.sizes[column]


def _rows(
    model: nn.Module, matches: _Matches, earlier: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Weights with a row for each code, by name: rows of the earlier weight, and the same ones of this model's."""
    feature_map: Any = model.feature_map
    features = feature_map.features
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding):
            # The place of a table in its layers has the name of its feature; other tables are of slots and the like.
            feature = next((part for part in reversed(path.split(".")) if part in features), None)
            if feature is not None and f"{path}.weight" in earlier:
                yield f"{path}.weight", matches(_vocabulary_of(feature, features))
        elif callable(rows_of := getattr(module, "rows_of", None)):
            columns = {name: _vocabulary_of(name, features) for name in module.vocabularies}
            found = {name: matches(column) for name, column in columns.items()}
            old, new = (
                rows_of(
                    sizes={name: side.sizes[column] for name, column in columns.items()},
                    codes={name: codes[index] for name, codes in found.items()},
                )
                for index, side in enumerate((matches.there, matches.here))
            )
            for name in module.row_weights:
                yield f"{path}.{name}", (old, new)


def _vocabulary_of(feature: str, features: Mapping[str, Mapping[str, Any]]) -> str:
    """The column whose vocabulary a feature uses."""
    shared = features[feature].get("share_embedding")
    return feature if shared is None or shared not in features else _vocabulary_of(shared, features)


def _refuse_other_names(
    earlier: Mapping[str, Tensor], own: Mapping[str, Tensor], source: Source, params: Mapping[str, Any]
) -> None:
    path = source.files.model
    for names, text in (
        (own.keys() - earlier.keys(), f"this run has weights that {path} lacks"),
        (earlier.keys() - own.keys(), f"{path} has weights that this run lacks"),
    ):
        if names:
            raise ConfigError(f"warm_start: {text} ({_listed(sorted(names))}): {_why(source, params)}")


def _why(source: Source, params: Mapping[str, Any]) -> str:
    """Settings of the model, or features, that the earlier run had otherwise."""
    then, now = computed(source.report.config), computed(params)
    read = RUN_KEYS - {"use_features", "feature_specs", "task"} | DATASET_KEYS
    found = [str(change) for change in changes(then, now) if change.key.partition(".")[0] not in read]
    features = [
        {c["name"]: c.get("type") for c in config.get("feature_cols", []) if isinstance(c.get("name"), str)}
        for config in (then, now)
    ]
    found += [str(change) for change in changes(*features)] if not found else []
    if not found:
        return "the models or the datasets are described otherwise; describe them alike, or train without warm_start"
    return f"the earlier run was set otherwise ({_listed(found)}); set it alike, or train without warm_start"


def _listed(texts: list[str]) -> str:
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _files(named: str, directory: Path) -> RunFiles:
    """The files of the run that a name, `<dataset_id>/<name>`, a report or a model file means."""
    path = user_path(named)
    if named.endswith(REPORT_SUFFIX):
        return RunFiles.of_report(path)
    if named.endswith(MODEL_SUFFIX):
        return RunFiles(path.parent, path.name.removesuffix(MODEL_SUFFIX))
    if len(path.parts) > 2 or path.is_absolute():
        raise ConfigError(
            f"warm_start: {named!r} is neither the name of a run, <dataset_id>/<run>, nor a file {REPORT_SUFFIX} or "
            f"{MODEL_SUFFIX}"
        )
    return RunFiles(directory.parent.joinpath(*path.parts[:-1]) if len(path.parts) == 2 else directory, path.name)


def _short(model: str) -> str:
    """`DIN` of `LongCTR/DIN`."""
    return model.rpartition("/")[2]
