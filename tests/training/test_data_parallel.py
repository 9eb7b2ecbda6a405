"""Several processes train as one: the same trace, the same scores, one state for any number of them."""

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Share
from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.training.batch_norm import GlobalNorms
from fuxictr_multimodal.training.report import Report
from model_zoo.QIN.quadratic import QuadraticNetwork
from tests.helpers.forked_ranks import run_forked
from tests.helpers.traced_runs import traced

# No layer draws: several processes have streams of their own.
STILL = ("net_dropout=0", "eval_steps=4", "batch_size=500", "early_stop_patience=9")
QIN = (
    *STILL, "contrastive_loss=1.0", "first_order=[item_id, likes_level]", "first_order_loss=own",
    "weight_averaging=0.9", "first_order_averaging=0.9", "accumulation_steps=3", "num_layers=1", "num_row=2",
)  # fmt: skip
ROWWISE = (*STILL, "embedding_update=rowwise", "rowwise_min_rows=9", "accumulation_steps=2", "batch_norm=False")
# 4,000 rows: the last batch of an epoch has 1, which joins the one before it where the model has BatchNorm. Without a
# ReLU: an input so near 0 that rounding decides its sign shows in the trace as 1e-4.
DIN = (
    "dnn_activations=Tanh",
    "dataset_id=Synthetic_test", "batch_size=1333", "eval_steps=2", "epochs=1", "cpu_threads=1", "net_dropout=0",
    "batch_norm=True", "early_stop_patience=9",
)  # fmt: skip


@pytest.fixture
def run_ranks(run_qin, monkeypatch):
    """`run_qin` in so many processes; the loss of every step of the global batches comes with the report."""

    def run(world_size, *settings, kill_at=None, failing=False, **arguments):
        body = traced(run_qin, monkeypatch, *settings, kill_at=kill_at, **arguments)
        # In this process one runs alone, so that what all import is there before the others are forked.
        return [body(0)] if world_size == 1 and kill_at is None else run_forked(world_size, body, failing=failing)

    return run


def left_by(report: Report, path):
    curve = [(row["train_loss"], row["metrics"]["AUC"], row["metrics"]["logloss"]) for row in report.curve]
    scores = np.load(path.with_name(f"{report.run}.predictions.npz"))
    return curve, report.metrics, dict(scores)


def assert_same(one, several, *, rtol=1e-5, scored=1e-4):
    (losses, report, path), (found, others, place) = one, several
    np.testing.assert_allclose(found, losses, rtol=rtol)
    (curve, metrics, scores), (curve_there, metrics_there, scores_there) = left_by(report, path), left_by(others, place)
    # Two scores that are nearly equal may change places.
    np.testing.assert_allclose(curve_there, curve, rtol=scored)
    for split, values in metrics.items():
        assert metrics_there[split] == pytest.approx(values, rel=10 * scored)
        np.testing.assert_allclose(scores_there[f"{split}_scores"], scores[f"{split}_scores"], rtol=10 * scored)


@pytest.mark.parametrize(
    ("expid", "settings", "world", "scored"),
    # A bias before BatchNorm has a gradient of rounding alone, which Adam makes a whole step of; batches do not see it,
    # but running statistics lag behind.
    [("QIN_test", QIN, 3, 1e-4), ("QIN_test", ROWWISE, 2, 1e-4), ("DIN_demo", DIN, 2, 5e-3)],
    ids=["QIN", "rowwise", "DIN"],
)
def test_the_trace_is_that_of_one_process(run_ranks, expid, settings, world, scored):
    (one,) = run_ranks(1, *settings, expid=expid, name="one")
    found = run_ranks(world, *settings, expid=expid, name="several")
    assert_same(one, found[0], scored=scored)
    # Every rank has the same trace and returns the report of rank 0.
    assert len({tuple(losses) for losses, _, _ in found}) == 1
    assert {report.world_size for _, report, _ in found} == {world}
    assert found[0][1].config_hash == one[1].config_hash


def test_batch_norm_of_several_processes_is_that_of_one():
    x = torch.randn(12, 5, 3, dtype=torch.float64) * 2 + 7
    weight = torch.randn(12, 5, 3, dtype=torch.float64)

    def norm():
        torch.manual_seed(1)
        layer = torch.nn.BatchNorm1d(5).double()
        torch.nn.init.normal_(layer.weight)
        return layer

    def computed(layer, rows, *, counts=1.0):
        part = x[rows].clone().requires_grad_()
        out = layer(part)
        (out * weight[rows]).sum().mul(counts).backward()
        return [value.detach() for value in (out, part.grad, layer.weight.grad, layer.bias.grad, *layer.buffers())]

    def body(rank):
        with ranks.joined() as here:
            layer = norm()
            norms = GlobalNorms(torch.nn.Sequential(layer), here, synchronised=True)
            # The last rank has stand-ins only.
            rows = (slice(0, 5), slice(5, 12), slice(0, 2))[rank]
            norms.begin(Share((5, 7, 0)[rank], of=12))
            return computed(layer, rows, counts=0.0 if rank == 2 else 1.0)

    out, grad, dweight, dbias, *running = computed(norm(), slice(None))
    first, second, third = run_forked(3, body)
    torch.testing.assert_close(torch.cat([first[0], second[0]]), out)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), grad)
    torch.testing.assert_close(first[2] + second[2] + third[2], dweight)
    torch.testing.assert_close(first[3] + second[3] + third[3], dbias)
    for found in (first, second, third):
        torch.testing.assert_close(found[4:], running)
    assert not third[1].any()


