"""The functions for notebooks and scripts; `fuxictr_multimodal` exports them. Their errors are `InputError`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fuxictr_multimodal.comparison import tables
from fuxictr_multimodal.comparison.ranking import rank
from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.packaged import default_config
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import without_seed

# Where a run lies: all else about it is read from its report.
PLACE = ("dataset_id", "data_root", "model_root")


def build_dataset(
    dataset_id: str,
    *,
    config: str | Path | None = None,
    data_root: str | Path | None = None,
    overwrite: bool = False,
) -> Store:
    """Build the dataset of an entry of the config folder; `train` does it where the dataset is missing.

    Args:
        dataset_id: the entry; it needs a `synthetic:` block. Scripts of other data are in `datasets/`.
        config: the config folder; by default `./config`, or the one that is shipped.
        data_root: folder of the datasets, instead of the entry's.
        overwrite: replace a dataset that is there.

    Raises:
        InputError: the entry is missing or wrong, or the dataset is there and `overwrite` is not set.
    """
    root = None if data_root is None else user_path(data_root)
    folder = _config(config)
    return build_entry(load_dataset_config(folder, dataset_id), data_root=root, overwrite=overwrite)


def open_dataset(dataset_id: str, *, data_root: str | Path = "data") -> Store:
    """Open a built dataset: `.manifest` describes it, `.reader(split)` reads its samples.

    Raises:
        InputError: it is missing, damaged or of another format version.
    """
    return Store.open(user_path(data_root), check_plain_name(dataset_id, "dataset_id"))


def train(
    expid: str,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    gpu: int = -1,
    config: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Report:
    """Train an experiment, evaluate it on valid and test, and write its report, as `fxmm run` does.

    A finished run is not trained again unless `overwrite`: its report is returned.

    Args:
        expid: the experiment.
        settings: parameters that replace those of the YAML; a dot between levels, `{"synthetic.rows": 1000}`.
        seed: replaces the seed.
        gpu: index of the GPU, -1 for the CPU.
        config: the config folder; by default `./config`, or the one that is shipped.
        name: of the run, instead of the expid and the settings.
        resume: continue an unfinished run.
        overwrite: replace a run that is there.

    Returns:
        The report. `metrics["test"]["AUC"]` is a number, `curve` has one entry an evaluation.

    Raises:
        InputError: whatever is wrong with the experiment, the settings or the data.
    """
    # FuxiCTR, torch and Ray take seconds to import: only training and scoring need them.
    from fuxictr_multimodal.training.runner import run_experiment

    report, _ = run_experiment(
        config_dir=_config(config),
        expid=expid,
        gpu=gpu,
        seed=seed,
        overrides=_overrides(settings or {}),
        name=name,
        resume=resume,
        overwrite=overwrite,
    )
    return report


def predict(
    run: Report | str,
    data: pl.DataFrame | str | Path | None = None,
    *,
    gpu: int = -1,
    config: str | Path | None = None,
    calibrate: str | None = None,
) -> pl.DataFrame:
    """Score samples with a trained model.

    Args:
        run: what `train` returned, or an expid that was trained by its own settings.
        data: new samples, a table or a parquet file: the dataset's context columns in raw form, the target item, and
            the history as lists of items, newest last. By default the test split.
        gpu: index of the GPU, -1 for the CPU.
        config: the config folder, as in `train`.
        calibrate: `platt` or `isotonic` calibrates the scores on the valid split; `score_raw` has the model's own.

    Returns:
        One row a sample, in the order of `data`: the user and item columns and `score`, a probability.

    Raises:
        InputError: the run is not trained, its dataset was built again, or the samples lack a column.
    """
    if not isinstance(data, pl.DataFrame | str | Path | None):
        raise DataError(f"data is a {type(data).__name__}: pass a polars DataFrame, or the path of a parquet file")
    from fuxictr_multimodal.scoring import scores

    which: dict[str, Any] = {"expid": run}
    if isinstance(run, Report):
        place = {key: run.config[key] for key in PLACE if key in run.config}
        name = without_seed(run.run, run.seed)
        seed = None if name == run.run else run.seed
        which = {"expid": run.experiment, "name": name, "seed": seed, "overrides": _overrides(place)}
    with tempfile.TemporaryDirectory(prefix="fxmm-") as folder:
        source = Path(folder, "samples.parquet")
        if isinstance(data, pl.DataFrame):
            data.write_parquet(source)
        elif data is not None:
            source = user_path(data)
        out = Path(folder, "scores.parquet")
        samples = None if data is None else source
        scores.predict(config_dir=_config(config), gpu=gpu, data=samples, out=out, calibrate=calibrate, **which)
        return pl.read_parquet(out, memory_map=False)


def load_report(path: str | Path) -> Report:
    """Read `<model_root>/<dataset_id>/<run>.report.json`.

    Raises:
        InputError: there is no such file, or it is not a report.
    """
    path = user_path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: a run writes it to <model_root>/<dataset_id>/<run>.report.json")
    return Report.read(path)


def compare(
    dataset_id: str | None = None,
    *,
    expids: str | Sequence[str] = "*",
    model_root: str | Path = "checkpoints",
    baseline: str | None = None,
    replicates: int = 1000,
) -> pl.DataFrame:
    """Rank the finished runs of a dataset, best first, the seeds of an experiment in one row.

    Args:
        dataset_id: the dataset; may be left out where only one has reports.
        expids: a glob of the experiments to take, or several.
        model_root: holds `<dataset_id>/*.report.json`.
        baseline: expid or model that differences refer to; DIN by default, if it was run.
        replicates: of the bootstrap over test samples, 0 for none.

    Returns:
        The columns of `fxmm leaderboard --format csv`, among them `experiment`, `model`, `test_AUC_mean`,
        `difference` and its intervals. `kind` tells experiments from references, such as the Bayes-optimal AUC.

    Raises:
        InputError: there are no reports, or no such baseline.
    """
    globs = [expids] if isinstance(expids, str) else list(expids) or ["*"]
    board = rank(dataset_id, expids=globs, model_root=user_path(model_root), baseline=baseline, replicates=replicates)
    return pl.read_csv(io.StringIO(tables.as_csv(board)), infer_schema_length=None)


def _config(config: str | Path | None) -> Path:
    return default_config() if config is None else user_path(config)


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them.

    >>> _overrides({"learning_rate": 1e-5, "metrics": ["AUC", "gAUC"], "note": "a: b"})
    ['learning_rate=1.0e-05', 'metrics=[AUC, gAUC]', "note='a: b'"]
    """
    # Numbers of NumPy and paths are usual in notebooks.
    plain = {key: getattr(value, "item", lambda value=value: value)() for key, value in settings.items()}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}
    texts = {key: yaml.safe_dump(value, default_flow_style=True, width=10**9) for key, value in plain.items()}
    return [f"{key}={text.removesuffix('...' + chr(10)).strip()}" for key, text in texts.items()]
