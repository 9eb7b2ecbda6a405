"""From a tuner file, in FuxiCTR's own form, to trials with stable ids."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS
from fuxictr_multimodal.config.expids import (
    KNOWN_KEYS,
    check_dataset_entry,
    give_way,
    load_dataset_config,
    load_model_config,
    merge_params,
    shared_keys,
)
from fuxictr_multimodal.config.identity import config_hash, trial_hash
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.launch.tuning.settings import Axis, Range, SearchSettings, dataset_ids
from fuxictr_multimodal.training.run_names import RunFiles

# Keys of a dataset entry that say how a built dataset is read; the others say what is built.
READ_KEYS = frozenset({"max_len", "group_id", "rebuild_dataset", "obtain"})
BUILD_KEYS = DATASET_KEYS - READ_KEYS
ID_DIGITS = 12  # 48 bits: among 10,000 trials two would agree by chance once in five million sweeps


@dataclass(frozen=True)
class Trial:
    """One setting of a sweep, as its own experiment.

    Attributes:
        expid: `<base_expid>_<trial_hash>`.
        settings: the tuned keys and this trial's values.
        entry: its entry in `model_config.yaml`, `Base` merged in.
        dataset: the entry of its dataset in `dataset_config.yaml`.
        params: the parameters that the runner resolves them to.
        config_hash: of what it computes, as the runner writes it into the report.
    """

    expid: str
    settings: dict[str, Any]
    entry: dict[str, Any]
    dataset: dict[str, Any]
    params: dict[str, Any]
    config_hash: str

    @property
    def dataset_id(self) -> str:
        """Name of the dataset, with a hash appended where the trial changes how it is built."""
        return self.entry["dataset_id"]

    @property
    def report(self) -> Path:
        """Where the runner writes the trial's report."""
        return RunFiles(Path(self.params["model_root"]) / self.dataset_id, self.expid).report


