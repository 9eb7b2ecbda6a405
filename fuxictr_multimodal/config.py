"""YAML to checked parameters: the toolkit's expid form, with the mistakes it swallows made into errors.

A config folder holds `model_config/*.yaml` (or `model_config.yaml`) with expids and one `Base`, and
`dataset_config/*.yaml` (or `dataset_config.yaml`) with dataset ids. Parameters of an expid are `Base`, then the
expid, then its dataset, then `--set`.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fuxictr_multimodal.errors import ConfigError, did_you_mean

# What the experiment runner reads, beside what a model's signature names.
RUN_KEYS = frozenset(
    "model dataset_id model_id model_root seed epochs batch_size shuffle max_gradient_norm metrics monitor "
    "monitor_mode save_best_only early_stop_patience reduce_lr_on_plateau factor weight_averaging eval_steps verbose "
    "optimizer loss task gpu group_id use_features feature_specs loader_mode shuffle_window embedding_regularizer "
    "net_regularizer zoo_root tuning_trials".split()
)
# What a dataset entry may say.
DATASET_KEYS = frozenset(
    "data_root data_format train_data valid_data test_data max_len group_id item_col feature_cols label_col "
    "min_categr_count synthetic obtain rebuild_dataset".split()
)
# Habits of the toolkit's `Base` that have no effect on a store: accepted so that its files run unchanged.
TOOLKIT_KEYS = frozenset("num_workers pickle_feature_encoder debug_mode feature_config".split())
# Where and how a run is executed, not what it computes.
UNHASHED_KEYS = frozenset(
    "gpu verbose num_workers model_root data_root model_id loader_mode zoo_root tuning_trials".split()
)

_FLOAT_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_INITIALIZER = re.compile(
    r"(torch\.)?nn\.init\.\w+_|partial\((torch\.)?nn\.init\.\w+_(, *\w+ *= *[-+.\deE]+)*\)", re.ASCII
)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice in one mapping, where plain YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                where = key_node.start_mark
                raise ConfigError(f"{where.name}, line {where.line + 1}: key {key!r} is written twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; refuse double keys and floats that YAML 1.1 reads as text (`1e-3`).

    Raises:
        ConfigError: naming the file and the line or key.
    """
    try:
        with path.open(encoding="utf-8") as file:
            loader = _StrictLoader(file)
            try:
                content = loader.get_single_data()
            finally:
                loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of ids to settings, found {type(content).__name__}")
    _refuse_text_floats(content, str(path))
    return content


