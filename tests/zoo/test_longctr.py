"""The ten models of FuxiCTR's LongCTR on our dataset: training, the rows they see, and their known faults."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_multimodal.config.expids import check_model_keys, list_expids, load_config
from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo.layouts import as_longctr
from fuxictr_multimodal.zoo.models import longctr_models, own_models, resolve
from tests.helpers.learning import LEARNING, check_learnt
from tests.helpers.padded_loader import padded_batches

MODELS = longctr_models()
PEERS = [name for name in own_models() if name not in ("QIN", "Trees")]  # of this project, on the same triple
CONFIG = Path(__file__).resolve().parents[2] / "config"
SMALL = ["dataset_id=Synthetic_test", "epochs=1", "batch_size=256", "embedding_dim=8"]
SUFFIXES = {"demo": "Synthetic_demo", "MovieLens": "MovieLens", "MicroLens_1M": "MicroLens_1M_x1"}


@pytest.fixture
def experiment(data_root):
    """Load an expid on the small dataset."""

    def load(expid, *overrides):
        settings = [f"data_root={data_root}", "verbose=0", *SMALL, *overrides]
        return Experiment.load(CONFIG, expid, overrides=settings)

    return load


@pytest.mark.parametrize("expid", [name for name in list_expids(CONFIG) if name.partition("_")[0] in (*MODELS, *PEERS)])
def test_every_baseline_names_parameters_that_its_model_reads(expid):
    params = load_config(CONFIG, expid)
    check_model_keys(params, resolve(params["model"]).model_class)
    assert params["model"] == expid.partition("_")[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_baselines_share_their_setting_with_qin(suffix):
    shared = ["dataset_id", "batch_size", "epochs", "early_stop_patience", "embedding_dim", "embedding_regularizer"]
    shared.append("factor")
    names = {model: f"{model}_{suffix}" for model in (MODELS if suffix == "MicroLens_1M" else [*MODELS, *PEERS])}
    if suffix == "MicroLens_1M":
        names["DIN"] = "DIN_shared_MicroLens_1M"  # DIN_MicroLens_1M is the challenge's own
    qin = load_config(CONFIG, f"QIN_{suffix}")
    for name in names.values():
        params = load_config(CONFIG, name)
        assert {key: params[key] for key in shared} == {key: qin[key] for key in shared}, name
    assert qin["dataset_id"] == SUFFIXES[suffix]


def test_the_challenge_setting_of_din():
    params = load_config(CONFIG, "DIN_MicroLens_1M")
    published = {"learning_rate": 1e-3, "batch_size": 4096, "embedding_dim": 64, "dnn_hidden_units": [1024, 512, 256]}
    assert params.items() >= published.items()
    assert params["attention_hidden_units"] == [512, 256]
    assert (params["attention_dropout"], params["batch_norm"]) == (0.1, True)
    assert (params["embedding_regularizer"], params["net_regularizer"]) == (0, 0)


@pytest.mark.parametrize("model", [*MODELS, *PEERS])
def test_learns_evaluates_and_predicts_by_its_expid(run_qin, data_root, model):
    report, path = run_qin(*SMALL, *LEARNING, expid=f"{model}_demo")
    assert report.model == model
    check_learnt(report, path, data_root)


def test_a_plateau_lowers_the_rate_by_the_factor_of_the_experiment(run_qin):
    # The lower the AUC the better: the more it learns, the fewer gains it sees.
    worse = ["monitor_mode=min", "epochs=4", "early_stop_patience=9", "factor=0.25"]
    report, _ = run_qin(*SMALL, *worse, expid="DCNv2_demo")
    assert not all(row["best"] for row in report.curve[:-1])
    for row, following in itertools.pairwise(report.curve):
        assert following["learning_rate"] == pytest.approx(row["learning_rate"] * (1 if row["best"] else 0.25))


@pytest.mark.parametrize("model", [*MODELS, *PEERS])
def test_a_score_does_not_depend_on_the_rest_of_the_batch(experiment, model):
    loaded = experiment(f"{model}_demo")
    feature_map = loaded.feature_map()
    seed_everything(1)
    network, to_inputs = loaded.build_model(feature_map)
    for parameter in network.parameters():
        parameter.data.mul_(3)  # initial embeddings are so small that any history scores alike
    batch = next(iter(loaded.loaders("train", feature_map, "cpu")[1]))
    network.eval()
    with torch.no_grad():
        together = network(to_inputs(batch))["y_pred"]
        apart = torch.cat([network(to_inputs(batch.take(range(n, n + 64))))["y_pred"] for n in range(0, 256, 64)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


def test_din_on_our_loader_is_din_on_a_padded_loader(experiment):
    """Same weights, same rows: the same loss, step for step."""
    loaded = experiment("DIN_demo", "shuffle=False", "embedding_regularizer=1.e-4", "net_dropout=0.0")
    feature_map = loaded.feature_map()
    ours, padded = [], []
    for losses in (ours, padded):
        seed_everything(1)
        model, to_inputs = loaded.build_model(feature_map)
        model._max_gradient_norm = 10.0
        model.train()
        if losses is ours:
            triples = map(to_inputs, loaded.loaders("train", feature_map, "cpu")[0])
        else:
            triples = naive_triples(loaded.store.dir, batch_size=256)
        for index, triple in enumerate(triples):
            model._batch_index = index
            losses.append(model.train_step(triple).item())
    assert len(ours) == len(padded) == 16
    assert ours == pytest.approx(padded, abs=1e-6)
    assert len(set(ours)) == 16


def naive_triples(store: Path, batch_size: int):
    """The LongCTR triple by plain indexing, padded to the longest history of the batch as FuxiCTR's loader does."""
    import h5py

    with h5py.File(store / "item.h5") as file:
        items = {name: file[name][:] for name in file}
    columns = ["label", "user_id", "likes_level", "views_level", "item_id"]
    for rows in padded_batches([store / "train.h5"], columns, order=None, batch_size=batch_size, max_len=64):
        history, target = rows.pop("history"), rows.pop("item_id")
        longest = max(int((history > 0).sum(axis=1).max()), 1)
        slots = np.concatenate([history[:, 64 - longest :], target[:, None]], axis=1).reshape(-1)
        item_dict = {name: torch.from_numpy(values[slots]) for name, values in items.items()}
        mask = torch.from_numpy((history[:, 64 - longest :] > 0).astype(np.float32))
        yield {name: torch.from_numpy(values) for name, values in rows.items()}, item_dict, mask


