"""Precision by configuration: float32 is the default bit for bit, bf16 is near it, TF32 is switched on and put back."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system import reduced_precision
from model_zoo.QIN import QIN
from model_zoo.QIN.precision import Precision, product_type
from model_zoo.QIN.quadratic import QuadraticNetwork
from tests.helpers.reference_qin import feature_map, item_table, random_batch

# The tolerance of bf16: rounding a factor to 8 bits moves it by 2**-9 at most, and most errors cancel in a logit. What
# is near 0 may change its sign, and with it the derivative of a ReLU: gradients are further off.
NEAR_LOGIT, NEAR_GRADIENT = 0.01, 0.15


def model(**options) -> QIN:
    torch.manual_seed(0)
    features = feature_map(items=40, given={"item_emb_d128": 16})
    made = QIN(features, **{"embedding_dim": 16, "num_layers": 2, "verbose": 0, **options})
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "embedding_layers" in name:
                parameter[1:] = torch.randn_like(parameter[1:])
    made.attach(item_table(features, np.random.default_rng(0)))
    return made


def batches(count: int, *, rows: int = 200):
    features = feature_map(items=40)
    return [random_batch(features, np.random.default_rng(seed), rows=rows) for seed in range(count)]


def trained(steps: int = 4, **options) -> dict[str, torch.Tensor]:
    """The losses of a few steps, the scores after them, and all weights."""
    found = model(**options).train()
    torch.manual_seed(1)
    given = batches(steps)
    losses = torch.stack([found.train_step(batch) for batch in given])
    found.eval()
    with torch.no_grad():
        scores = found(given[0])["y_pred"]
    return {"losses": losses, "scores": scores, **dict(found.named_parameters())}


def gradients(found: QIN, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    found.zero_grad()
    logit = found(batch)["logit"]
    found.compute_loss({"y_pred": logit.sigmoid()}, found.get_labels(batch)).backward()
    return {"logit": logit.detach(), **{name: p.grad.clone() for name, p in found.named_parameters()}}


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Relative error of each tensor; a gradient of nearly 0 may be off by a hundredth of others."""
    least = max(expected.norm() for name, expected in other.items() if name != "logit") / 100
    for name, expected in other.items():
        assert one[name].dtype == expected.dtype == torch.float32, name
        error = (one[name] - expected).norm() / expected.norm().clamp(min=least)
        assert error < (NEAR_LOGIT if name == "logit" else NEAR_GRADIENT), f"{name}: {error:.3f}"


@pytest.mark.parametrize("form", ["fast", "plain"])
def test_float32_is_the_default_bit_for_bit(form):
    default, explicit = trained(form=form), trained(form=form, precision="float32")
    assert all(torch.equal(default[name], explicit[name]) for name in default)
    assert all(value.dtype == torch.float32 for value in default.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net_dropout": 0.0},
        {"batch_norm": False},
        {"activation": "relu", "attention_activation": "softmax"},
        {"form": "plain"},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "published",
)
def test_bf16_is_near_float32_in_values_and_gradients(options):
    batch = batches(1)[0]
    exact, rounded = (gradients(model(precision=name, **options), batch) for name in ("float32", "bf16"))
    assert not torch.equal(rounded["logit"], exact["logit"])
    assert_near(rounded, exact)


def test_bf16_scores_near_float32_and_keeps_no_weights_of_the_other():
    batch = batches(1)[0]
    found = model().eval()
    scores = {}
    with torch.no_grad():
        for name in ("float32", "bf16", "float32"):
            found.precision = Precision(name, found.device)
            before, scores[name] = scores.get(name), found(batch)["logit"]
            assert before is None or torch.equal(before, scores[name])
    assert not torch.equal(scores["bf16"], scores["float32"])
    assert (scores["bf16"] - scores["float32"]).norm() < NEAR_LOGIT * scores["float32"].norm()
    # Logits of 8 bits would tie rows that the ranking must tell apart.
    assert len(scores["bf16"].unique()) == len(scores["float32"].unique())


