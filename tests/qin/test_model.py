"""QIN as a model: size, formulas, equality of its two forms, training, and what it must learn."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN import QIN, item_vectors, quadratic_block
from tests.helpers.reference_qin import feature_map, item_table, random_batch, reference_logits, small_qin

EXACT = {"rtol": 1e-9, "atol": 1e-9}
VARIANTS = [
    {},
    {"attention_activation": "softmax"},
    {"attention_dim": 7},
    {"num_row": 1},
    {"num_row": 4, "num_layers": 1},
    {"activation": "relu"},
    {"batch_norm": False},
    {"pooling": "mean"},
]
IDS = ["-".join(f"{k}={v}" for k, v in options.items()) or "published" for options in VARIANTS]


@pytest.fixture(autouse=True)
def _small_blocks(request, monkeypatch):
    """Blocks of 4 rows, so that these small batches are cut as large ones are."""
    if "learnt" not in request.node.name and "fit" not in request.node.name:
        monkeypatch.setattr(quadratic_block, "BLOCK_ROWS", 4)


def example(*, rows=11, seed=3, **options):
    model = small_qin(**options)
    return model, random_batch(model.feature_map, np.random.default_rng(seed), rows=rows)


def triple(model: QIN, batch: Batch, *, max_len: int | None = None):
    return as_longctr(batch, model.item_table, max_len=max_len)


def gradients(model: QIN, inputs, *, seed: int | None = None) -> dict[str, torch.Tensor]:
    if seed is not None:
        torch.manual_seed(seed)
    model.zero_grad()
    logit = model.forward(inputs)["logit"]
    loss = model.compute_loss({"y_pred": torch.sigmoid(logit)}, model.get_labels(inputs))
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logit": logit.detach(), "loss": loss.detach(), **found}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("num_row", "expected"), [(4, 31_244_293), (3, 27_045_893)])
def test_published_size_and_names(num_row, expected):
    features = feature_map(items=91_718, tags=11_740, given={"item_emb_d128": 128})
    model = QIN(features, num_row=num_row, verbose=0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    layers = "embedding_layer.embedding_layer."
    # The names of the published weight files: they load as they are.
    columns = ("likes_level", "views_level", "item_id", "item_tags")
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert shapes.keys() == {
        *(f"{layers}embedding_layers.{name}.weight" for name in columns),
        f"{layers}feature_encoders.item_emb_d128.weight",
        *(f"attention_layers.W_{name}.weight" for name in "qkvo"),
        *(f"qnn.layer.{i}.linear.0.{name}" for i in range(4) for name in ("weight", "bias")),
        *(f"qnn.norm.{i}.{name}" for i in range(4) for name in norm),
        *(f"qnn.activation.{i}.weight" for i in range(4)),
        "qnn.fc.weight",
        "qnn.fc.bias",
    }
    assert shapes[layers + "embedding_layers.item_tags.weight"] == (11_740, 128)
    assert shapes[layers + "feature_encoders.item_emb_d128.weight"] == (128, 128)
    assert shapes["attention_layers.W_o.weight"] == (384, 768)
    assert shapes["qnn.layer.3.linear.0.weight"] == (num_row * 1024, 1024)
    assert shapes["qnn.activation.0.weight"] == (1,)
    weights = model.state_dict()
    assert weights[layers + "embedding_layers.item_id.weight"][0].abs().max() == 0
    assert weights[layers + "embedding_layers.item_id.weight"][1:].std().item() == pytest.approx(1e-4, rel=0.01)
    assert weights["attention_layers.W_q.weight"].std().item() == pytest.approx((2 / (384 + 768)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("options", VARIANTS, ids=IDS)
def test_equals_the_formulas(options, form, training):
    model, batch = example(form=form, **options)
    expected = reference_logits(model, batch, training=training)
    model.train(training)
    for inputs in (batch, triple(model, batch), triple(model, batch, max_len=9)):
        with torch.no_grad():
            logit = model(inputs)["logit"][:, 0].numpy()
        np.testing.assert_allclose(logit, expected, **EXACT)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [*VARIANTS, {"interaction": "mlp"}], ids=[*IDS, "mlp"])
def test_fast_equals_plain_in_values_and_gradients(options, training):
    model, batch = example(net_regularizer=0.02, **options)
    model.train(training)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    for inputs in (batch, triple(model, batch, max_len=8)):
        assert_same(gradients(model, inputs), gradients(plain, inputs))
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("options", [{}, {"attention_activation": "softmax"}, {"batch_norm": False}], ids=str)
def test_fast_equals_plain_with_the_same_dropout_masks(options):
    model, batch = example(net_dropout=0.3, attention_dropout=0.4, **options)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    one = gradients(model, batch, seed=5)
    assert_same(one, gradients(plain, batch, seed=5))
    assert not torch.allclose(one["logit"], gradients(model, batch, seed=6)["logit"])


@pytest.mark.parametrize("items", [23, 500])
@pytest.mark.parametrize("training", [False, True])
def test_the_way_of_a_gpu_to_distinct_items_equals_plain(items, training, monkeypatch):
    """Fewer and more items than ids of the batch: the whole table, and distinct items filled up to a known number."""
    monkeypatch.setattr(item_vectors, "_on_gpu", lambda ids: True)
    monkeypatch.setattr(torch, "unique", None)  # a GPU would make the host wait
    model, batch = example(features=feature_map(items=items), net_dropout=0.3)
    model.train(training)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    assert_same(gradients(model, batch, seed=5), gradients(plain, batch, seed=5))
    with torch.no_grad():
        if not training:
            assert_same(model(batch), plain(batch))


@given(st.lists(st.integers(0, 30), max_size=50))
@settings(deadline=None, derandomize=True, database=None)
def test_padded_unique_is_unique_at_a_known_size(ids):
    given_ids = torch.tensor(ids, dtype=torch.long)
    distinct, index = item_vectors.padded_unique(given_ids, 31)
    expected = torch.unique(given_ids)
    assert len(distinct) == min(len(ids), 31)
    assert torch.equal(distinct[: len(expected)], expected)
    assert not distinct[len(expected) :].any()
    assert torch.equal(distinct[index], given_ids)


def test_meta_columns_are_not_copied_to_the_device(monkeypatch):
    """They stay on the host; a copy would make it wait for the device."""
    model, batch = example()
    sent = []
    to = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, device, **options: sent.append(self) or to(self, device, **options))
    expected = model.forward(batch)
    meta = torch.empty(len(batch), device="meta")  # holds nothing, and cannot be copied from
    found = model.forward(replace(batch, features={**batch.features, "user_id": meta}, group=meta))
    assert_same(found, expected)
    assert all(not ids.features and ids.group is None for ids in sent)


def test_fast_equals_plain_in_float32():
    """The tolerance of single precision: 1e-4 of the largest gradient of each parameter."""
    model, batch = example(rows=64, net_dropout=0.1, embedding_dim=16)
    model = model.float()
    for encoder in model.embedding_layer.embedding_layer.feature_encoders.values():
        encoder._forward_pre_hooks.clear()
    plain = copy.deepcopy(model)
    plain.form = "plain"
    one, other = gradients(model, batch, seed=1), gradients(plain, batch, seed=1)
    for name in one:
        scale = other[name].abs().max().item()
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-4 * scale + 1e-6, msg=name)


@pytest.mark.parametrize("given", [{}, {"text": 5, "image": 7, "audio": 3}], ids=["none", "three"])
def test_any_number_of_pretrained_embeddings(given):
    features = feature_map(given=given)
    model, batch = example(features=features)
    np.testing.assert_allclose(
        gradients(model.eval(), batch)["logit"][:, 0].numpy(), reference_logits(model, batch), **EXACT
    )


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_padding_and_order_of_the_history_change_nothing(form):
    model, batch = example(form=form)
    model.eval()
    expected = gradients(model, triple(model, batch))
    assert_same(gradients(model, triple(model, batch, max_len=30)), expected)
    rng = np.random.default_rng(0)
    lengths = batch.history.lengths.tolist()
    values = torch.cat(
        [row[torch.from_numpy(rng.permutation(len(row)))] for row in batch.history.values.split(lengths)]
    )
    shuffled = replace(batch, history=Jagged(values, batch.history.offsets))
    assert_same(gradients(model, shuffled), expected)


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_a_batch_without_any_history(form):
    model, batch = example(form=form)
    batch = replace(batch, history=Jagged(batch.history.values[:0], torch.zeros(len(batch) + 1, dtype=torch.long)))
    found = gradients(model, batch)
    np.testing.assert_allclose(found["logit"][:, 0].numpy(), reference_logits(model, batch, training=True), **EXACT)
    assert all(torch.isfinite(value).all() for value in found.values())


def test_gradient_equals_finite_differences():
    model, batch = example(rows=7, net_regularizer="l1_l2(0.01,0.02)")
    analytic = gradients(model, batch)
    rng = np.random.default_rng(1)
    step = 1e-6
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        # Padding rows take no gradient by contract, though the function does depend on them.
        first = parameter.shape[1] if "embedding_layers" in name else 0
        for index in rng.integers(first, len(flat), 4):
            value = flat[index].item()
            losses = []
            for moved in (value + step, value - step):
                flat[index] = moved
                losses.append(gradients(model, batch)["loss"].item())
            flat[index] = value
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert analytic[name].view(-1)[index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("regularizer", [1, 0.3, "l1(0.1)", "l1_l2(0.1,0.2)"])
def test_penalty_equals_fuxictrs(regularizer):
    model, _ = example(embedding_regularizer=regularizer, net_regularizer=0.05)
    fast = model.regularization_loss()
    fast.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = super(QIN, model).regularization_loss()
    plain.backward()
    assert fast.item() == pytest.approx(plain.item(), rel=1e-12)
    assert_same(grads, {name: p.grad for name, p in model.named_parameters()})
    assert fast.item() > 1


def halves(batch: Batch) -> list[Batch]:
    middle = len(batch) // 2
    cut = int(batch.history.offsets[middle])
    return [
        Batch(
            features={name: value[rows] for name, value in batch.features.items()},
            target=batch.target[rows],
            history=Jagged(batch.history.values[items], batch.history.offsets[offsets] - start),
        )
        for rows, items, offsets, start in (
            (slice(middle), slice(cut), slice(middle + 1), 0),
            (slice(middle, None), slice(cut, None), slice(middle, None), cut),
        )
    ]


def test_two_accumulated_halves_are_one_batch():
    whole, batch = example(rows=12, batch_norm=False)
    parts = copy.deepcopy(whole)
    parts.compile("adam", "binary_crossentropy", 2e-3)
    parts.accumulation_steps, parts._steps_per_epoch = 2, 2
    whole.train_step(batch)
    for index, half in enumerate(halves(batch)):
        parts._batch_index = index
        parts.train_step(half)
    assert_same(dict(parts.named_parameters()), dict(whole.named_parameters()))


def test_accumulation_does_not_leak_over_an_epoch():
    """3 steps in windows of 2: the last window has one step, is scaled by 1, and the next epoch starts from nothing."""
    model, batch = example(rows=12, batch_norm=False, accumulation_steps=2)
    model.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model._steps_per_epoch, model._max_gradient_norm = 3, float("inf")
    start = copy.deepcopy(model)
    for _epoch in range(2):
        for index in range(3):
            model._batch_index = index
            model.train_step(batch)
    # The same batch in every step: each window is one plain step of gradient descent.
    for _window in range(4):
        found = gradients(start, batch)
        with torch.no_grad():
            for name, p in start.named_parameters():
                p -= 0.1 * found[name]
    assert_same(dict(model.named_parameters()), dict(start.named_parameters()))


def test_scoring_follows_the_weights():
    """What is kept for scoring is dropped when weights change, by whatever way."""
    model, batch = example(embedding_dim=4)
    model.eval()

    def logits(fresh: bool = False) -> torch.Tensor:
        scored = copy.deepcopy(model) if fresh else model
        if fresh:
            scored.forget()
        with torch.no_grad():
            return scored(batch)["logit"]

    for change, moves in (
        (lambda: None, False),
        (lambda: model.train_step(batch), True),
        (lambda: model.optimizer.step(), True),
        (lambda: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}), True),
        (lambda: model.attach(item_table(model.feature_map, np.random.default_rng(9))), True),
        (lambda: model.train().train_step(batch) and model.eval(), True),
    ):
        for _ in range(3):
            logits()
        before = logits()
        change()
        torch.testing.assert_close(logits(), logits(fresh=True), rtol=0, atol=1e-12)
        assert torch.equal(before, logits()) != moves


def learnable(features, rng: np.random.Generator, *, rows: int) -> Batch:
    """Rows that are clicked exactly when the target is in the history, about half of them."""
    batch = random_batch(features, rng, rows=rows)
    values = batch.history.values.clone()
    filled = (batch.history.lengths > 0) & torch.from_numpy(rng.random(rows) < 0.5)
    values[batch.history.offsets[:-1][filled]] = batch.target[filled]
    owner = batch.history.row_index()
    hits = torch.zeros(rows).index_add(0, owner, (values == batch.target[owner]).float())
    columns = {**batch.features, "label": (hits > 0).to(torch.uint8)}
    return replace(batch, features=columns, history=Jagged(values, batch.history.offsets))


def test_a_planted_rule_is_learnt():
    """Click iff the target is in the history: only attention can tell, for any pair of items."""
    rng = np.random.default_rng(0)
    features = feature_map(items=60)
    torch.manual_seed(0)
    model = QIN(features, embedding_dim=8, num_layers=2, learning_rate=0.01, embedding_regularizer=1e-6, verbose=0)
    model.attach(item_table(features, rng))
    model.train()
    for _ in range(120):
        model.train_step(learnable(features, rng, rows=512))
    test = learnable(features, rng, rows=2000)
    scores = model.predict([test])
    assert roc_auc_score(test.features["label"].numpy(), scores) > 0.95


class Triples(list):
    """What FuxiCTR's `fit` wants of a generator: a length and batches."""


