"""Large tables spread over processes: the updates of one process, for any number of them."""

import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.sharded import library
from fuxictr_multimodal.training.sharded.library import fitting, load_library
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.training.trainer import Trainer
from tests.helpers.forked_ranks import run_forked
from tests.helpers.traced_runs import traced

pytest.importorskip("torchrec", reason="torchrec is not installed")

ROWS, WIDTH, BATCH, STEPS, RATE = 23, 6, 12, 8, 0.1
# No layer draws: several processes have streams of their own. Gradients are clipped in most steps.
STILL = (
    "net_dropout=0", "epochs=1", "eval_steps=8", "batch_size=250", "early_stop_patience=9", "accumulation_steps=2",
    "num_layers=1", "num_row=1", "max_gradient_norm=0.3", "embedding_regularizer=1.e-3", "batch_norm=False",
)  # fmt: skip
SHARDED = (*STILL, "shard_min_rows=500")
ROWWISE = (*STILL, "embedding_update=rowwise", "rowwise_min_rows=500")
DIN = (
    "dataset_id=Synthetic_test", "batch_size=500", "epochs=1", "cpu_threads=1", "net_dropout=0", "batch_norm=False",
    "optimizer=SGD", "learning_rate=0.05", "embedding_regularizer=0",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Here, so that forked processes need not import it. No process group is: its threads would not be forked."""
    import fuxictr_multimodal.training.runner  # noqa: F401
    import model_zoo.QIN  # noqa: F401

    return load_library()


@pytest.fixture
def run_ranks(run_qin, monkeypatch):
    """`run_qin` in so many processes; the loss of every step of the global batches comes with the report."""

    def run(world_size, *settings, kill_at=None, failing=False, **arguments):
        body = traced(run_qin, monkeypatch, *settings, kill_at=kill_at, **arguments)
        return run_forked(world_size, body, failing=failing, timeout=300)

    return run


def left_by(report: Report, path):
    scores = np.load(path.with_name(f"{report.run}.predictions.npz"))
    weights = torch.load(path.with_name(f"{report.run}.model"), weights_only=True)
    return dict(scores), weights


def assert_same(one, other, *, rtol=1e-5):
    (losses, report, path), (found, others, place) = one, other
    np.testing.assert_allclose(found, losses, rtol=rtol)
    (scores, weights), (scores_there, weights_there) = left_by(report, path), left_by(others, place)
    assert list(weights) == list(weights_there)
    for split, values in scores.items():
        np.testing.assert_allclose(scores_there[split], values, rtol=1e-4, atol=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_there[name], weight, rtol=1e-3, atol=1e-4)


# -- one table


class Reference:
    """The whole table in one process, by torch's own optimizers or by the formula."""

    def __init__(self, updates, weight):
        from model_zoo.QIN.rowwise import RowwiseAdam

        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=0, _weight=weight.clone(), sparse=updates == "adam")
        kinds = {"adam": RowwiseAdam, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
        self.optimizer = kinds[updates](self.table.parameters(), lr=RATE) if updates in kinds else None
        self.h = torch.zeros(ROWS, 1)

    def step(self):
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
            return
        grad = self.table.weight.grad
        self.h += grad.square().sum(dim=1, keepdim=True) / 8  # FBGEMM stores 8 numbers for 6, two of them zero
        self.table.weight.data -= RATE * grad / (self.h.sqrt() + 1e-8)
        self.table.weight.grad = None


def lookups(step):
    """Ids of a global batch: twice in a step, as a target and a history; some are padding."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, ROWS, (2, BATCH), generator=generator)


def part(ids, step, rank, world_size):
    """The part of a rank: uneven, and in one step all rows are those of the last rank."""
    cuts = [0, *(0 if step == 3 else 1 + 5 * place for place in range(world_size - 1)), BATCH]
    return ids[:, cuts[rank] : cuts[rank + 1]]


def loss_of(table, ids):
    vectors = table(ids[0]) * (1 + table(ids[1]))
    return (vectors.sum(dim=1) - 1).square().sum() / BATCH


def train_alone(updates, weight):
    reference = Reference(updates, weight)
    losses = []
    for step in range(STEPS):
        loss = loss_of(reference.table, lookups(step) % (1 if step == 5 else ROWS))
        loss.backward()
        reference.step()
        losses.append(loss.item())
    return losses, reference.table.weight.detach()


def train_sharded(updates, weight, rank, world_size):
    from torch import distributed

    from fuxictr_multimodal.training.sharded.embedding import ShardedEmbedding
    from fuxictr_multimodal.training.sharded.table import ShardedTable
    from fuxictr_multimodal.training.sharded.whole import whole_table

    group = distributed.group.WORLD
    arguments = {"group": group, "local_size": world_size, "device": torch.device("cpu")}
    table = ShardedTable("items", rows=ROWS, width=WIDTH, padding=0, updates=updates, **arguments)
    table.take_rows(weight)
    layer = ShardedEmbedding(table)
    losses = []
    for step in range(STEPS):
        # In step 5 all ids are padding: no row is updated, but it is a step.
        loss = loss_of(layer, part(lookups(step) % (1 if step == 5 else ROWS), step, rank, world_size))
        loss.backward()
        rows_U, grad_UP = table.settle()
        table.updates.step(rows_U, grad_UP, RATE)
        table.forget()
        losses.append(ranks.sum_over_ranks(loss.detach()).item())
    return losses, whole_table(table)


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_table_is_updated_as_in_one_process(world_size):
    torch.manual_seed(0)
    weight = torch.randn(ROWS, WIDTH)
    weight[0] = 0
    kinds = ("adam", "sgd", "adagrad", "rowwise_adagrad")
    before = torch.get_rng_state()

    def body(rank):
        from fuxictr_multimodal.training.sharded.of_run import group_for_tables

        with ranks.joined(), group_for_tables({"shard_min_rows": 1}):
            found = {updates: train_sharded(updates, weight, rank, world_size) for updates in kinds}
        assert torch.equal(torch.get_rng_state(), before), "tables draw none of the numbers of a training"
        return {
            updates: (losses, None if whole is None else whole.numpy()) for updates, (losses, whole) in found.items()
        }

    found = run_forked(world_size, body, timeout=300)
    for updates in kinds:
        losses, trained = train_alone(updates, weight)
        for answers in found:
            np.testing.assert_allclose(answers[updates][0], losses, rtol=1e-5)
        whole = torch.from_numpy(found[0][updates][1])
        torch.testing.assert_close(whole, trained, rtol=1e-5, atol=1e-6)
        assert not whole[0].any(), "padding stays zero"


# -- runs


def test_a_run_is_that_of_row_wise_updates_for_any_number_of_processes(run_ranks):
    (unsharded,) = run_ranks(1, *ROWWISE, name="whole")
    (one,) = run_ranks(1, *SHARDED, name="one")
    two = run_ranks(2, *SHARDED, name="two")
    assert_same(unsharded, one)
    assert_same(one, two[0])
    assert one[1].config_hash == two[0][1].config_hash != unsharded[1].config_hash


def test_a_model_of_fuxictr_with_dense_sgd(run_ranks):
    (whole,) = run_ranks(1, *DIN, expid="DIN_demo", name="whole")
    sharded, _ = run_ranks(2, *DIN, "shard_min_rows=500", expid="DIN_demo", name="two")
    assert_same(whole, sharded)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3)])
def test_a_state_resumes_with_another_number_of_processes(run_ranks, first, then):
    # Step 5 is inside a window of accumulation.
    settings = (*SHARDED, "save_steps=5")
    (undisturbed,) = run_ranks(1, *settings, name="undisturbed")
    run_ranks(first, *settings, name="killed", kill_at=(first - 1, 7), failing=True)
    resumed, *_ = run_ranks(then, *settings, name="killed", resume=True)
    assert_same((undisturbed[0][5:], *undisturbed[1:]), resumed)
    # Nothing is left beside the results.
    assert not list(resumed[2].parent.glob("killed.state*"))


def test_a_state_whose_rows_are_damaged_gives_way_to_the_one_before(run_ranks):
    settings = (*SHARDED, "save_steps=3")
    (undisturbed,) = run_ranks(1, *settings, name="undisturbed")
    run_ranks(1, *settings, name="killed", kill_at=(0, 8), failing=True)
    folder = undisturbed[2].with_name("killed.state.tables")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    rows = folder / "2" / "rank-0-of-1.pt"
    rows.write_bytes(rows.read_bytes()[:-100])
    (resumed,) = run_ranks(1, *settings, name="killed", resume=True)
    assert f"{rows} cannot be read" in folder.with_name("killed.log").read_text()
    assert_same((undisturbed[0][3:], *undisturbed[1:]), resumed)


def test_tables_too_large_for_one_process_are_drawn_and_kept_by_their_ranks(
    run_ranks, monkeypatch, data_root, repository
):
    monkeypatch.setattr("fuxictr_multimodal.training.sharded.stand_ins.WHOLE_BYTES", 4000)
    settings = (*SHARDED, "save_steps=5")
    one, two = (run_ranks(count, *settings, name=f"by_{count}")[0] for count in (1, 2))
    losses, report, path = two
    # The same initial weights for any number of processes, but not those of one that builds the table.
    np.testing.assert_allclose(losses, one[0], rtol=1e-4)
    assert report.parameters == one[1].parameters == run_ranks(1, *ROWWISE, name="whole")[0][1].parameters
    folder = path.with_name("by_2.model.tables")
    (kept,) = folder.iterdir()
    assert {file.name for file in kept.iterdir()} == {"rank-0-of-2.pt", "rank-1-of-2.pt"}
    # One process that can hold the table scores with it.
    overrides = [f"model_root={path.parent.parent}", f"data_root={data_root}"]
    experiment = Experiment.load(repository / "config", "QIN_test", name="by_2", overrides=overrides)
    feature_map = experiment.feature_map()
    model, to_inputs = experiment.build_model(feature_map)
    load_trained(experiment, model)
    test = experiment.loaders("test", feature_map, model.device)
    scores = Trainer(model, to_inputs=to_inputs, epochs=1).predict(test).scores
    np.testing.assert_allclose(scores, left_by(report, path)[0]["test_scores"], rtol=1e-5)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="holds no rows of sharded tables"):
        load_trained(experiment, model)


# -- what a user does wrong


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("shard_min_rows=9999",), "no embedding table has so many rows: the tables have"),
        (("shard_min_rows=500", "weight_averaging=0.9"), "does not go with weight_averaging"),
        (
            ("shard_min_rows=500", "optimizer=RMSprop"),
            "optimizer RMSprop has no counterpart for sharded tables: set optimizer to one of Adam, SGD, Adagrad, or "
            "sharded_update to one of",
        ),
        (("shard_min_rows=500", "sharded_update=lamb"), "sharded_update"),
    ],
)
def test_one_error_says_what_does_not_go(run_qin, settings, text):
    with pytest.raises(ConfigError, match=text):
        run_qin(*settings)


def test_a_split_without_a_row_for_every_process_is_refused_before_the_training(run_ranks, tmp_path):
    small = ("synthetic={rows: 40, valid_rows: 40, test_rows: 2, items: 50, seed: 2}", f"data_root={tmp_path}")
    found = run_ranks(3, *STILL, "shard_min_rows=50", *small, failing=True)
    for error in found:
        assert "ConfigError: shard_min_rows needs a row of each split for every process" in error
        assert "the split 'test' of Synthetic_test has 2 for 3" in error
    assert not list(tmp_path.glob("checkpoints/*/*.report.json"))


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "fbgemm_gpu.split_embedding_configs", None)
    load_library.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0"):
        load_library()
    monkeypatch.setattr(library, "version", {"torch": "2.13.0"}.__getitem__)
    monkeypatch.setattr(library, "PackageNotFoundError", KeyError)
    with pytest.raises(ConfigError, match="shard_min_rows needs torchrec, which is not installed: pip install"):
        load_library()
    monkeypatch.undo()
    load_library.cache_clear()
    load_library()


def test_releases_that_fit():
    assert fitting("2.13.0+cpu") == "1.8"
