"""First-order terms of QIN: values, an optimum known from elsewhere, the two losses, learning rate and penalty."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fuxictr_multimodal.data.batch import Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.first_order import FirstOrder
from model_zoo.QIN.row_items import RowItems
from tests.helpers.reference_qin import feature_map, random_batch, small_qin

TERMS = ["likes_level", "item_id", "item_tags", "likes_level*item_tags"]
SPECS = {
    "user": {"type": "categorical", "vocab_size": 8},
    "tags": {"type": "sequence", "vocab_size": 6},
    "level": {"type": "categorical", "vocab_size": 4},
    "vector": {"type": "embedding"},
}
NO_ITEMS = RowItems({}, torch.zeros(0).int(), Jagged(torch.zeros(0).int(), torch.zeros(1).long()))


def example(*, rows=40, **options):
    model = small_qin(**{"first_order": TERMS, **options})
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name.startswith("first_order."):
            torch.manual_seed(number)
            parameter.data.normal_()
            if parameter.dim() == 2:
                parameter.data[0] = 0  # padding
    return model, random_batch(model.feature_map, np.random.default_rng(3), rows=rows)


def weights_of_values(model, batch) -> np.ndarray:
    """The sum of the weights of each row's values, one row and one value after the other."""
    terms = model.first_order
    weight, bias = terms.weight.detach().numpy()[:, 0], terms.bias.item()
    table = {name: value.numpy() for name, value in model.item_table.features.items()}
    num_tags = model.feature_map.features["item_tags"]["vocab_size"]
    at = {term: rows.start - 1 for term, rows in terms.rows.items()}
    sums = []
    for row in range(len(batch)):
        item, level = int(batch.target[row]), int(batch.features["likes_level"][row])
        total = bias + (weight[at["likes_level"] + level] if level else 0)
        total += weight[at["item_id"] + table["item_id"][item]] if table["item_id"][item] else 0
        for tag in table["item_tags"][item]:
            if tag:
                total += weight[at["item_tags"] + tag]
                total += weight[at["likes_level*item_tags"] + level * num_tags + tag] if level else 0
        sums.append(total)
    return np.array(sums)


@pytest.mark.parametrize("layout", ["batch", "triple"])
@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize(("loss", "share"), [("joint", 0.5), ("own", 0.5), ("own", 0.75)])
def test_logit_is_the_networks_and_the_sum_of_the_weights(loss, share, form, layout):
    model, batch = example(first_order_loss=loss, first_order_share=share, form=form)
    inputs = batch if layout == "batch" else as_longctr(batch, model.item_table, max_len=9)
    model.eval()
    with torch.no_grad():
        logit = model(inputs)["logit"][:, 0].numpy()
        terms, model.first_order = model.first_order, None
        network = model(inputs)["logit"][:, 0].numpy()
    model.first_order = terms
    linear = weights_of_values(model, batch)
    expected = network + linear if loss == "joint" else (1 - share) * network + share * linear
    np.testing.assert_allclose(logit, expected, rtol=1e-10)


@pytest.mark.parametrize("loss", ["joint", "own"])
def test_fast_equals_plain_in_values_and_gradients(loss):
    model, batch = example(first_order_loss=loss, net_regularizer=0.02)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    found = []
    for one in (model, plain):
        total = one.compute_loss(one.forward(batch), one.get_labels(batch))
        total.backward()
        found.append({"loss": total.detach(), **{n: p.grad for n, p in one.named_parameters() if p.grad is not None}})
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("first_order.") for name in found[0])
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-9, atol=1e-9, msg=name)


def test_own_loss_is_the_sum_of_both_logits_losses():
    model, batch = example(first_order_loss="own", embedding_regularizer=0, first_order_regularizer=0)
    result = model.forward(batch)
    label = model.get_labels(batch).double()
    network = 2 * result["logit"][:, 0].detach().numpy() - weights_of_values(model, batch)
    expected = 0.0
    for logit in (network, weights_of_values(model, batch)):
        p = 1 / (1 + np.exp(-logit))
        y = label[:, 0].numpy()
        expected += -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))
    assert model.compute_loss(result, label).item() == pytest.approx(expected, rel=1e-9)


def test_the_network_learns_alike_whatever_the_weights_say_with_its_own_loss():
    model, batch = example(first_order_loss="own")
    other = copy.deepcopy(model)
    other.first_order.bias.data.add_(3)
    for one in (model, other):
        one.compute_loss(one.forward(batch), one.get_labels(batch)).backward()
    assert torch.equal(model.qnn.fc.weight.grad, other.qnn.fc.weight.grad)


def test_the_optimum_is_that_of_logistic_regression():
    """The same problem solved by scikit-learn, whose C is 1 / (rows x lambda)."""
    rng = np.random.default_rng(0)
    rows, penalty = 400, 0.01
    user, tags = rng.integers(1, 8, rows), rng.integers(0, 6, (rows, 2))
    tags[tags[:, 0] == tags[:, 1], 1] = 0  # a tag counts once, as in the indicator columns
    label = (rng.random(rows) < 1 / (1 + np.exp(1.5 - 0.4 * user))).astype(float)
    terms = FirstOrder(SPECS, ["user", "tags"], penalty).double()
    values = {"user": torch.from_numpy(user), "tags": torch.from_numpy(tags)}
    optimizer = torch.optim.LBFGS(terms.parameters(), max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logit = terms(values, NO_ITEMS)[:, 0]
        total = torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.from_numpy(label)) + terms.penalty()
        total.backward()
        return total

    optimizer.step(loss)
    indicators = np.zeros((rows, 14))
    indicators[np.arange(rows), user] = 1
    for column in range(2):
        present = tags[:, column] > 0
        indicators[np.flatnonzero(present), 8 + tags[present, column]] = 1
    expected = LogisticRegression(C=1 / (rows * penalty), tol=1e-10, max_iter=1000).fit(indicators, label)
    with torch.no_grad():
        np.testing.assert_allclose(terms(values, NO_ITEMS)[:, 0], expected.decision_function(indicators), atol=1e-4)


