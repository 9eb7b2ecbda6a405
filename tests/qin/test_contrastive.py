"""The contrastive loss of QIN: a loop over rows, both forms and layouts, training only, what it teaches."""

import copy

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.contrastive import history_contrast
from tests.helpers.reference_qin import feature_map, item_table, random_batch, small_qin


def example(**options):
    model = small_qin(**{"contrastive_loss": 0.3, **options})
    return model, random_batch(model.feature_map, np.random.default_rng(3), rows=40)


def by_loops(targets: np.ndarray, means: np.ndarray, labels: np.ndarray) -> float:
    chosen = [b for b in range(len(labels)) if labels[b] == 1 and means[b].any()]
    total = 0.0
    for i in chosen:
        cosines = [means[i] @ targets[j] / np.linalg.norm(means[i]) / np.linalg.norm(targets[j]) for j in chosen]
        own = cosines[chosen.index(i)]
        total += -np.log(np.exp(own / 0.1) / sum(np.exp(cosine / 0.1) for cosine in cosines))
    return total / len(chosen)


def test_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    targets, means = rng.standard_normal((2, 9, 5))
    labels = rng.integers(0, 2, 9)
    labels[:2] = 1
    means[0] = 0  # an empty history
    found = history_contrast(torch.from_numpy(targets), torch.from_numpy(means), torch.from_numpy(labels).double())
    assert found.item() == pytest.approx(by_loops(targets, means, labels))


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.tensor([1.0, 0.0, 0.0])])
def test_without_positive_rows_that_have_a_history_it_is_0(labels):
    targets, means = torch.randn(2, 3, 4).requires_grad_()
    means = means * torch.tensor([[0.0], [1.0], [1.0]])
    loss = history_contrast(targets, means, labels) + 0 * targets.sum()
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("options", [{}, {"first_order": ["likes_level"], "first_order_loss": "own"}])
def test_it_is_added_by_its_weight(options):
    model, batch = example(**options)
    labels = model.get_labels(batch)
    result = model(batch)
    targets, means = (part.detach().numpy() for part in result["contrasted"])
    expected = by_loops(targets, means, labels.view(-1).numpy())
    with_it = model.add_loss(result, labels)
    without = model.add_loss({name: value for name, value in result.items() if name != "contrasted"}, labels)
    assert (with_it - without).item() == pytest.approx(0.3 * expected)


@pytest.mark.parametrize("options", [{}, {"net_dropout": 0.1}, {"pooling": "mean"}])
def test_fast_equals_plain_and_a_triple_equals_a_batch(options):
    model, batch = example(**options)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    triple = copy.deepcopy(model)
    found = []
    for one, inputs in ((model, batch), (plain, batch), (triple, as_longctr(batch, model.item_table))):
        torch.manual_seed(0)
        loss = one.compute_loss(one(inputs), one.get_labels(batch))
        loss.backward()
        found.append({"loss": loss, **{n: p.grad for n, p in one.named_parameters() if p.grad is not None}})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for name in other:
            torch.testing.assert_close(found[0][name], other[name], rtol=1e-6, atol=1e-7, msg=name)


def test_scoring_knows_nothing_of_it():
    model, batch = example()
    assert "contrasted" in model(batch)
    other = small_qin()
    other.load_state_dict(model.state_dict())
    other.attach(model.item_table)
    found, expected = model.eval()(batch), other.eval()(batch)
    assert found.keys() == expected.keys()
    assert torch.equal(found["logit"], expected["logit"])
    assert "contrasted" not in other.train()(batch)


def test_items_of_one_taste_come_to_lie_together():
    """Users like items of one half only, labels say nothing else: the halves part, and did not before."""
    features = feature_map(items=41)
    rng = np.random.default_rng(0)
    half = rng.integers(0, 2, 400)

    def draw(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(1 + 20 * rows + rng.integers(0, 20, len(rows)))

    batch = random_batch(features, rng, rows=400)
    batch = Batch(
        {**batch.features, "label": torch.ones(400, dtype=torch.uint8)},
        draw(half),
        Jagged(draw(np.repeat(half, 5)), torch.arange(0, 2001, 5)),
    )
    apart = {}
    for weight in (0.0, 1.0):
        model = small_qin(features, contrastive_loss=weight, learning_rate=0.02, embedding_regularizer=0)
        model.attach(item_table(features, np.random.default_rng(1)))
        for _ in range(60):
            model.train_step(batch)
        ids = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight.detach()[1:]
        ids = torch.nn.functional.normalize(ids - ids.mean(0), dim=-1)
        cosines = ids @ ids.T
        apart[weight] = (cosines[:20, :20].mean() + cosines[20:, 20:].mean() - 2 * cosines[:20, 20:].mean()).item() / 2
    assert abs(apart[0.0]) < 0.2
    assert apart[1.0] > 0.8


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="contrastive_loss must be 0 .none. or a weight above it, got -0.1"):
        small_qin(contrastive_loss=-0.1)