def test_bf16_trains_like_float32():
    exact, rounded = trained(12), trained(12, precision="bf16")
    assert all(value.dtype == torch.float32 for value in rounded.values())
    torch.testing.assert_close(rounded["losses"], exact["losses"], rtol=0.02, atol=0)
    assert (rounded["scores"] - exact["scores"]).abs().mean() < 0.02


@pytest.mark.parametrize(("speedup", "used"), [(0.1, "float32"), (1.6, "bf16")])
def test_auto_is_the_faster_of_the_two(monkeypatch, caplog, speedup, used):
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: speedup)
    caplog.set_level(logging.INFO)
    batch = batches(1)[0]
    chosen = model(precision="auto")
    assert (chosen.precision.choice.asked, chosen.precision.name) == ("auto", used)
    assert f"precision: {used} was chosen" in caplog.text
    found, expected = (gradients(one, batch) for one in (chosen, model(precision=used)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    chosen.precision.keep("float32")
    found, expected = (gradients(one, batch) for one in (chosen, model()))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_bf16_by_name_on_a_slow_processor_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: 0.1)
    assert model(precision="bf16").precision.name == "bf16"
    assert "precision: bf16 is configured, but" in caplog.text


def test_the_mlp_of_the_ablation_stays_exact():
    """Its logits come out of its last product, so they would have the precision of one."""
    options = {"interaction": "mlp", "pooling": "mean", "mlp_hidden_units": [8]}
    batch = batches(1)[0]
    exact, rounded = (gradients(model(precision=name, **options), batch) for name in ("float32", "bf16"))
    assert all(torch.equal(exact[name], rounded[name]) for name in exact)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_backward_pass_of_a_layer_is_the_same_inside_autocast(dropout):
    found = []
    for inside in (True, False):
        torch.manual_seed(0)
        network = QuadraticNetwork(8, num_layers=1, dropout=dropout)
        layer = network.layer[0], network.norm[0], network.activation[0]
        x = torch.randn(20, 8, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network._optimized(x, *layer).square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        parameters = (p for module in layer for p in module.parameters())
        found.append([loss.detach(), x.grad, *(p.grad for p in parameters)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float32


def test_autocast_leaves_double_precision_alone():
    x = torch.ones(2, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_type(x) == torch.float64
        assert product_type(x.float()) == torch.bfloat16
    assert product_type(x.float()) == torch.float32


def switches() -> list:
    matmul = torch.backends.cuda.matmul
    return [matmul.allow_tf32, torch.get_float32_matmul_precision(), getattr(matmul, "fp32_precision", None)]


def test_tf32_on_a_cpu_says_so_and_changes_nothing(caplog):
    before = switches()
    with caplog.at_level(logging.WARNING):
        rounded = trained(2, precision="tf32")
    assert "precision: tf32 is for NVIDIA GPUs" in caplog.text
    exact = trained(2)
    assert all(torch.equal(exact[name], rounded[name]) for name in exact)
    assert switches() == before


@pytest.mark.parametrize("already", [False, True])
def test_tf32_is_on_in_a_step_and_put_back(already):
    """The switch is PyTorch's for GPUs; it can be watched without one."""
    matmul = torch.backends.cuda.matmul
    started = switches()
    try:
        if already:
            torch.set_float32_matmul_precision("high")
        before = switches()
        found = model().train()
        found.precision = Precision("tf32", torch.device("cuda"))
        seen = []
        weight = found.qnn.layer[0].linear[0].weight
        found.qnn.fc.register_forward_hook(lambda *_: seen.append(("forward", matmul.allow_tf32)))
        weight.register_hook(lambda _: seen.append(("backward", matmul.allow_tf32)))
        found.train_step(batches(1)[0])
        assert seen == [("forward", True), ("backward", True)]
        assert switches() == before
        with pytest.raises(KeyError), found.precision.step():
            raise KeyError("a step that fails puts the switch back too")
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        if started[2] is not None:
            matmul.fp32_precision = started[2]
    assert switches() == started


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="precision='bfloat16'"):
        model(precision="bfloat16")
