"""Row-wise updates of large embedding tables: exact where stated, different where stated, and no more than the rows."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.trainer import Trainer
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN import QIN
from model_zoo.QIN.rowwise import RowwiseAdam, add_penalty, clip_gradients
from tests.helpers.reference_qin import feature_map, random_batch, small_qin

EXACT = {"rtol": 1e-9, "atol": 1e-9}
LAYERS = "embedding_layer.embedding_layer.embedding_layers."
TABLES = {"likes_level", "views_level", "item_id", "item_tags"}


def pair(*, min_rows=1, **options):
    """The same model, updated row by row and densely."""
    options = {"features": feature_map(items=40, tags=30), "learning_rate": 0.05, **options}
    one = small_qin(embedding_update="rowwise", rowwise_min_rows=min_rows, **options)
    return one.train(), small_qin(**options).train()


def batches(model: QIN, *, steps: int, rows: int = 6) -> list[Batch]:
    return [random_batch(model.feature_map, np.random.default_rng(seed), rows=rows) for seed in range(steps)]


def full_batch(model: QIN, *, seed: int) -> Batch:
    """Looks up every row of every table but padding; the tags follow from the items."""
    items, rows = model.item_table.num_items, 40
    batch = random_batch(model.feature_map, np.random.default_rng(seed), rows=rows)
    values = torch.arange(rows, dtype=torch.int32).clamp(min=1)
    levels = torch.arange(rows, dtype=torch.int32) % 11
    assert items == rows
    return replace(
        batch,
        features={**batch.features, "likes_level": levels, "views_level": levels.flip(0)},
        history=Jagged(values, torch.arange(rows + 1)),
    )


def looked_up(model: QIN, batch: Batch) -> dict[str, set[int]]:
    """Rows of each table that a batch needs, padding left out."""
    items = set(batch.history.values.tolist()) | set(batch.target.tolist())
    tags = {tag for item in items for tag in model.item_table.features["item_tags"][item].tolist()}
    levels = {name: set(batch.features[name].tolist()) for name in ("likes_level", "views_level")}
    return {name: rows - {0} for name, rows in {**levels, "item_id": items, "item_tags": tags}.items()}


def weights(model: QIN) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(one: QIN, other: QIN) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("regularizer", [0.01, "l1_l2(0.01,0.02)"])
def test_equals_dense_training_while_every_row_is_looked_up(form, regularizer):
    one, dense = pair(form=form, embedding_regularizer=regularizer)
    start = weights(one)
    assert set(one.rowwise_tables) == TABLES
    for seed in range(5):
        batch = full_batch(one, seed=seed)
        for inputs in (batch, as_longctr(batch, one.item_table)):
            one.train_step(inputs)
            dense.train_step(inputs)
    assert_same(one, dense)
    assert all((start[name][1:] != value[1:]).any() for name, value in one.named_parameters() if len(value) > 1)


def test_without_a_penalty_losses_equal_dense_ones_until_a_row_pauses():
    one, dense = pair(embedding_regularizer=None, min_rows=40)
    assert set(one.rowwise_tables) == {"item_id"}
    example = batches(one, steps=1)[0]
    rows = full_batch(one, seed=0)
    # Rows not seen so far stand still in both; then all rows in every step.
    for batch in (example, rows, rows):
        assert one.train_step(batch).item() == pytest.approx(dense.train_step(batch).item(), rel=1e-12)
    assert_same(one, dense)
    # Dense Adam moves a row on along its first moment while it is not looked up; here it stands still.
    before = weights(one)[LAYERS + "item_id.weight"]
    one.train_step(example)
    dense.train_step(example)
    missing = sorted(set(range(1, 40)) - looked_up(one, example)["item_id"])
    assert torch.equal(weights(one)[LAYERS + "item_id.weight"][missing], before[missing])
    # Some items have had no gradient: a history item with a score below 0.
    moved = (weights(dense)[LAYERS + "item_id.weight"][missing] != before[missing]).any(dim=1)
    assert moved.sum() > len(missing) / 2


@pytest.mark.parametrize("max_norm", [1e3, 0.05])
@pytest.mark.parametrize("window", [1, 2])
def test_is_dense_adam_in_which_other_rows_keep_their_weights_and_have_no_penalty(max_norm, window):
    """The definition, by hand: a dense gradient, the penalty of rows looked up, torch's Adam, other rows put back."""
    penalty = 0.3
    one, dense = pair(embedding_regularizer=penalty, batch_norm=False)
    dense._embedding_regularizer = None
    adam = torch.optim.Adam(dense.parameters(), lr=0.05)
    one.accumulation_steps, one._steps_per_epoch, one._max_gradient_norm = window, 12, max_norm
    found = batches(one, steps=12)
    paused = False
    for first in range(0, 12, window):
        rows = {name: set() for name in TABLES}
        adam.zero_grad()
        for index in range(first, first + window):
            one._batch_index = index
            one.train_step(found[index])
            loss = dense.compute_loss(dense.forward(found[index]), dense.get_labels(found[index]))
            (loss / window).backward()
            for name, more in looked_up(dense, found[index]).items():
                rows[name] |= more
        before = weights(dense)
        for name, parameter in dense.named_parameters():
            if "feature_encoders" in name:
                parameter.grad.add_(parameter.detach(), alpha=penalty)
            elif name.startswith(LAYERS):
                touched = sorted(rows[name.split(".")[3]])
                parameter.grad[touched] += penalty * parameter.detach()[touched]
                paused = paused or len(touched) < len(parameter) - 1
        norm = torch.nn.utils.clip_grad_norm_(dense.parameters(), max_norm)
        assert (norm > max_norm) == (max_norm < 1)
        adam.step()
        with torch.no_grad():
            for name in TABLES:
                table = dict(dense.named_parameters())[f"{LAYERS}{name}.weight"]
                others = sorted(set(range(len(table))) - rows[name])
                table[others] = before[f"{LAYERS}{name}.weight"][others]
        assert_same(one, dense)
    assert paused