def test_own_learning_rate_and_penalty():
    regularizers = {"likes_level": 0.5, "item_id": 0.25, "item_tags": 0.0, "likes_level*item_tags": 1}
    model, _ = example(
        first_order_learning_rate=0.07,
        learning_rate=0.01,
        embedding_regularizer=0,
        net_regularizer=0,
        first_order_regularizer=regularizers,
    )
    rates = {id(p): group["lr"] for group in model.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (0.07 if name.startswith("first_order.") else 0.01)
    expected = sum(
        weight / 2 * (model.first_order.weight[model.first_order.rows[name]].detach() ** 2).sum().item()
        for name, weight in regularizers.items()
    )
    assert model.regularization_loss().item() == pytest.approx(expected)
    model.lr_decay()
    assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx([0.005, 0.035])


def test_weights_start_at_zero_and_padding_stays_there():
    model = small_qin(features=feature_map(), first_order=TERMS)
    batch = random_batch(model.feature_map, np.random.default_rng(3), rows=40)
    terms = model.first_order
    assert not terms.weight.any()
    model.train_step(batch)
    assert terms.weight[0].item() == 0
    for rows in terms.rows.values():
        assert terms.weight[rows].any()


def test_every_pair_of_values_has_a_weight_of_its_own():
    terms = FirstOrder(SPECS, ["user", "user*tags", "tags*user*level"])
    values = {"user": torch.arange(1, 8), "tags": torch.tensor([[2, 5]]).expand(7, 2), "level": torch.full((7,), 2)}
    for name, count in (("user*tags", 14), ("tags*user*level", 14), ("user", 7)):
        terms.zero_grad()
        terms(values, NO_ITEMS).sum().backward()
        read = terms.weight.grad[terms.rows[name]]
        assert read.sum() == (read > 0).sum() == count
    # A pair with padding, whichever side it is on, has none.
    for padded in ({"user": torch.zeros(7).long()}, {"tags": torch.zeros(7, 2).long()}):
        terms.zero_grad()
        terms({**values, **padded}, NO_ITEMS).sum().backward()
        assert not terms.weight.grad[terms.rows["user*tags"]].any()
        assert not terms.weight.grad[terms.rows["tags*user*level"]].any()


def test_scoring_takes_the_average_of_the_last_steps():
    model, batch = example(first_order_averaging=0.75)
    terms, seen = model.first_order, []
    for _ in range(6):
        model.train_step(batch)
        seen.append(terms.weight.detach().clone())
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=2):
        share = max(1 / step, 0.25)
        expected = (1 - share) * expected + share * weight
    torch.testing.assert_close(terms.averaged_weight, expected)
    items = RowItems.of_batch(batch, model.item_table)
    training = terms(batch.features, items)
    terms.eval()
    averaged = terms(batch.features, items)
    terms.weight.data.copy_(terms.averaged_weight)
    terms.bias.data.copy_(terms.averaged_bias)
    terms.train()
    torch.testing.assert_close(averaged, terms(batch.features, items))
    assert not torch.allclose(averaged, training)
    # A model that resumes from its state keeps the average.
    assert {"first_order.averaged_weight", "first_order.averaged_steps"} <= model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_order": ["like_level"]}, "unknown feature 'like_level'.*likes_level"),
        ({"first_order": ["item_emb_d128"]}, "of type embedding"),
        ({"first_order": ["item_id*item_tag"]}, "unknown feature 'item_tag'.*item_tags"),
        ({"first_order": ["item_id*item_id"]}, "crosses item_id with itself"),
        ({"first_order_averaging": 1}, "first_order_averaging must be from 0 to below 1"),
        ({"first_order_share": 1.5}, "first_order_share must be from 0 to 1"),
        ({"first_order_regularizer": {"item_id": 1e-5}}, "one for each of likes_level, item_id, item_tags, "),
        ({"first_order_regularizer": "1e-5"}, "must be a number"),
        ({"first_order_learning_rate": "3e-2"}, "first_order_learning_rate is the text"),
        ({"first_order_loss": "both"}, "first_order_loss='both'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        small_qin(**{"first_order": TERMS, **options})


def test_a_cross_of_too_many_values_is_refused():
    specs = {name: {"type": "categorical", "vocab_size": 20_000} for name in ("user", "item")}
    with pytest.raises(ConfigError, match=r"'user\*item' would have 400,000,000 weights"):
        FirstOrder(specs, ["user*item"])


def test_rows_of_values_are_those_that_the_logit_reads():
    terms = FirstOrder(SPECS, ["level", "user*level"]).double()
    terms.weight.data = torch.arange(len(terms.weight)).double()[:, None]
    users, levels = np.array([0, 6, 2]), np.array([3, 1])
    rows = terms.rows_of(
        {name: SPECS[name]["vocab_size"] for name in terms.vocabularies}, {"user": users, "level": levels}
    )
    read = [terms({"user": torch.tensor([0]), "level": torch.tensor([level])}, NO_ITEMS).item() for level in levels]
    for user in users[users > 0]:
        for level, own in zip(levels, read[:2], strict=True):
            both = terms({"user": torch.tensor([user]), "level": torch.tensor([level])}, NO_ITEMS).item()
            read.append(both - own)
    assert rows.tolist() == read
    assert terms.row_weights == ("weight",)
    assert FirstOrder(SPECS, ["level"], averaging=0.5).row_weights == ("weight", "averaged_weight")
