"""The functions for notebooks and scripts; `fuxictr_multimodal` exports them. Their errors are `InputError`."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fuxictr_multimodal.comparison import tables
from fuxictr_multimodal.comparison.ranking import rank
from fuxictr_multimodal.config.expids import check_dataset_entry, list_expids, load_dataset_config
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.of_settings import BASE, config_folder, parts_of, plain
from fuxictr_multimodal.config.packaged import default_config
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.data.entry.build import build_entry, folder_name
from fuxictr_multimodal.data.entry.entry import with_frames
from fuxictr_multimodal.data.entry.tables.files import as_frame
from fuxictr_multimodal.data.proposal.experiments import MIDDLE, sizes_for
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.integrity import Mode
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import without_seed

# Where a run lies: all else about it is read from its report.
PLACE = ("dataset_id", "data_root", "model_root")


def build_dataset(
    dataset_id: str | Mapping[str, Any],
    *,
    frames: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    data_root: str | Path | None = None,
    overwrite: bool = False,
) -> Store:
    """Build the dataset of an entry; `train` does it where the dataset is missing.

    Args:
        dataset_id: an entry of the config folder, or the entry itself with its `dataset_id`. It names files, has a
            `synthetic:` block, or gets its tables as `frames`.
        frames: data frames of polars or pandas in place of the entry's files: `train_data`, `valid_data`,
            `test_data`, `interactions`, `item_data`, `user_data`.
        config: the config folder; by default `./config`, or the one that is shipped.
        data_root: folder of the datasets, instead of the entry's; `./data` where neither says so.
        overwrite: replace a dataset that is there.

    Raises:
        InputError: the entry is missing or wrong, a value in the data is wrong, or the dataset is there and
            `overwrite` is not set.
    """
    root = None if data_root is None else user_path(data_root)
    entry = dataset_id if isinstance(dataset_id, str) else with_frames(dataset_id, frames or {})
    return build_entry(_dataset_entry(entry, config), data_root=root, overwrite=overwrite, frames=frames)


def open_dataset(dataset_id: str, *, data_root: str | Path = "data", verify: Mode = "auto") -> Store:
    """Open a built dataset: `.manifest` describes it, `.reader(split)` reads its samples, `.verify()` checks them all.

    Args:
        dataset_id: the dataset.
        data_root: folder of the datasets.
        verify: which files are compared with their checksums: those that changed since they last matched (`auto`), all
            (`full`), or those of another size (`sizes`).

    Raises:
        InputError: it is missing, damaged or of another format version.
    """
    root = user_path(data_root)
    return Store.open(root, folder_name(root, check_plain_name(dataset_id, "dataset_id")), verify=verify)


def train(
    expid: str | Mapping[str, Any],
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
        expid: the experiment, or its settings: `{"model": "QIN", "dataset": ..., "epochs": 2}`.
            There, `dataset` is what `build_dataset` or `open_dataset` returned, a dataset_id of the config folder, or
            an entry with its `dataset_id`. Settings that are left out are those of a binary classification, with sizes
            for the number of training samples.
        settings: parameters that replace those of the YAML; a dot between levels, `{"synthetic.rows": 1000}`.
        seed: replaces the seed.
        gpu: index of the GPU, -1 for the CPU.
        config: the config folder; by default `./config`, or the one that is shipped.
        name: of the run, instead of the expid and the settings. Settings without an expid are named
            `<model>_<dataset_id>`.
        resume: continue an unfinished run.
        overwrite: replace a run that is there.

    Returns:
        The report. `metrics["test"]["AUC"]` is a number, `curve` has one entry an evaluation.

    Raises:
        InputError: whatever is wrong with the experiment, the settings or the data.
    """
    # FuxiCTR, torch and Ray take seconds to import: only training and scoring need them.
    from fuxictr_multimodal.training.runner import run_experiment

    with contextlib.ExitStack() as folders:
        folder = _config(config)
        if isinstance(expid, Mapping):
            expid, own, dataset = _experiment(expid, config)
            folder = folders.enter_context(config_folder(expid, own, dataset))
        report, _ = run_experiment(
            config_dir=folder,
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
    data: Any = None,
    *,
    gpu: int = -1,
    config: str | Path | None = None,
    calibrate: str | None = None,
) -> Any:
    """Score samples with a trained model.

    Args:
        run: what `train` returned, or an expid that was trained by its own settings.
        data: new samples, a data frame of polars or pandas, or a csv or parquet file: the dataset's columns in raw
            form, the target item, and the history as lists of items, newest last. A dataset that was built from a log
            needs no history where the log is there: user, item, time and the log's feature columns are enough. By
            default the test split.
        gpu: index of the GPU, -1 for the CPU.
        config: the config folder, as in `train`.
        calibrate: `platt` or `isotonic` calibrates the scores on the valid split; `score_raw` has the model's own.

    Returns:
        One row a sample, in the order of `data`: the user and item columns, as the user knows them, and `score`, a
        probability. A data frame of pandas where `data` is one, else of polars.

    Raises:
        InputError: the run is not trained, its dataset was built again, or the samples lack a column.
    """
    pandas = type(data).__module__.partition(".")[0] == "pandas"
    if pandas and (frame := as_frame(data, where="data")) is not None:
        data = frame.collect()
    if not isinstance(data, pl.DataFrame | str | Path | None):
        raise DataError(f"data is a {type(data).__name__}: pass a polars DataFrame, or the path of a parquet file")
    from fuxictr_multimodal.scoring import scores

    with contextlib.ExitStack() as folders:
        folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="fxmm-")))
        which: dict[str, Any] = {"config_dir": _config(config), "expid": run}
        if isinstance(run, Report):
            which = _run_of(run, _config(config), folders)
        source = folder / "samples.parquet"
        if isinstance(data, pl.DataFrame):
            data.write_parquet(source)
        elif data is not None:
            source = user_path(data)
        out, samples = folder / "scores.parquet", None if data is None else source
        try:
            scores.predict(gpu=gpu, data=samples, out=out, calibrate=calibrate, **which)
        except InputError as error:
            # The user knows no such file.
            raise type(error)(str(error).replace(str(folder / "samples.parquet"), "the samples")) from None
        scored = pl.read_parquet(out, memory_map=False)
    return scored.to_pandas() if pandas else scored