def test_trains_in_fuxictrs_own_fit(tmp_path):
    rng = np.random.default_rng(0)
    features = feature_map()
    table = item_table(features, rng)
    batches = [learnable(features, rng, rows=256) for _ in range(22)]
    train = Triples(as_longctr(b, table) for b in batches[:20])
    valid = Triples(as_longctr(b, table) for b in batches[20:])
    torch.manual_seed(0)
    model = QIN(
        features,
        embedding_dim=8,
        num_layers=2,
        learning_rate=0.01,
        embedding_regularizer=1e-6,
        accumulation_steps=3,
        verbose=0,
        model_root=str(tmp_path),
        model_id="QIN_fit",
        metrics=["AUC", "logloss"],
        monitor={"AUC": 1, "logloss": -1},
        dataset_id="toy",
        seed=1,
        num_workers=3,
    )
    before = model.evaluate(valid)
    model.fit(train, epochs=8, validation_data=valid)
    after = model.evaluate(valid)
    assert after["logloss"] < 0.8 * before["logloss"]
    assert (tmp_path / "toy/QIN_fit.model").is_file()
    again = QIN(features, embedding_dim=8, num_layers=2, verbose=0, model_root=str(tmp_path), model_id="QIN_fit")
    again.load_weights(again.checkpoint)
    np.testing.assert_array_equal(again.predict(valid), model.predict(valid))
    assert model.get_group_id(valid[0]).shape == (256,)