# Faults of FuxiCTR. These tests fail when FuxiCTR fixes them: then remove the workarounds.


@pytest.fixture
def one_item_each(experiment):
    """A model in evaluation mode, its inputs, and a batch of rows with one history item each."""

    def build(model, *overrides):
        loaded = experiment(f"{model}_demo", *overrides)
        seed_everything(1)
        network, to_inputs = loaded.build_model(loaded.feature_map())
        for parameter in network.parameters():
            parameter.data.mul_(3)
        with SplitReader(loaded.store.split_path("train")) as reader:
            levels = torch.from_numpy(reader.read("likes_level", 0, 8))
        ids = torch.arange(1, 9, dtype=torch.int32)
        features = {"likes_level": levels, "views_level": levels, "user_id": ids.long()}
        batch = Batch(features, ids.flip(0), Jagged(ids, torch.arange(9)))
        network.item_table_of_the_test = ItemTable.from_store(loaded.store.dir)
        return network.eval(), to_inputs, batch

    return build


@pytest.mark.parametrize("model", ["ETA", "MIRRN", "SDIM", "SIM", "TWIN"])
def test_fault_histories_shorter_than_short_seq_len_fail(one_item_each, model):
    network, to_inputs, batch = one_item_each(model)
    assert torch.isfinite(network(to_inputs(batch))["y_pred"]).all()
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        network(as_longctr(batch, network.item_table_of_the_test))


@pytest.mark.parametrize("model", ["ETA", "MIRRN", "SDIM", "SIM", "TWIN"])
def test_fault_the_short_mask_is_shifted_by_one(one_item_each, model):
    """The newest item is masked by the slot before it: a history of one item counts as none there."""
    network, to_inputs, batch = one_item_each(model)
    seen = []
    network.short_attention.register_forward_hook(lambda module, args, output: seen.append(args[2]))
    network(to_inputs(batch))
    assert to_inputs(batch)[2].sum() == 8
    assert seen[0].sum() == 0


def test_fault_dien_reads_padding_when_histories_are_filled_before(one_item_each):
    network, _, batch = one_item_each("DIEN")
    other = Batch(batch.features, batch.target, Jagged(batch.history.values + 20, batch.history.offsets))

    def scores(rows, padding):
        return network(as_longctr(rows, network.item_table_of_the_test, padding=padding))["y_pred"]

    widened = [Batch(b.features, b.target, with_a_long_row(b.history)) for b in (batch, other)]
    filled_after, filled_before = ([scores(b, padding)[:7] for b in widened] for padding in ("post", "pre"))
    assert not torch.equal(*filled_after)
    assert torch.equal(*filled_before)


def with_a_long_row(history: Jagged) -> Jagged:
    """The last row gets three items, so that the other rows are padded."""
    values = torch.cat([history.values[:7], torch.tensor([1, 2, 3], dtype=torch.int32)])
    return Jagged(values, torch.tensor([*range(8), 10]))


def test_fault_dien_fails_on_a_batch_with_one_history(one_item_each):
    network, to_inputs, batch = one_item_each("DIEN")
    with pytest.raises((RuntimeError, IndexError)):
        network(to_inputs(batch.take(range(1))))


def test_all_ten_are_there():
    assert len(MODELS) == 10
    expids = set(list_expids(CONFIG))
    assert {f"{model}_{suffix}" for model, suffix in itertools.product(MODELS, SUFFIXES)} <= expids


def test_a_model_has_its_own_embedding_dim_where_the_experiment_sets_none(repository, data_root, tmp_path):
    shutil.copytree(repository / "config", tmp_path / "config")
    entry = {"DIN_own": {"model": "DIN", "dataset_id": "Synthetic_test", "epochs": 1, "batch_size": 256}}
    (tmp_path / "config/model_config/own.yaml").write_text(yaml.safe_dump(entry))
    experiment = Experiment.load(tmp_path / "config", "DIN_own", overrides=[f"data_root={data_root}"])
    assert experiment.feature_map().default_emb_dim == 10
