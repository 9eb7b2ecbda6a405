"""Weights of samples: 2 is the sample twice, 0 its absence, equal ones are none; for QIN and for models of the zoo."""

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.runner import run_experiment
from fuxictr_multimodal.training.sample_weights import SampleWeights
from fuxictr_multimodal.training.trainer import Trainer
from tests.helpers.two_builds import build_shop, samples, write_config

QIN = {"model": "QIN", "num_layers": 2, "net_dropout": 0, "batch_norm": False, "embedding_regularizer": 0}
MODELS = {
    "QIN": QIN,
    "reference": {**QIN, "form": "plain"},
    "first_order": {**QIN, "first_order": ["user"], "first_order_loss": "own"},
    "mse": {**QIN, "loss": "mse_loss"},
    # Dice, its usual activation, normalises over the batch.
    "DIN": {"model": "DIN", "dnn_hidden_units": [8], "attention_hidden_activations": "ReLU"},
    "SIM": {"model": "SIM", "dnn_hidden_units": [8], "short_seq_len": 3},
}


ONE_BATCH = {"batch_size": 200, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Datasets of one batch: weighted samples, the same ones repeated or left out as often, and equal weights."""
    folder = tmp_path_factory.mktemp("shop")
    train = samples(users=range(20), items=range(1, 20), rows=64, seed=1)
    valid = samples(users=range(20), items=range(1, 20), rows=100, seed=2)
    weight = np.random.default_rng(0).integers(0, 4, 64)
    datasets = {
        "weighted": train.with_columns(weight=pl.Series(weight / 2)),
        "repeated": train[np.repeat(np.arange(64), weight)],
        "ones": train.with_columns(weight=pl.lit(1.0)),
        "plain": train,
    }
    for name, rows in datasets.items():
        build_shop(folder / "data", name, {"train": rows, "valid": valid}, None, fitted_on=train)
    config = write_config(folder / "config", folder / "data", tuple(datasets), models=MODELS, **ONE_BATCH)
    return config, folder / "runs"


def losses(shop, experiment, *overrides):
    config, runs = shop
    report, _ = run_experiment(config_dir=config, expid=experiment, overrides=[f"model_root={runs}", *overrides])
    return [row["train_loss"] for row in report.curve] + [report.metrics["valid"]["logloss"]]


@pytest.fixture
def step(shop):
    """Loss and gradients of one batch of the plain dataset, some rows of it, with weights."""

    def run(name, rows, weight):
        config, runs = shop
        experiment = Experiment.load(
            config, f"{name}_plain", overrides=[f"model_root={runs}"], name="step", reading=False
        )
        torch.manual_seed(1)
        feature_map = experiment.feature_map()
        model, to_inputs = experiment.build_model(feature_map)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        (batch,) = experiment.split_loader("train", feature_map, "cpu")
        inputs = to_inputs(batch.take(torch.as_tensor(rows)))
        own = model.loss_fn
        weights = SampleWeights(model)
        weights.set(None if weight is None else torch.as_tensor(weight, dtype=torch.float32))
        model.train()
        loss = model.compute_loss(model.forward(inputs), model.get_labels(inputs))
        loss.backward()
        weights.remove()
        assert model.loss_fn is own
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    return run


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_is_how_often_the_sample_is_there(step, name):
    rows, times = np.arange(30), np.random.default_rng(3).integers(0, 4, 30)
    loss, gradients = step(name, rows, times * 0.7)
    expected, theirs = step(name, np.repeat(rows, times), None)
    plain, _ = step(name, rows, None)
    assert abs(loss - plain) > 1e-3
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == theirs.keys()
    for weight, value in gradients.items():
        torch.testing.assert_close(
            value, theirs[weight], rtol=1e-4, atol=1e-6, msg=lambda text, w=weight: f"{w}: {text}"
        )


@pytest.mark.parametrize("name", MODELS)
def test_equal_weights_are_none(step, name):
    rows = np.arange(27)  # no power of two, so that orders of division differ
    loss, gradients = step(name, rows, np.ones(27))
    expected, theirs = step(name, rows, None)
    exact = {"rtol": 1e-6, "atol": 1e-8} if name == "mse" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(loss, expected, **exact)
    for weight, value in gradients.items():
        torch.testing.assert_close(value, theirs[weight], **exact)


def test_all_weights_0_have_the_loss_0(step):
    loss, gradients = step("QIN", np.arange(4), np.zeros(4))
    assert loss == 0
    assert all((value == 0).all() for value in gradients.values())


@pytest.mark.parametrize("name", ["QIN", "DIN"])
def test_a_training_with_weights_is_one_of_repeated_samples(shop, name):
    weighted, repeated, plain = (losses(shop, f"{name}_{dataset}") for dataset in ("weighted", "repeated", "plain"))
    assert weighted == pytest.approx(repeated, rel=1e-5)
    assert weighted != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("options", [[], ["accumulation_steps=2", "batch_size=10"], ["net_dropout=0.1"]])
def test_a_training_with_equal_weights_has_the_trace_without(shop, options):
    assert losses(shop, "QIN_ones", *options) == losses(shop, "QIN_plain", *options)


def test_weights_are_averaged_within_each_batch_of_an_accumulation(shop):
    """By hand: two batches of a window, each with its own weighted mean, and one step."""
    config, runs = shop
    experiment = Experiment.load(
        config,
        "QIN_weighted",
        overrides=[f"model_root={runs}", "accumulation_steps=2", "batch_size=32"],
        name="accumulated",
        reading=False,
    )
    feature_map = experiment.feature_map()
    model, to_inputs = experiment.build_model(feature_map)
    batches = list(experiment.split_loader("train", feature_map, "cpu"))
    model._steps_per_epoch = len(batches)
    weights, total = SampleWeights(model), 0.0
    for batch in batches:
        y, p = batch.features["label"], model.forward(to_inputs(batch))["y_pred"].view(-1)
        each = F.binary_cross_entropy(p, y, reduction="none")
        total = total + (batch.weight * each).sum() / batch.weight.sum() / len(batches)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    model._max_gradient_norm = 1e9
    found = []
    model.optimizer.register_step_pre_hook(lambda *_: found.extend(p.grad for p in parameters))
    for index, batch in enumerate(batches):
        model._batch_index = index
        weights.set(batch.weight)
        model.train_step(to_inputs(batch))
    assert len(batches) == 2
    for gradient, own in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if own is None else own, rtol=1e-4, atol=1e-7)


def test_a_loss_of_other_rows_and_every_reduction():
    model = torch.nn.Linear(1, 1)
    model.loss_fn = [F.binary_cross_entropy, F.l1_loss]
    own = list(model.loss_fn)
    weights = SampleWeights(model)
    weights.set(None)
    assert model.loss_fn == own
    weights.set(torch.tensor([1.0, 3.0]))
    p, y = torch.tensor([[0.2], [0.4]]), torch.tensor([[0.0], [1.0]])
    for loss, plain in zip(model.loss_fn, own, strict=True):
        each = plain(p, y, reduction="none").view(-1) * torch.tensor([0.5, 1.5])
        torch.testing.assert_close(loss(p, y, reduction="none").view(-1), each)
        torch.testing.assert_close(loss(p, y, reduction="sum"), each.sum())
        torch.testing.assert_close(loss(p, y), each.mean())
        torch.testing.assert_close(loss(p[:1], y[:1]), plain(p[:1], y[:1]))  # one row, such as of an auxiliary loss
    weights.set(None)
    assert model.loss_fn[0](p, y) == own[0](p, y)
    weights.remove()
    assert model.loss_fn == own


def test_a_training_with_weights_is_resumed_within_an_epoch(shop, monkeypatch):
    """The loss that has weights is made at the first batch, of a resumed epoch too."""
    settings = ("epochs=1", "batch_size=8", "save_steps=3")
    whole = losses(shop, "QIN_weighted", "epochs=1", "batch_size=8")
    step = Trainer._train_step
    monkeypatch.setattr(
        Trainer, "_train_step", lambda self, inputs: step(self, inputs) if self.progress.step != 5 else 1 / 0
    )
    config, runs = shop
    options = {
        "config_dir": config, "expid": "QIN_weighted", "overrides": [f"model_root={runs}", *settings], "name": "killed"
    }  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        run_experiment(**options)
    monkeypatch.setattr(Trainer, "_train_step", step)
    report, _ = run_experiment(**options, resume=True)
    assert [row["train_loss"] for row in report.curve] + [report.metrics["valid"]["logloss"]] == whole
