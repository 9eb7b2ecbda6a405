"""Rank the experiments of one dataset from a folder of reports and, where available, the dataset."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fuxictr_multimodal.comparison.assemble import make_board
from fuxictr_multimodal.comparison.board import Board
from fuxictr_multimodal.comparison.collect import collect, dataset_with_reports
from fuxictr_multimodal.config.expids import list_expids, load_model_config
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.data.entry.build import folder_name
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError


def rank(
    dataset_id: str | None = None,
    *,
    expids: Sequence[str] = ("*",),
    model_root: Path = Path("checkpoints"),
    reports: Path | None = None,
    data_root: Path | None = None,
    config_dir: Path | None = None,
    baseline: str | None = None,
    replicates: int = 1000,
    unit: str = "rows",
) -> Board:
    """Rank the finished runs of a dataset, with intervals over its samples where the dataset is available.

    Args:
        dataset_id: the dataset; None where only one has reports.
        expids: globs of runs or experiments.
        model_root: holds `<dataset_id>/*.report.json`.
        reports: a folder of reports instead.
        data_root: holds the dataset; by default the folder that the runs read, and then it may be absent.
        config_dir: its experiments of the dataset that have no report are listed as not run.
        baseline: expid or model name that differences refer to; DIN by default.
        replicates: of the bootstrap, 0 for none.
        unit: `rows` or `groups`: what the bootstrap draws.

    Raises:
        ConfigError: no such baseline, a negative number of replicates, or a dataset id that is not a plain name.
        DataError: no report, several datasets, or a dataset or saved predictions that do not belong to the reports.
    """
    if replicates < 0:
        raise ConfigError(f"--bootstrap {replicates}: the number of replicates cannot be negative")
    if dataset_id is not None:
        check_plain_name(dataset_id, "--dataset")
    elif reports is None:
        dataset_id = dataset_with_reports(model_root)
    collection = collect(reports or model_root / str(dataset_id), dataset_id=dataset_id, expids=expids)
    dataset_id = collection.dataset_id
    wanted = data_root is not None
    if data_root is None and collection.groups:
        data_root = Path(collection.groups[0].runs[0].report.config.get("data_root", "data"))
    store = None
    if data_root is not None:
        folder = folder_name(data_root, dataset_id)
        if wanted or Store.exists(data_root, folder):
            store = Store.open(data_root, folder)
    with tqdm(total=replicates, desc="bootstrap", leave=False, disable=None) as bar:
        return make_board(
            collection,
            store=store,
            baseline=baseline,
            replicates=replicates,
            unit=unit,
            not_run=_expected(config_dir, dataset_id, expids) if config_dir else (),
            on_replicate=bar.update,
        )


def _expected(config_dir: Path, dataset_id: str, patterns: Sequence[str]) -> list[str]:
    """Expids of a config folder that are of this dataset."""
    named = [expid for expid in list_expids(config_dir) if any(fnmatch.fnmatchcase(expid, glob) for glob in patterns)]
    return [expid for expid in named if load_model_config(config_dir, expid).get("dataset_id") == dataset_id]