def export(
    run: Report | str,
    out: str | Path,
    *,
    to: str = "onnx",
    quantise: str | None = None,
    auc_limit: float = 1e-4,
    items: str = "float32",
    calibrate: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained model as a folder that ranks without FuxiCTR, as `fxmm export` does.

    Its scores of samples of the valid split are compared with those of the trained model; `model.json` and `card.md` of
    the folder have the differences.

    Args:
        run: what `train` or `load_report` returned, or an expid that was trained by its own settings.
        out: the folder.
        to: `onnx`, or `torch` for a package that torch compiled.
        quantise: `int8` computes the dense products of candidates in 8 bits, with `to="onnx"`.
        auc_limit: what `quantise` and `items` may change of the AUC on valid.
        items: how item vectors are stored: `float32`, `float16` or `int8`.
        calibrate: `platt` or `isotonic` calibrates the exported scores on the valid split.
        overwrite: replace the export that is in the folder.

    Raises:
        InputError: the run is not trained, its model has no graph, the AUC changes by more than `auc_limit`, or the
            folder is in the way.
    """
    from fuxictr_multimodal.serving.export import Options
    from fuxictr_multimodal.serving.export import export as export_run

    options = Options(to, quantise, auc_limit, items, calibrate)
    with contextlib.ExitStack() as folders:
        which: dict[str, Any] = {"config_dir": _config(None), "expid": run}
        if isinstance(run, Report):
            which = _run_of(run, _config(None), folders)
        return export_run(out=user_path(out), options=options, overwrite=overwrite, **which).out


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


def _dataset_entry(dataset: str | Mapping[str, Any], config: str | Path | None) -> dict[str, Any]:
    """The entry of a dataset, with its `dataset_id`."""
    if isinstance(dataset, str):
        return load_dataset_config(_config(config), dataset)
    if not isinstance(dataset, Mapping) or "dataset_id" not in dataset:
        raise ConfigError("a dataset is a dataset_id of the config folder, or an entry with its `dataset_id`")
    entry = {"data_root": "./data/", **plain(dataset, "the entry")}
    return check_dataset_entry(entry.pop("dataset_id"), entry, "the given entry")


def _experiment(settings: Mapping[str, Any], config: str | Path | None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name and settings of an experiment without an expid, and its dataset's entry."""
    own = {**plain({key: value for key, value in settings.items() if key != "dataset"}, "the experiment")}
    given = settings.get("dataset", own.pop("dataset_id", None))
    if "model" not in own or given is None:
        raise ConfigError('an experiment needs a model and a dataset: train({"model": "QIN", "dataset": ...})')
    dataset = _entry_of_store(given) if isinstance(given, Store) else _dataset_entry(given, config)
    # A dataset that is not built yet is taken for one of middle size.
    samples = given.manifest.splits["train"].rows if isinstance(given, Store) else MIDDLE
    base = {**BASE, **sizes_for(samples)}
    if dataset.get("group_id"):
        base["metrics"] = ["AUC", "gAUC", "logloss"]
    return f"{str(own['model']).rpartition('/')[2]}_{dataset['dataset_id']}", {**base, **own}, dataset


def _entry_of_store(store: Store) -> dict[str, Any]:
    """The entry of a dataset that is built: its columns are in its manifest."""
    manifest = store.manifest
    entry: dict[str, Any] = {
        "dataset_id": store.place.name,
        "data_root": str(store.place.parent),
        "data_format": "h5",
        "group_id": manifest.group_id,
        "feature_cols": manifest.feature_cols,
        "label_col": manifest.label_col,
    }
    if manifest.item_col is not None:
        entry |= {"item_col": manifest.item_col, "max_len": manifest.max_len}
    return entry


def _run_of(run: Report, config: Path, folders: contextlib.ExitStack) -> dict[str, Any]:
    """What names a run to `predict` and `export`: its own settings where no expid of the config folder has them."""
    name = without_seed(run.run, run.seed)
    found: dict[str, Any] = {"name": name, "seed": None if name == run.run else run.seed, "expid": run.experiment}
    place = {key: run.config[key] for key in PLACE if key in run.config}
    try:
        known = run.experiment in list_expids(config)
    except ConfigError:
        known = False
    if not known:
        config = folders.enter_context(config_folder(run.experiment, *parts_of(run.config)))
    return {**found, "config_dir": config, "overrides": _overrides(place)}


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them.

    >>> _overrides({"learning_rate": 1e-5, "metrics": ["AUC", "gAUC"], "note": "a: b"})
    ['learning_rate=1.0e-05', 'metrics=[AUC, gAUC]', "note='a: b'"]
    """
    known = {key: plain(value, key) for key, value in settings.items()}
    texts = {key: yaml.safe_dump(value, default_flow_style=True, width=10**9) for key, value in known.items()}
    return [f"{key}={text.removesuffix('...' + chr(10)).strip()}" for key, text in texts.items()]