@dataclass
class Space:
    """A parsed tuner file.

    NOTE[DIFF]: FuxiCTR's `enumerate_params` is one function that hashes the sorted characters of a setting, fails
    on a second dataset setting and on an inline `model_config`, and writes its files at the end; none of it can be
    replaced from outside, so its product of lists is done here. Its file form, its folder and the settings of its
    trials are kept (`tests/launch/tuning/test_space.py` compares them), with these differences:

    * an id has no running number, which would change as the space grows, and hashes the whole resolved configuration;
    * a dataset keeps its own id until a trial changes how it is built, so that an existing one is found;
    * `dataset_id` itself can be tuned, which FuxiCTR reads and then forgets;
    * `model_keys` lets one file fit models that name a parameter differently: `FinalMLP: {net_dropout: [mlp1_dropout,
      mlp2_dropout]}` gives both keys of FinalMLP the value that the space calls `net_dropout`; with an empty list the
      model has no such key, and the space of its trials lacks the axis. An expid in the place of the model says it for
      that experiment alone.
    """

    path: Path
    base_expid: str
    axes: dict[str, Axis]
    entry: dict[str, Any]
    datasets: dict[str, dict[str, Any]] = field(repr=False)
    model_keys: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path, *, expid: str | None = None) -> Space:
        """Read a tuner file: `base_config`, `base_expid`, `dataset_id`, `tuner_space`, `model_keys`, inline configs.

        `base_config` is relative to the working folder, as in FuxiCTR, and by default the tuner file's folder.

        Args:
            path: the tuner file.
            expid: takes the place of its `base_expid`. A `dataset_id` in the file still says the dataset, as it does
                for any `base_expid`; without one it is the expid's own.

        Raises:
            ConfigError: naming the file, the key and what to write.
        """
        settings = SearchSettings.read(path)
        where = f"{path}: tuner_space"
        base_expid = expid or settings.base_expid
        entry, shared = _model_entry(settings, path, base_expid)
        dataset_id = settings.dataset_id or entry.get("dataset_id")
        if not dataset_id or dataset_id == "TBD":
            raise ConfigError(f"{path}: base_expid {base_expid!r} has no dataset; set `dataset_id`")
        if entry.get("dataset_id") == "TBD":
            base_expid = f"{entry['model'].rpartition('/')[2]}_{dataset_id}"
        entry["dataset_id"] = dataset_id
        axes = settings.axes(where)
        datasets = {name: _dataset_entry(settings, path, name) for name in dataset_ids(axes, dataset_id, where)}
        model_keys = settings.keys_by_model(axes, str(path))
        lacking = {key for key, names in _names_of(model_keys, base_expid, entry["model"]).items() if not names}
        axes = {key: axis for key, axis in axes.items() if key not in lacking}
        return cls(path, base_expid, axes, entry, datasets, model_keys, shared)

    @property
    def varied(self) -> list[str]:
        """Tuned keys that have more than one value."""
        return [key for key, axis in self.axes.items() if isinstance(axis, Range) or len(axis) > 1]

    @property
    def size(self) -> int | None:
        """How many settings there are; None where a range has no end."""
        size = 1
        for axis in self.axes.values():
            if isinstance(axis, Range):
                return None
            size *= len(axis)
        return size

    def refuse_unlisted_keys(self) -> None:
        """Refuse a tuned key that the base experiment does not set, as FuxiCTR does.

        The runner's own parameters are known anyway; those of a model are checked when the sweep is prepared.
        """
        known = {*self.entry, *KNOWN_KEYS}
        for key in self._in_terms_of(self.entry["model"], self.axes):
            if key not in known:
                raise ConfigError(
                    f"{self.path}: tuner_space: {key!r} is not set by the base. {did_you_mean(key, known)}"
                )

    def grid(self) -> list[Trial]:
        """All settings, in the order of the file; one that is written twice is one trial.

        Raises:
            ConfigError: for a range, which has no grid.
        """
        lists = {key: axis for key, axis in self.axes.items() if not isinstance(axis, Range)}
        for key in [key for key in self.axes if key not in lists]:
            raise ConfigError(
                f"{self.path}: tuner_space: {key} is a range, which a grid cannot list: "
                "write a list, or search with --search random or --search tpe"
            )
        trials = [self.trial(settings) for settings in _product(lists)]
        return list({trial.expid: trial for trial in trials}.values())

    def representatives(self) -> list[Trial]:
        """One trial for each model and dataset setting of the space: enough to check keys and to build datasets."""
        kept = {
            key: axis if key in ("model", "dataset_id") or key in DATASET_KEYS else axis[:1]
            for key, axis in ((k, [a.low] if isinstance(a, Range) else a) for k, a in self.axes.items())
        }
        trials = [self.trial(settings) for settings in _product(kept)]
        return list({(t.params["model"], t.dataset_id, _canonical(t.dataset)): t for t in trials}.values())

    def trial(self, settings: Mapping[str, Any]) -> Trial:
        """Make one setting an experiment.

        Raises:
            ConfigError: for a value that would fail late.
        """
        tuned = self._in_terms_of(settings.get("model", self.entry["model"]), settings)
        given = self.datasets[tuned.get("dataset_id", self.entry["dataset_id"])]
        entry = {**give_way(self.entry, self.shared, given), **tuned}
        built = {key: value for key, value in tuned.items() if key in BUILD_KEYS}
        # How a dataset is read belongs to the trial: trials with different `max_len` share one dataset and its entry.
        dataset = {k: v for k, v in {**given, **built}.items() if k not in READ_KEYS or k not in tuned}
        entry = {key: value for key, value in entry.items() if key not in built}
        changed = {key: value for key, value in built.items() if key != "data_root" and given.get(key) != value}
        if changed:
            whole = {key: value for key, value in {**given, **changed}.items() if key in BUILD_KEYS - {"data_root"}}
            entry["dataset_id"] = f"{entry['dataset_id']}_{_digest(whole)}"
        dataset_id = entry["dataset_id"]
        params = merge_params(self.base_expid, entry, {**dataset, "dataset_id": dataset_id})
        expid = f"{self.base_expid}_{trial_hash(params)[:ID_DIGITS]}"
        return Trial(expid, dict(settings), entry, dataset, {**params, "model_id": expid}, config_hash(params))

    def _in_terms_of(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under the names that a model gives their keys."""
        names = _names_of(self.model_keys, self.base_expid, model)
        return {name: value for key, value in settings.items() for name in names.get(key, [key])}

    def hash(self) -> str:
        """Identity of the space and what lies under it: another one is another search."""
        axes = {key: vars(axis) if isinstance(axis, Range) else axis for key, axis in self.axes.items()}
        return _digest([axes, self.base_expid, [trial_hash(trial.params) for trial in self.representatives()]])


def _model_entry(settings: SearchSettings, path: Path, expid: str) -> tuple[dict[str, Any], frozenset[str]]:
    """An experiment's entry, and which of its keys `Base` alone sets."""
    if settings.models is None:
        folder = settings.config_dir(path)
        return load_model_config(folder, expid), shared_keys(folder, expid)
    if expid not in settings.models:
        raise ConfigError(f"{path}: model_config has no entry {expid!r}. {did_you_mean(expid, settings.models)}")
    base = settings.models.get("Base", {})
    entry = {**base, **settings.models[expid]}
    if not isinstance(entry.get("model"), str):
        raise ConfigError(f"{path}: model_config: {expid!r} does not set `model` to a name")
    return entry, frozenset(base.keys() - settings.models[expid].keys())


def _dataset_entry(settings: SearchSettings, path: Path, dataset_id: str) -> dict[str, Any]:
    inline = settings.datasets
    if inline is None:
        entry = load_dataset_config(settings.config_dir(path), dataset_id)
    elif dataset_id not in inline:
        raise ConfigError(f"{path}: dataset_config has no entry {dataset_id!r}. {did_you_mean(dataset_id, inline)}")
    else:
        entry = check_dataset_entry(dataset_id, inline[dataset_id], str(path))
    return {key: value for key, value in entry.items() if key != "dataset_id"}


def _names_of(
    model_keys: Mapping[str, Mapping[str, Sequence[str]]], expid: str, model: str
) -> Mapping[str, Sequence[str]]:
    return model_keys.get(expid, model_keys.get(model, {}))


def _product(axes: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _digest(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:ID_DIGITS]
