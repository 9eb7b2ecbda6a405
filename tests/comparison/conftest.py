"""A small dataset and reports of it: three experiments with three seeds, and runs that are not complete."""

import pytest

from fuxictr_multimodal.comparison.assemble import make_board
from fuxictr_multimodal.comparison.collect import collect
from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.synthetic import SyntheticSpec, build_synthetic
from tests.helpers.leaderboard_reports import write_run

DATASET = "Synthetic_leaderboard"
STRENGTHS = {"QIN_full": ("QIN", 0.8), "DIN_x": ("DIN", 0.6), "SIM_x": ("SIM", 0.55)}


@pytest.fixture(scope="package")
def store(repository, tmp_path_factory):
    data_root = tmp_path_factory.mktemp("leaderboard") / "data"
    data_root.mkdir()
    dataset = load_dataset_config(repository / "config", "Synthetic_test")
    spec = SyntheticSpec(rows=2000, valid_rows=600, test_rows=1500, items=400)
    columns = {key: dataset[key] for key in ("feature_cols", "label_col")}
    build_synthetic(spec, dataset_id=DATASET, data_root=data_root, **columns)
    return Store.open(data_root, DATASET)


@pytest.fixture(scope="package")
def written(store, tmp_path_factory):
    """The reports, among them a failed run, a killed run and a damaged report."""
    model_root = tmp_path_factory.mktemp("checkpoints")
    directory = model_root / DATASET
    data_root = {"data_root": str(store.dir.parent)}
    for expid, (model, strength) in STRENGTHS.items():
        for seed in (1, 2, 10):
            write_run(directory, store, expid=expid, model=model, seed=seed, strength=strength, config=data_root)
    failed = write_run(directory, store, expid="QIN_wide", model="QIN", predictions=False)
    failed.status, failed.error, failed.metrics = "failed", "TrainingDiverged: the loss is nan\nin epoch 2 | why", {}
    failed.write(directory / "QIN_wide_s1.report.json")
    killed = write_run(directory, store, expid="DIN_x", model="DIN", seed=4, predictions=False)
    killed.status = "running"
    killed.write(directory / "DIN_x_s4.report.json")
    (directory / "QIN_odd_s1.report.json").write_text("{")
    return model_root


@pytest.fixture(scope="package")
def reports(written):
    return written / DATASET


@pytest.fixture(scope="package")
def board(store, reports):
    return make_board(collect(reports), store=store, replicates=60)
