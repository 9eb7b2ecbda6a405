"""The files of a comparison: experiments, search space and comparison file as ordinary YAML, which a user may edit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr_multimodal.comparison.budgeted.models import Model, experiment
from fuxictr_multimodal.comparison.budgeted.shape import Shape
from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS
from fuxictr_multimodal.data.proposal.sizes import Sizes
from fuxictr_multimodal.launch.tuning.folder import SweepFolder, write_yaml
from fuxictr_multimodal.system.files import make_folder

SEARCH, SEARCH_SEED = "tpe", 0
# What a config folder without `Base` lacks.
BASE = {
    "model_root": "./checkpoints/",
    "verbose": 1,
    "seed": 20242025,
    "task": "binary_classification",
    "loss": "binary_crossentropy",
    "optimizer": "adam",
    "metrics": ["AUC", "gAUC", "logloss"],
    "monitor": {"AUC": 1, "logloss": 0},
    "monitor_mode": "max",
    "shuffle": True,
    "save_best_only": True,
    "eval_steps": None,
}
GROUPED = ("gAUC", "avgAUC", "MRR", "NDCG")
# The bootstrap draws users where test has fewer of them.
FEW_GROUPS = 1000


@dataclass(frozen=True)
class Files:
    """Where everything of a comparison lies, below its folder."""

    out: Path

    @property
    def config(self) -> Path:
        """The config folder."""
        return self.out / "config"

    @property
    def search(self) -> Path:
        """The tuner file; the sweeps of the models have folders beside it."""
        return self.config / "tuner" / "search.yaml"

    @property
    def comparison(self) -> Path:
        """The comparison file, which repeats the comparison without a limit of time."""
        return self.config / "comparison.yaml"

    @property
    def winners(self) -> Path:
        """A config folder with the best setting of each model."""
        return self.out / "winners"

    @property
    def best(self) -> Path:
        """A config folder with the best model."""
        return self.out / "best"

    @property
    def model_root(self) -> Path:
        """Where the runs write."""
        return self.out / "checkpoints"

    @property
    def state(self) -> Path:
        """What a repeated command needs to know."""
        return self.out / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the comparison."""
        return self.out / ".compare.lock"

    @property
    def board(self) -> Path:
        """The leaderboard, without its ending."""
        return self.out / "board"

    def sweep(self, expid: str) -> SweepFolder:
        """The folder of the trials of a model."""
        return SweepFolder.of(self.search, search=SEARCH, seed=SEARCH_SEED, expid=expid)


def expid_of(model: Model, dataset_id: str) -> str:
    """The expid of a model of the comparison."""
    return f"{model.name}_{dataset_id}"


def write_configs(
    files: Files,
    *,
    models: Sequence[Model],
    shape: Shape,
    sizes: Sizes,
    base: Mapping[str, Any],
    dataset: Mapping[str, Any],
    group_id: str | None,
    zoo_root: Path | None,
    command: Sequence[str],
) -> None:
    """Write experiments, dataset entry and search space.

    Args:
        files: where to.
        models: that may be compared.
        shape: of the dataset.
        sizes: that fit it.
        base: `Base` of the user's config folder, or nothing.
        dataset: the entry, with its `dataset_id`.
        group_id: column of grouped metrics of the dataset as it is built; without one these metrics are left out.
        zoo_root: of the models of a clone.
        command: for the headers.
    """
    dataset_id = dataset["dataset_id"]
    shared = {**BASE, **base, "model_root": str(files.model_root)}
    if group_id is None:
        shared["metrics"] = [name for name in shared["metrics"] if not str(name).startswith(GROUPED)]
        shared.pop("group_id", None)
    else:
        shared["group_id"] = group_id
    if zoo_root is not None:
        shared["zoo_root"] = str(zoo_root)
    # What the entry of the dataset says is said once.
    shared = {key: value for key, value in shared.items() if key not in dataset}
    entries = {expid_of(model, dataset_id): experiment(model, shape, sizes, dataset_id=dataset_id) for model in models}
    shared = {key: value for key, value in shared.items() if key not in ("early_stop_patience", "factor")}
    header = f"# Written once by: {shlex.join(command)}\n# Edit it and repeat the command; what is complete stays.\n"
    own_axes = {key: axis for model in models for key, axis in model.own_space.items()}

    def keys_of(model: Model) -> dict[str, list[str]]:
        lacking: dict[str, list[str]] = {key: [] for key in own_axes if key not in model.own_space}
        return lacking | {key: list(names) for key, names in model.keys.items()}

    make_folder(files.search.parent)
    write_yaml(files.config / "dataset_config.yaml", {dataset_id: _entry(dataset)}, header=header)
    write_yaml(files.config / "model_config.yaml", {"Base": shared, **entries}, header=header)
    write_yaml(
        files.search,
        {
            "base_config": str(files.config),
            "base_expid": next(iter(entries)),
            "tuner_space": {**sizes.space(), **own_axes},
            "model_keys": {expid_of(model, dataset_id): names for model in models if (names := keys_of(model))},
        },
        header=header
        + "# The space of all models; a model that names a key otherwise, or lacks it, is in model_keys.\n",
    )


def write_comparison(
    files: Files, expids: Sequence[str], *, dataset_id: str, trials: int, seeds: str, baseline: str, resample: str
) -> None:
    """Write the comparison file: the same trials and seeds without a limit of time."""
    write_yaml(
        files.comparison,
        {
            "base_config": str(files.config),
            "dataset_id": dataset_id,
            "tuning": {
                "config": str(files.search),
                "expids": ", ".join(expids),
                "search": SEARCH,
                "trials": trials,
                "seed": SEARCH_SEED,
            },
            "seeds": seeds,
            "baseline": baseline,
            "resample": resample,
            "out": str(files.board),
        },
        header="# The comparison without a limit of time, after changes of the experiments or of the trials:\n"
        f"# python run_comparison.py --config {files.comparison}\n",
    )


def resample_of(shape: Shape) -> str:
    """What the bootstrap draws: users where they are few, for then chance lies in who they are."""
    return "groups" if shape.groups is not None and shape.groups < FEW_GROUPS else "rows"


def _entry(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key in DATASET_KEYS and key != "dataset_id"}
