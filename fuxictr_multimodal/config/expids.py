"""Experiments and datasets of a config folder: FuxiCTR's expid form, with the mistakes it swallows made into errors.

A config folder holds `model_config/*.yaml` (or `model_config.yaml`) with expids and one `Base`, and
`dataset_config/*.yaml` (or `dataset_config.yaml`) with dataset ids. Parameters of an expid are `Base`, then the
expid, then its dataset, then `--set`. They stay the flat mapping that FuxiCTR's models take.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.binder import bind_known, check_keys, override, parse_override
from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS, DatasetSettings
from fuxictr_multimodal.config.entry_paths import found_from
from fuxictr_multimodal.config.known_values import check_known_values
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.run_settings import FUXICTR_KEYS, RUN_KEYS, ModelSettings, RunSettings
from fuxictr_multimodal.config.user_paths import user_path, with_home
from fuxictr_multimodal.config.yaml_files import check_expid, experiment_names, read_entries
from fuxictr_multimodal.errors import ConfigError, check_removed, did_you_mean

# Keys that mean something for every model.
KNOWN_KEYS = RUN_KEYS | DATASET_KEYS | FUXICTR_KEYS
PATH_KEYS = ("model_root", "data_root", "zoo_root")


def load_config(
    config_dir: str | Path, expid: str, *, overrides: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """Resolve one expid to its parameters.

    Args:
        config_dir: folder of YAML files.
        expid: key of an experiment.
        overrides: `key=value` texts, values in YAML, a dot between levels (`synthetic.rows=1000`); the last one on a
            key wins.
        seed: replaces `seed` when given.

    Raises:
        ConfigError: unknown expid (nearest named), unreadable file, a key set differently by expid and dataset, or a
            value that FuxiCTR would evaluate.
    """
    entry = load_model_config(config_dir, expid)
    for text in overrides:
        path, value = parse_override(text)
        if path == ["dataset_id"]:
            entry["dataset_id"] = value
    dataset = load_dataset_config(config_dir, entry["dataset_id"])
    entry = give_way(entry, shared_keys(config_dir, expid), dataset)
    return merge_params(expid, entry, dataset, overrides=overrides, seed=seed)


def load_model_config(config_dir: str | Path, expid: str) -> dict[str, Any]:
    """Read the entry of one experiment, `Base` under it, without its dataset.

    Raises:
        ConfigError: unknown expid (nearest named), unreadable file, no model or dataset named.
    """
    check_plain_name(expid, "expid")
    experiments = _read_entries(config_dir, "model_config")
    check_expid(expid, experiments, config_dir)
    where = f"expid {expid!r} in {config_dir}"
    entry = copy.deepcopy({**experiments.get("Base", {}), **experiments[expid]})
    for key in ("model", "dataset_id"):
        if entry.get(key) in (None, ""):
            raise ConfigError(f"{where} does not set `{key}`")
    _check_model_name(entry["model"], where)
    check_plain_name(entry["dataset_id"], f"{where}: dataset_id")
    return entry


def shared_keys(config_dir: str | Path, expid: str) -> frozenset[str]:
    """Keys of an experiment that `Base` alone sets."""
    experiments = _read_entries(config_dir, "model_config")
    return frozenset(experiments.get("Base", {}).keys() - experiments[expid].keys())


def give_way(entry: Mapping[str, Any], shared: Collection[str], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's entry in which what all experiments share gives way to the dataset, as it does to the experiment.

    >>> give_way({"group_id": "user_id", "epochs": 2}, {"group_id"}, {"group_id": "customer"})
    {'epochs': 2}
    """
    return {key: value for key, value in entry.items() if key == "dataset_id" or not (key in shared and key in dataset)}