def test_a_step_writes_the_rows_looked_up_and_no_others():
    one, _ = pair(embedding_regularizer=0.01, features=feature_map(items=500, tags=300))
    (batch,) = batches(one, steps=1)
    before = weights(one)
    one.train_step(batch)
    for name, rows in looked_up(one, batch).items():
        table = dict(one.named_parameters())[f"{LAYERS}{name}.weight"]
        state = one.optimizer.state[table]
        assert table.grad.is_coalesced()
        assert set(table.grad.indices()[0].tolist()) == rows
        for changed in (table != before[f"{LAYERS}{name}.weight"], state["exp_avg"] != 0, state["last_step"][:, None]):
            assert set(changed.any(dim=1).nonzero().flatten().tolist()) == rows


@pytest.mark.parametrize("fused", [True, False])
def test_moments_are_those_of_dense_adam_whenever_a_row_is_looked_up(fused):
    """The same gradients for both, so that the moments can be compared though the weights part."""
    rng = np.random.default_rng(0)
    table = torch.nn.Parameter(torch.from_numpy(rng.standard_normal((9, 3))))
    dense = copy.deepcopy(table)
    one, adam = RowwiseAdam([table], lr=0.1, fused=fused), torch.optim.Adam([dense], lr=0.1)
    pauses = 0
    for step in range(30):
        rows = torch.from_numpy(rng.permutation(9)[: rng.integers(1, 5)])
        values = torch.from_numpy(rng.standard_normal((len(rows), 3)))
        # Each entry twice, at half its value: gradients of the same row add up.
        entries = torch.cat([rows, rows])[None]
        table.grad = torch.sparse_coo_tensor(
            entries, torch.cat([values, values]) / 2, table.shape, check_invariants=True
        )
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, values)
        before = table.detach().clone()
        if step > 0:
            pauses += int((one.state[table]["last_step"][rows] < step).sum())
        one.step()
        adam.step()
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(one.state[table][name][rows], adam.state[dense][name][rows], **EXACT)
        moments = adam.state[dense]
        corrected = moments["exp_avg_sq"] / (1 - 0.999 ** (step + 1))
        move = 0.1 * moments["exp_avg"] / (1 - 0.9 ** (step + 1)) / (corrected.sqrt() + 1e-8)
        expected = before.index_copy(0, rows, before[rows] - move[rows])
        torch.testing.assert_close(table.detach(), expected, rtol=1e-7, atol=1e-9)
    assert pauses > 20


