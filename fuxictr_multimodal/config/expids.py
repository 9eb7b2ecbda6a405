"""YAML to checked parameters: FuxiCTR's expid form, with the mistakes it swallows made into errors.

A config folder holds `model_config/*.yaml` (or `model_config.yaml`) with expids and one `Base`, and
`dataset_config/*.yaml` (or `dataset_config.yaml`) with dataset ids. Parameters of an expid are `Base`, then the
expid, then its dataset, then `--set`.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fuxictr_multimodal.config.known_values import METRICS, check_known_values
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.errors import ConfigError, did_you_mean

# What the experiment runner reads, beside what a model's signature names.
RUN_KEYS = frozenset(
    "model dataset_id model_id model_root seed epochs batch_size shuffle max_gradient_norm metrics monitor "
    "monitor_mode save_best_only early_stop_patience reduce_lr_on_plateau factor weight_averaging eval_steps verbose "
    "optimizer loss task gpu group_id use_features feature_specs loader_mode shuffle_window embedding_regularizer "
    "net_regularizer zoo_root tuning_trials note".split()
)
# What a dataset entry may say.
DATASET_KEYS = frozenset(
    "data_root data_format train_data valid_data test_data max_len group_id item_col feature_cols label_col "
    "min_categr_count synthetic obtain rebuild_dataset".split()
)
# Habits of FuxiCTR's `Base` that have no effect on a store: accepted so that its files run unchanged.
FUXICTR_KEYS = frozenset("num_workers pickle_feature_encoder debug_mode feature_config".split())
# Where and how a run is executed, not what it computes.
UNHASHED_KEYS = frozenset(
    "gpu verbose num_workers model_root data_root model_id loader_mode zoo_root tuning_trials note".split()
)
# FuxiCTR's names for the files of a dataset: accepted, and read by nobody, since a built dataset knows its own files.
UNREAD_KEYS = frozenset("train_data valid_data test_data data_format".split())
PATH_KEYS = ("model_root", "data_root", "zoo_root")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


# Numbers and switches that the runner reads, with what they must be; null leaves the default.
VALUES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        "epochs batch_size early_stop_patience eval_steps shuffle_window max_len embedding_dim",
        "a whole number from 1",
        lambda value: _is_whole(value) and value >= 1,
    ),
    # What NumPy takes as a seed.
    ("seed", f"a whole number from 0 to {2**32 - 1}", lambda value: _is_whole(value) and 0 <= value < 2**32),
    ("learning_rate", "a positive number", lambda value: _is_number(value) and 0 < value < 100),
    ("max_gradient_norm", "a positive number", lambda value: _is_number(value) and value > 0),
    ("factor", "a number above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1),
    ("weight_averaging", "a number from 0, none, to below 1", lambda value: _is_number(value) and 0 <= value < 1),
    ("shuffle save_best_only reduce_lr_on_plateau", "True or False", lambda value: isinstance(value, bool)),
)

_FLOAT_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML that refuses a key written twice in one mapping, where plain YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, where = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, Hashable):
                raise ConfigError(f"{where.name}, line {where.line + 1}: a key must be a name, found {key!r}")
            if key in seen:
                raise ConfigError(f"{where.name}, line {where.line + 1}: key {key!r} is written twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; refuse double keys, dates, and floats that YAML 1.1 reads as text (`1e-3`).

    Raises:
        ConfigError: naming the file and the line or key.
    """
    return copy.deepcopy(_shared_yaml(path))


def _shared_yaml(path: Path) -> dict[str, Any]:
    """`read_yaml` without a copy of its own: nobody may change what it returns."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return _parsed(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, version: tuple[int, ...]) -> dict[str, Any]:
    """The content of a file; `version` tells a changed file from the one that was read before."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            loader = _StrictLoader(file)
            try:
                content = loader.get_single_data()
            finally:
                loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of ids to settings, found {type(content).__name__}")
    _check_scalars(content, str(path))
    return content


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
        path, value = _parse_override(text)
        if path == ["dataset_id"]:
            entry["dataset_id"] = value
    dataset = load_dataset_config(config_dir, entry["dataset_id"])
    return merge_params(expid, entry, dataset, overrides=overrides, seed=seed)


def load_model_config(config_dir: str | Path, expid: str) -> dict[str, Any]:
    """Read the entry of one experiment, `Base` under it, without its dataset.

    Raises:
        ConfigError: unknown expid (nearest named), unreadable file, no model or dataset named.
    """
    check_plain_name(expid, "expid")
    experiments = _read_entries(Path(config_dir), "model_config")
    if expid not in experiments or expid == "Base":
        known = [name for name in experiments if name != "Base"]
        raise ConfigError(f"expid {expid!r} is not in {config_dir}. {did_you_mean(expid, known)}")
    where = f"expid {expid!r} in {config_dir}"
    entry = copy.deepcopy({**experiments.get("Base", {}), **experiments[expid]})
    for key in ("model", "dataset_id"):
        if entry.get(key) in (None, ""):
            raise ConfigError(f"{where} does not set `{key}`")
    _check_model_name(entry["model"], where)
    check_plain_name(entry["dataset_id"], f"{where}: dataset_id")
    return entry