def _as_read(dataset: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dataset's entry without its `max_len` where an experiment reads fewer items of a history: a slow model may."""
    own, stored = entry.get("max_len"), dataset.get("max_len")
    if type(own) is int and type(stored) is int and own < stored:
        return {key: value for key, value in dataset.items() if key != "max_len"}
    return dataset


def merge_params(
    expid: str,
    entry: Mapping[str, Any],
    dataset: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> dict[str, Any]:
    """Merge an experiment's entry and its dataset's to checked parameters; see `load_config`.

    Raises:
        ConfigError: a key set differently by expid and dataset, or a value that would fail late.
    """
    where = f"expid {expid!r}"
    params = _with_home({**entry, "model_id": expid}, where)
    dataset = _as_read(dataset, entry)
    for key, value in _with_home(dataset, f"dataset {params['dataset_id']!r}").items():
        if key in params and params[key] != value:
            raise ConfigError(
                f"key {key!r} is {params[key]!r} in {where} and {value!r} in dataset "
                f"{params['dataset_id']!r}: keep one of them"
            )
    params.update(dataset)
    override(params, overrides, RunSettings, DatasetSettings)
    # Names of files come from the expid and the dataset only.
    params |= {"model_id": expid, "dataset_id": dataset.get("dataset_id", params["dataset_id"])}
    if seed is not None:
        params["seed"] = seed
    params = _with_home(params, where)
    check_params(params, where)
    for key in ("embedding_regularizer", "net_regularizer"):
        # FuxiCTR ignores an integer regulariser without a word.
        if isinstance(params.get(key), int):
            params[key] = float(params[key])
    return params


def load_dataset_config(config_dir: str | Path, dataset_id: str) -> dict[str, Any]:
    """Read the entry of one dataset and add its `dataset_id`.

    Raises:
        ConfigError: unknown dataset id (nearest named) or key, missing or malformed required keys.
    """
    check_plain_name(dataset_id, "dataset_id")
    datasets = _read_entries(config_dir, "dataset_config")
    if dataset_id not in datasets:
        raise ConfigError(f"dataset_id {dataset_id!r} is not in {config_dir}. {did_you_mean(dataset_id, datasets)}")
    return found_from(check_dataset_entry(dataset_id, datasets[dataset_id], str(config_dir)), user_path(config_dir))


def check_dataset_entry(dataset_id: str, entry: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check one dataset's entry, read from `origin`, and add its `dataset_id`.

    Raises:
        ConfigError: unknown key (nearest named), a required one missing, or a value that FuxiCTR would evaluate.
    """
    check_plain_name(dataset_id, f"{origin}: dataset_id")
    where = f"dataset {dataset_id!r} in {origin}"
    check_keys(entry, DATASET_KEYS, where)
    bind_known(DatasetSettings, entry, where)
    check_known_values(entry, where)
    return _with_home({**copy.deepcopy(dict(entry)), "dataset_id": dataset_id}, where)


def list_expids(config_dir: str | Path) -> list[str]:
    """Names of all experiments of a config folder, sorted."""
    return experiment_names(_read_entries(config_dir, "model_config"))


def base_entry(config_dir: str | Path) -> dict[str, Any]:
    """What all experiments of a config folder share, its `Base`; nothing where it has none, or no experiments."""
    directory = user_path(config_dir)
    if not (directory / "model_config.yaml").is_file() and not any((directory / "model_config").glob("*.yaml")):
        return {}
    return copy.deepcopy(_read_entries(directory, "model_config").get("Base", {}))


def check_model_keys(params: Mapping[str, Any], model_class: type) -> None:
    """Refuse parameters that neither the model's signature, nor the runner, nor the dataset entry names.

    FuxiCTR's models take `**kwargs` and drop what they do not know, so a misspelt key would vanish.

    Raises:
        ConfigError: naming the key and the nearest known one, or why it was removed (`removed_options` of the model).
    """
    where = f"expid {params['model_id']!r}"
    check_removed(params, getattr(model_class, "removed_options", {}), where)
    known = set(KNOWN_KEYS)
    for cls in model_class.__mro__:
        if "__init__" in vars(cls) and cls.__module__.split(".")[0] in ("fuxictr", "model_zoo"):
            known.update(inspect.signature(cls).parameters)
    check_keys(params, known - {"self", "feature_map", "kwargs", "params"}, where)


def _read_entries(config_dir: str | Path, kind: str) -> dict[str, dict[str, Any]]:
    """All entries of `<kind>.yaml` or `<kind>/*.yaml`, each id in one file only; callers must not change them."""
    config_dir = user_path(config_dir)
    single = config_dir / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((config_dir / kind).glob("*.yaml"))
    if not files:
        raise ConfigError(f"{config_dir}: found neither {kind}.yaml nor {kind}/*.yaml; pass the folder with --config")
    return read_entries(files, "expid" if kind == "model_config" else "dataset_id")


def check_params(params: Mapping[str, Any], where: str) -> None:
    """Check values that would fail late, silently or by running code inside FuxiCTR, wherever they were read.

    Raises:
        ConfigError: naming the key and the value.
    """
    bind_known(RunSettings, params, where, hint="`Base` is the place for what experiments share")
    bind_known(DatasetSettings, params, where)
    bind_known(ModelSettings, params, where)
    _check_model_name(params.get("model"), where)
    check_plain_name(params.get("dataset_id"), f"{where}: dataset_id")
    check_known_values(params, where, free=KNOWN_KEYS)


def _check_model_name(name: Any, where: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: model {name!r} is not a name: write it in quotes")


def _with_home(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy in which `~` of the configured folders is the home folder."""
    settings = dict(settings)
    for key in PATH_KEYS:
        # No folder means no clone; data and runs have one.
        if key in settings and not (key == "zoo_root" and settings[key] is None):
            try:
                settings[key] = with_home(settings[key])
            except ConfigError as error:
                raise ConfigError(f"{where}: {key} {error}") from None
    return settings
