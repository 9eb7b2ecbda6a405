"""A config folder of one experiment whose settings no file holds, as notebooks give them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.errors import ConfigError

# What an experiment needs and rarely chooses. Grouped metrics are added where the dataset has groups.
BASE: Mapping[str, Any] = {
    "model_root": "./checkpoints/",
    "verbose": 1,
    "seed": 2026,
    "task": "binary_classification",
    "loss": "binary_crossentropy",
    "optimizer": "adam",
    "metrics": ["AUC", "logloss"],
    "monitor": "AUC",
    "monitor_mode": "max",
    "shuffle": True,
    "save_best_only": True,
    "early_stop_patience": 2,
}


@contextlib.contextmanager
def config_folder(expid: str, experiment: Mapping[str, Any], dataset: Mapping[str, Any]) -> Iterator[Path]:
    """A config folder with one experiment and its dataset, for as long as the block runs.

    Args:
        expid: name of the experiment.
        experiment: its settings, all that it needs.
        dataset: the entry of its dataset, with `dataset_id`.

    Raises:
        ConfigError: a value that YAML cannot hold, or a name that is no file name.
    """
    check_plain_name(expid, "expid")
    dataset_id = check_plain_name(dataset.get("dataset_id"), "dataset_id")
    entry = {key: value for key, value in dataset.items() if key != "dataset_id"}
    content = {"model_config": {expid: {**experiment, "dataset_id": dataset_id}}, "dataset_config": {dataset_id: entry}}
    with tempfile.TemporaryDirectory(prefix="fxmm-") as parent:
        # FuxiCTR's csv of results has the name of the config folder.
        folder = Path(parent, "config")
        folder.mkdir()
        for kind, entries in content.items():
            text = yaml.safe_dump(plain(entries, kind), sort_keys=False, allow_unicode=True)
            (folder / f"{kind}.yaml").write_text(text, encoding="utf-8")
        yield folder


def parts_of(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a run as its experiment and its dataset's entry."""
    dataset = {key: value for key, value in params.items() if key in DATASET_KEYS}
    experiment = {key: value for key, value in params.items() if key not in {*dataset, "model_id", "gpu"}}
    return experiment, {**dataset, "dataset_id": params["dataset_id"]}


def plain(value: Any, where: str) -> Any:
    """A value as YAML holds it: numbers of NumPy and paths, which are usual in notebooks, become plain ones.

    Raises:
        ConfigError: naming the value.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}: {key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, where) for inner in value]
    if isinstance(value, Path):
        return str(value)
    value = getattr(value, "item", lambda: value)()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{where} is a {type(value).__name__}: settings are numbers, texts, lists and dicts")