def test_the_optimized_quadratic_layers_of_several_processes_are_those_of_one():
    x, weight = torch.randn(2, 12, 8, dtype=torch.float64)

    def network():
        torch.manual_seed(1)
        made = QuadraticNetwork(8, num_layers=2, num_row=2, dropout=0.0).double()
        for norm in made.norm:
            torch.nn.init.normal_(norm.weight)
        return made

    def computed(made, rows, *, counts=1.0):
        part = x[rows].clone().requires_grad_()
        (made(part) * weight[rows]).sum().mul(counts).backward()
        return part.grad, {name: value.grad for name, value in made.named_parameters()}, dict(made.named_buffers())

    def body(rank):
        with ranks.joined() as here:
            made = network()
            norms = GlobalNorms(made, here, synchronised=True)
            norms.begin(Share((5, 7, 0)[rank], of=12))
            return computed(made, (slice(0, 5), slice(5, 12), slice(0, 2))[rank], counts=0.0 if rank == 2 else 1.0)

    grad, of_weights, buffers = computed(network(), slice(None))
    found = run_forked(3, body)
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]]), grad)
    for name, one in of_weights.items():
        torch.testing.assert_close(sum(weights[name] for _, weights, _ in found), one)
    for _, _, of_rank in found:
        torch.testing.assert_close(of_rank, buffers)


def test_batch_norm_over_shares_agrees_at_evaluations(run_ranks):
    settings = (*STILL, "sync_batch_norm=False", "epochs=1", "eval_steps=null")
    found = run_ranks(2, *settings, name="local")
    assert len({tuple(losses) for losses, _, _ in found}) == 1
    (one,) = run_ranks(1, *settings, name="one")
    assert one[0] != pytest.approx(found[0][0], rel=1e-6)
    assert one[0] == pytest.approx(found[0][0], rel=0.1)


def test_statistics_over_shares_weigh_as_much_as_the_steps_with_rows():
    def body(rank):
        with ranks.joined() as here:
            layer = torch.nn.BatchNorm1d(1)
            norms = GlobalNorms(torch.nn.Sequential(layer), here, synchronised=False)
            # Of three steps rank 0 has rows in all, rank 1 in one and rank 2 in none.
            for step in range(3):
                norms.begin(Share(int(not (rank > 0 and step + rank > 1)), of=3))
            layer.running_mean.fill_((4.0, 8.0, 99.0)[rank])
            norms.agree()
            agreed = layer.running_mean.item()
            # Without a step nothing is new.
            norms.agree()
            return agreed, layer.running_mean.item()

    assert run_forked(3, body) == [(5.0, 5.0)] * 3


def test_the_loss_of_rank_0_names_what_is_left(run_ranks):
    settings = (*STILL, "epochs=1", "save_steps=2")
    killed, error = run_ranks(2, *settings, name="killed", kill_at=(0, 3), failing=True)
    assert killed is None
    assert "RankLost: another process of this training was killed" in error
    assert "killed.state holds its last saved step, the same command with --resume continues it" in error


def test_processes_with_different_settings_are_refused(run_qin):
    def body(rank):
        run_qin(*STILL, *([], ["learning_rate=0.5"])[rank], f"model_root=of_{rank}")

    for error in run_forked(2, body, failing=True):
        assert "ConfigError: learning_rate is 0.002 for rank 0 and 0.5 for rank 1: start all processes" in error


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3)])
def test_a_state_resumes_with_another_number_of_processes(run_ranks, first, then):
    settings = (*QIN, "epochs=1", "save_steps=5")
    (whole,) = run_ranks(1, *settings, name="whole")
    found = run_ranks(first, *settings, name="killed", kill_at=(first - 1, 7), failing=True)
    if first > 1:
        # The other process ends by itself, and says what is left.
        assert found[1] is None
        assert "RankLost: another process of this training was killed" in found[0]
        assert "killed.state holds its last saved step" in found[0]
    resumed, *_ = run_ranks(then, *settings, name="killed", resume=True)
    np.testing.assert_allclose(resumed[0], whole[0][5:], rtol=1e-5)
    assert_same((whole[0][5:], *whole[1:]), resumed)