def load_config(
    config_dir: str | Path, expid: str, *, overrides: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """Resolve one expid to its parameters.

    Args:
        config_dir: folder of YAML files.
        expid: key of an experiment.
        overrides: `key=value` texts, values in YAML; the last word on a key.
        seed: replaces `seed` when given.

    Raises:
        ConfigError: unknown expid (nearest named), unreadable file, a key set differently by expid and dataset.
    """
    entry = load_model_config(config_dir, expid)
    if any(text.startswith("dataset_id=") for text in overrides):
        entry["dataset_id"] = dict(_parse_override(text) for text in overrides)["dataset_id"]
    dataset = load_dataset_config(config_dir, entry["dataset_id"])
    return merge_params(expid, entry, dataset, overrides=overrides, seed=seed)


def load_model_config(config_dir: str | Path, expid: str) -> dict[str, Any]:
    """Read the entry of one experiment, `Base` under it, without its dataset.

    Raises:
        ConfigError: unknown expid (nearest named), unreadable file, no model or dataset named.
    """
    experiments = _read_entries(Path(config_dir), "model_config")
    if expid not in experiments or expid == "Base":
        known = [name for name in experiments if name != "Base"]
        raise ConfigError(f"expid {expid!r} is not in {config_dir}. {did_you_mean(expid, known)}")
    entry = {**experiments.get("Base", {}), **experiments[expid]}
    for key in ("model", "dataset_id"):
        if not entry.get(key):
            raise ConfigError(f"expid {expid!r} in {config_dir} does not set `{key}`")
    return entry


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
    params = {**entry, "model_id": expid}
    for key, value in dataset.items():
        if key in params and params[key] != value:
            raise ConfigError(
                f"key {key!r} is {params[key]!r} in expid {expid!r} and {value!r} in dataset "
                f"{params['dataset_id']!r}: keep one of them"
            )
    params.update(dataset)
    params.update(_parse_override(text) for text in overrides)
    if seed is not None:
        params["seed"] = seed
    return _normalised(params)


def load_dataset_config(config_dir: str | Path, dataset_id: str) -> dict[str, Any]:
    """Read the entry of one dataset and add its `dataset_id`.

    Raises:
        ConfigError: unknown dataset id (nearest named) or key, missing or malformed required keys.
    """
    datasets = _read_entries(Path(config_dir), "dataset_config")
    if dataset_id not in datasets:
        raise ConfigError(f"dataset_id {dataset_id!r} is not in {config_dir}. {did_you_mean(dataset_id, datasets)}")
    return check_dataset_entry(dataset_id, datasets[dataset_id], str(config_dir))


def check_dataset_entry(dataset_id: str, entry: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check the keys of one dataset's entry, read from `origin`, and add its `dataset_id`.

    Raises:
        ConfigError: unknown key (nearest named), or a required one missing.
    """
    where = f"dataset {dataset_id!r} in {origin}"
    check_keys(entry, DATASET_KEYS, where)
    for key in ("data_root", "feature_cols", "label_col"):
        if key not in entry:
            raise ConfigError(f"{where} does not set `{key}`")
    return {**entry, "dataset_id": dataset_id}


def list_expids(config_dir: str | Path) -> list[str]:
    """Names of all experiments of a config folder, sorted."""
    return sorted(name for name in _read_entries(Path(config_dir), "model_config") if name != "Base")


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse a key that nobody reads, and name the nearest one that somebody does."""
    known = set(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown key {key!r}.{hint}")


def check_model_keys(params: Mapping[str, Any], model_class: type) -> None:
    """Refuse parameters that neither the model's signature, nor the runner, nor the dataset entry names.

    The toolkit's models take `**kwargs` and drop what they do not know, so a misspelt key would vanish.
    """
    known = set(RUN_KEYS | DATASET_KEYS | TOOLKIT_KEYS)
    for cls in model_class.__mro__:
        if "__init__" in vars(cls) and cls.__module__.split(".")[0] in ("fuxictr", "model_zoo"):
            known.update(inspect.signature(cls.__init__).parameters)
    check_keys(params, known - {"self", "feature_map", "kwargs", "params"}, f"expid {params['model_id']!r}")


def config_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of what a run computes: canonical JSON of the parameters without machine settings."""
    return hashlib.sha256(json.dumps(computed(params), sort_keys=True).encode()).hexdigest()


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], free: Iterable[str] = ()) -> list[str]:
    """Keys but `free` by which two runs have different hashes, each with both values.

    >>> changed_keys({"epochs": 2, "gpu": 0}, {"epochs": 3, "gpu": 1, "net_regularizer": None})
    ['epochs: 2 then, 3 now', 'net_regularizer: not set then, None now']
    """
    # Parameters that were read from a report have been through JSON.
    before, now = json.loads(json.dumps([computed(before), computed(now)]))
    pairs = {key: (before.get(key, "not set"), now.get(key, "not set")) for key in sorted(before.keys() | now.keys())}
    return [f"{key}: {old} then, {new} now" for key, (old, new) in pairs.items() if key not in free and old != new]


def computed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by which two runs differ: what they compute, not where and how."""
    return {key: value for key, value in params.items() if key not in UNHASHED_KEYS}


def _read_entries(config_dir: Path, kind: str) -> dict[str, dict[str, Any]]:
    """All top-level entries of `<kind>.yaml` or `<kind>/*.yaml`, each id in one file only."""
    single = config_dir / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((config_dir / kind).glob("*.yaml"))
    if not files:
        raise ConfigError(f"{config_dir}: found neither {kind}.yaml nor {kind}/*.yaml; give the folder with --config")
    entries: dict[str, dict[str, Any]] = {}
    origin: dict[str, Path] = {}
    for path in files:
        for name, entry in read_yaml(path).items():
            if name in entries:
                raise ConfigError(f"{name!r} is defined in {origin[name]} and in {path}: keep one of them")
            if not isinstance(entry, dict):
                raise ConfigError(f"{path}: {name!r} must be a mapping of settings, found {entry!r}")
            entries[name], origin[name] = entry, path
    return entries


def _parse_override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text!r}: write key=value, for example --set learning_rate=1.e-3")
    # On the command line 1e-3 cannot be meant as text.
    if _FLOAT_AS_TEXT.fullmatch(value):
        return key, float(value)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None


def _refuse_text_floats(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_text_floats(item, f"{where}: {key}")
    elif isinstance(value, list):
        for item in value:
            _refuse_text_floats(item, where)
    elif isinstance(value, str) and _FLOAT_AS_TEXT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        number = f"{mantissa}.e{exponent}" if "." not in mantissa else f"{mantissa}e{exponent}"
        raise ConfigError(f"{where}: YAML 1.1 reads {value} as text, not as a number; write {_signed(number)}")


def _signed(number: str) -> str:
    """YAML 1.1 also wants the exponent's sign: 1.e3 is text, 1.e+3 is a number."""
    return re.sub(r"e(?=\d)", "e+", number)


def _normalised(params: dict[str, Any]) -> dict[str, Any]:
    """Check values that would fail late, silently or by running code inside the toolkit."""
    where = f"expid {params['model_id']!r}"
    for key in ("embedding_regularizer", "net_regularizer"):
        # The toolkit ignores an integer regulariser without a word.
        if isinstance(params.get(key), int):
            params[key] = float(params[key])
    initializer = params.get("embedding_initializer")
    if initializer is not None and not _INITIALIZER.fullmatch(str(initializer)):
        raise ConfigError(
            f"{where}: embedding_initializer {initializer!r} would be run as code by the toolkit; "
            "write partial(nn.init.<name>_, key=number) or nn.init.<name>_"
        )
    for key in ("model_root", "seed", "metrics", "monitor", "epochs", "batch_size"):
        if params.get(key) is None:
            raise ConfigError(f"{where}: `{key}` is not set; `Base` is the place for what experiments share")
    for key in ("epochs", "batch_size", "early_stop_patience"):
        value = params.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{where}: {key} must be a whole number from 1, found {value!r}")
    value = params.get("learning_rate")
    if value is not None and (isinstance(value, (bool, str)) or not 0 < value < 100):
        raise ConfigError(f"{where}: learning_rate must be a positive number, found {value!r}")
    value = params.get("weight_averaging")
    if value is not None and (isinstance(value, (bool, str)) or not 0 <= value < 1):
        raise ConfigError(f"{where}: weight_averaging must be a number from 0, none, to below 1, found {value!r}")
    return params