def test_a_dropped_model_is_freed_at_once():
    model, batch = example()
    model.train_step(batch)
    seen = weakref.ref(model)
    del model
    assert seen() is None


def test_plateau_uses_the_factor():
    model, _ = example(factor=0.25, learning_rate=1e-5)
    assert model.lr_decay() == pytest.approx(2.5e-6)
    assert model.lr_decay() == 1e-6


def test_evaluate_reads_batches():
    model, batch = example(rows=40)
    found = model.evaluate([batch])
    assert set(found) == {"AUC", "logloss"}
    assert model.get_group_id(batch).tolist() == list(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "fastest"}, "form='fastest'.*'fast'"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"interaction": "dnn"}, "interaction='dnn'"),
        ({"attention_activation": "gelu"}, "attention_activation must be one of .* got 'gelu'"),
        ({"activation": "dice"}, "activation must be one of prelu, relu, got 'dice'"),
        ({"net_dropout": 1.0}, "dropout rate .* got 1.0"),
        ({"num_row": 0}, "num_row must be at least 1"),
        ({"learning_rate": "1e-3"}, "learning_rate is the text '1e-3'"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
        ({"embedding_regularizer": "1e-4"}, "embedding_regularizer='1e-4'"),
        ({"net_regularizer": True}, "net_regularizer=True"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        QIN(feature_map(), **options)


def test_a_batch_needs_a_table_and_its_columns():
    features = feature_map()
    batch = random_batch(features, np.random.default_rng(0), rows=3)
    model = QIN(features, embedding_dim=2, verbose=0)
    with pytest.raises(InputError, match="attach"):
        model(batch)
    table = item_table(features, np.random.default_rng(0))
    with pytest.raises(InputError, match="lacks 'item_tags'"):
        model.attach(type(table)({name: v for name, v in table.features.items() if name != "item_tags"}))
    model.attach(table)
    with pytest.raises(InputError, match="lacks the feature 'likes_level'"):
        model(replace(batch, features={"label": batch.features["label"]}))