def test_blocks_of_rows_change_nothing(monkeypatch):
    one, _ = pair()
    other = copy.deepcopy(one)
    for batch in batches(one, steps=3):
        monkeypatch.setattr("model_zoo.QIN.rowwise._CHUNK", 1 << 18)
        one.train_step(batch)
        monkeypatch.setattr("model_zoo.QIN.rowwise._CHUNK", 8)
        other.train_step(batch)
    assert_same(one, other)


def test_gradients_are_clipped_by_their_common_norm():
    table = torch.nn.Embedding(7, 3, sparse=True)
    dense = copy.deepcopy(table)
    dense.sparse = False
    other = torch.nn.Parameter(torch.ones(4))
    ids = torch.tensor([2, 5, 2])
    for lookup in (table, dense):
        (lookup(ids).square().sum() + other.square().sum()).backward()
    add_penalty([table], [])
    twin = copy.deepcopy(other)
    twin.grad = other.grad = other.grad / 2  # it has two losses' gradient
    twin.grad = other.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_([dense.weight, twin], 0.5)
    assert clip_gradients([table.weight, other, torch.nn.Parameter(torch.ones(1))], 0.5).item() == pytest.approx(
        expected.item()
    )
    torch.testing.assert_close(table.weight.grad.to_dense(), dense.weight.grad)
    torch.testing.assert_close(other.grad, twin.grad)


def test_saved_and_loaded_it_resumes_as_if_never_stopped():
    one, _ = pair()
    steps = batches(one, steps=8)
    for batch in steps[:4]:
        one.train_step(batch)
    again, _ = pair()
    again.load_state_dict(one.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    trace = [[model.train_step(batch).item() for batch in steps[4:]] for model in (one, again)]
    assert trace[0] == trace[1]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_a_killed_run_resumes_with_the_same_trace(run_qin, monkeypatch):
    settings = ("epochs=3", "embedding_update=rowwise", "rowwise_min_rows=100")
    whole, _ = run_qin(*settings, seed=1)
    evaluate = Trainer._evaluation

    def killed(self, *arguments):
        evaluate(self, *arguments)
        if self.progress.curve[-1].epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_evaluation", killed)
    with pytest.raises(KeyboardInterrupt):
        run_qin(*settings, seed=1, overwrite=True)
    monkeypatch.setattr(Trainer, "_evaluation", evaluate)
    resumed, _ = run_qin(*settings, seed=1, resume=True)
    assert [row["train_loss"] for row in resumed.curve] == [row["train_loss"] for row in whole.curve]
    assert resumed.metrics == whole.metrics


def test_the_learning_rate_falls_for_rows_too():
    one, _ = pair(embedding_regularizer=None)
    (batch,) = batches(one, steps=1)
    before = weights(one)[LAYERS + "item_id.weight"]
    other = copy.deepcopy(one)
    other.lr_decay()
    for model in (one, other):
        model.train_step(batch)
    moves = [weights(model)[LAYERS + "item_id.weight"] - before for model in (one, other)]
    torch.testing.assert_close(moves[1], moves[0] * 0.5)


def test_dense_is_the_default_and_untouched():
    model = QIN(feature_map(), embedding_dim=2, verbose=0)
    assert type(model.optimizer) is torch.optim.Adam
    assert model.rowwise_tables == {}
    assert not any(getattr(module, "sparse", False) for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_update": "row_wise"}, "embedding_update='row_wise' is not known.*'rowwise'"),
        ({"embedding_update": "rowwise"}, "rowwise_min_rows=50000.*'item_id': 23.*lower rowwise_min_rows"),
        (
            {"embedding_update": "rowwise", "rowwise_min_rows": 1, "optimizer": "SGD"},
            "embedding_update=rowwise needs optimizer=adam, got 'SGD'",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        QIN(feature_map(), embedding_dim=2, verbose=0, **options)