def _check_model_name(name: Any, where: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: model {name!r} is no name: write it in quotes")


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
    params = _with_home({**entry, "model_id": expid}, f"expid {expid!r}")
    for key, value in _with_home(dataset, f"dataset {params['dataset_id']!r}").items():
        if key in params and params[key] != value:
            raise ConfigError(
                f"key {key!r} is {params[key]!r} in expid {expid!r} and {value!r} in dataset "
                f"{params['dataset_id']!r}: keep one of them"
            )
    params.update(dataset)
    for text in overrides:
        _override(params, text)
    # Names of files come from the expid and the dataset only.
    params |= {"model_id": expid, "dataset_id": dataset.get("dataset_id", params["dataset_id"])}
    if seed is not None:
        params["seed"] = seed
    return _normalised(_with_home(params, f"expid {expid!r}"))


def load_dataset_config(config_dir: str | Path, dataset_id: str) -> dict[str, Any]:
    """Read the entry of one dataset and add its `dataset_id`.

    Raises:
        ConfigError: unknown dataset id (nearest named) or key, missing or malformed required keys.
    """
    check_plain_name(dataset_id, "dataset_id")
    datasets = _read_entries(Path(config_dir), "dataset_config")
    if dataset_id not in datasets:
        raise ConfigError(f"dataset_id {dataset_id!r} is not in {config_dir}. {did_you_mean(dataset_id, datasets)}")
    return check_dataset_entry(dataset_id, datasets[dataset_id], str(config_dir))


def check_dataset_entry(dataset_id: str, entry: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check the keys of one dataset's entry, read from `origin`, and add its `dataset_id`.

    Raises:
        ConfigError: unknown key (nearest named), a required one missing, or a value that FuxiCTR would evaluate.
    """
    check_plain_name(dataset_id, f"{origin}: dataset_id")
    where = f"dataset {dataset_id!r} in {origin}"
    check_keys(entry, DATASET_KEYS, where)
    for key in ("data_root", "feature_cols", "label_col"):
        if entry.get(key) is None:
            raise ConfigError(f"{where} does not set `{key}`")
    check_known_values(entry, where)
    return _with_home({**copy.deepcopy(dict(entry)), "dataset_id": dataset_id}, where)


def list_expids(config_dir: str | Path) -> list[str]:
    """Names of all experiments of a config folder, sorted."""
    return sorted(name for name in _read_entries(Path(config_dir), "model_config") if name != "Base")


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse a key that nobody reads, and name the nearest one that somebody does."""
    known = set(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown key {key!r}.{hint}")


def check_model_keys(params: Mapping[str, Any], model_class: type) -> None:
    """Refuse parameters that neither the model's signature, nor the runner, nor the dataset entry names.

    FuxiCTR's models take `**kwargs` and drop what they do not know, so a misspelt key would vanish.
    """
    known = set(RUN_KEYS | DATASET_KEYS | FUXICTR_KEYS)
    for cls in model_class.__mro__:
        if "__init__" in vars(cls) and cls.__module__.split(".")[0] in ("fuxictr", "model_zoo"):
            known.update(inspect.signature(cls.__init__).parameters)
    check_keys(params, known - {"self", "feature_map", "kwargs", "params"}, f"expid {params['model_id']!r}")


def config_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of what a run computes: canonical JSON of the parameters without machine settings and unread keys."""
    return _hash(computed(params))


def trial_hash(params: Mapping[str, Any]) -> str:
    """The hash that names a trial. It covers `UNREAD_KEYS` too: without them, sweeps begun earlier would start anew."""
    return _hash({key: value for key, value in params.items() if key not in UNHASHED_KEYS})


def computed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by which two runs differ: what they compute, not where and how."""
    return {key: value for key, value in params.items() if key not in UNHASHED_KEYS | UNREAD_KEYS}


def _hash(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def _read_entries(config_dir: Path, kind: str) -> dict[str, dict[str, Any]]:
    """All top-level entries of `<kind>.yaml` or `<kind>/*.yaml`, each id in one file only; nobody may change them."""
    config_dir = user_path(config_dir)
    single = config_dir / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((config_dir / kind).glob("*.yaml"))
    if not files:
        raise ConfigError(f"{config_dir}: found neither {kind}.yaml nor {kind}/*.yaml; give the folder with --config")
    return read_entries(files, "expid" if kind == "model_config" else "dataset_id")


def read_entries(files: Iterable[Path], what: str) -> dict[str, dict[str, Any]]:
    """All top-level entries of YAML files, each id in one of them only; nobody may change what it returns.

    Args:
        files: in the order of the entries.
        what: an id is of, for the error: `expid`.

    Raises:
        ConfigError: an id that is no plain name or stands in two files, or an entry that is no mapping.
    """
    entries: dict[str, dict[str, Any]] = {}
    origin: dict[str, Path] = {}
    for path in files:
        for name, entry in _shared_yaml(path).items():
            check_plain_name(name, f"{path}: {what}")
            if name in entries:
                raise ConfigError(f"{name!r} is defined in {origin[name]} and in {path}: keep one of them")
            if not isinstance(entry, dict):
                raise ConfigError(f"{path}: {name!r} must be a mapping of settings, found {entry!r}")
            entries[name], origin[name] = entry, path
    return entries


def _parse_override(text: str) -> tuple[list[str], Any]:
    """The key of a `--set`, split at its dots, and the value."""
    key, separator, value = text.partition("=")
    path = key.split(".")
    if not separator or not all(path):
        raise ConfigError(f"--set {text!r}: write key=value, for example --set learning_rate=1.e-3")
    # On the command line 1e-3 cannot be meant as text.
    if _FLOAT_AS_TEXT.fullmatch(value):
        return path, float(value)
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None
    _check_scalars(parsed, f"--set {text!r}")
    return path, parsed


def _override(params: dict[str, Any], text: str) -> None:
    """Set one key of `params`; a mapping on the way to a nested key is copied, since entries are shared."""
    (*groups, last), value = _parse_override(text)
    holder, known = params, None
    for group in groups:
        if not isinstance(holder.get(group), dict):
            near = did_you_mean(group, [key for key, inner in holder.items() if isinstance(inner, dict)])
            raise ConfigError(f"--set {text!r}: {group!r} is no group of settings here. {near}".rstrip())
        holder[group] = dict(holder[group])
        holder, known = holder[group], _keys_of(group, holder[group])
    if known is not None and last not in known:
        raise ConfigError(f"--set {text!r}: {groups[-1]!r} has no key {last!r}. {did_you_mean(last, known)}")
    holder[last] = value


def _keys_of(group: str, values: Mapping[str, Any]) -> set[str]:
    """What may be set in a group: what it sets already, and what its reader knows."""
    if group == "synthetic":
        from fuxictr_multimodal.data.synthetic.spec import SyntheticSpec

        return set(inspect.signature(SyntheticSpec).parameters)
    return {*map(str, values), *(METRICS if group == "monitor" else ())}


def _check_scalars(value: Any, where: str, around: tuple[Any, ...] = ()) -> None:
    """Refuse what YAML reads as something else than it looks like: `1e-3` as text, 2025-01-01 as a date.

    Args:
        value: what was read.
        where: for the error.
        around: the lists and mappings that hold the value; an alias may make one hold itself.
    """
    if any(value is outer for outer in around):
        raise ConfigError(f"{where}: a list or mapping holds itself: write its values out")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_scalars(item, f"{where}: {key}", (*around, value))
    elif isinstance(value, list):
        for item in value:
            _check_scalars(item, where, (*around, value))
    elif isinstance(value, datetime.date):
        raise ConfigError(f"{where}: YAML reads {value} as a date: write it in quotes")
    elif isinstance(value, str) and _FLOAT_AS_TEXT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        number = f"{mantissa}.e{exponent}" if "." not in mantissa else f"{mantissa}e{exponent}"
        raise ConfigError(f"{where}: YAML 1.1 reads {value} as text, not as a number; write {_signed(number)}")


def _signed(number: str) -> str:
    """YAML 1.1 also wants the exponent's sign: 1.e3 is text, 1.e+3 is a number."""
    return re.sub(r"e(?=\d)", "e+", number)


def _with_home(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy in which `~` of the configured folders is the home folder."""
    settings = dict(settings)
    for key in PATH_KEYS:
        # No folder means no clone; data and runs have one.
        if key in settings and not (key == "zoo_root" and settings[key] is None):
            try:
                path = user_path(settings[key])
            except ConfigError as error:
                raise ConfigError(f"{where}: {key} {error}") from None
            if str(settings[key]).startswith("~"):
                settings[key] = str(path)
    return settings


def _normalised(params: dict[str, Any]) -> dict[str, Any]:
    """Check values that would fail late, silently or by running code inside FuxiCTR."""
    where = f"expid {params['model_id']!r}"
    for key in ("embedding_regularizer", "net_regularizer"):
        # FuxiCTR ignores an integer regulariser without a word.
        if isinstance(params.get(key), int):
            params[key] = float(params[key])
    for key in ("model_root", "seed", "metrics", "monitor", "epochs", "batch_size"):
        if params.get(key) is None:
            raise ConfigError(f"{where}: `{key}` is not set; `Base` is the place for what experiments share")
    _check_model_name(params["model"], where)
    check_known_values(params, where, free=RUN_KEYS | DATASET_KEYS | FUXICTR_KEYS)
    for keys, allowed, passes in VALUES:
        for key in keys.split():
            value = params.get(key)
            if value is not None and not passes(value):
                raise ConfigError(f"{where}: {key} must be {allowed}, found {value!r}")
    return params
