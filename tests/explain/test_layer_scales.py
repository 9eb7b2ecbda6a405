"""Scales of activations and gradients: against numbers by hand, on QIN's own layers, and at the commands."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from fuxictr_multimodal.cli.explain import run_explain_main
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.explain.layer_scales import LayerScale, Scales, experiment_scales, layer_scales
from fuxictr_multimodal.explain.view import scales_table
from fuxictr_multimodal.training.checkpoint import save_checkpoint
from fuxictr_multimodal.training.experiment import Experiment


def rms(*tensors: torch.Tensor) -> float:
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    return float(flat.square().mean().sqrt())


class Tiny(nn.Module):
    """y = v . relu(W e(x)), with a squared loss, a penalty, and a layer that takes no part in it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 3, padding_idx=0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Identity())
        self.head = nn.Linear(4, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y_pred": self.head(self.body(self.table(inputs["x"]).sum(dim=1)))}

    def get_labels(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["y"]

    def compute_loss(self, found: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        return (found["y_pred"] - y).square().mean() + 0.5 * self.head.weight.square().sum()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = Tiny()
    batches = [
        {"x": torch.tensor([[1, 0], [2, 3], [0, 0], [5, 5]])[:rows], "y": torch.arange(rows).float()[:, None]}
        for rows in (4, 3)
    ]
    return model, batches


def test_against_autograd_by_hand(tiny):
    model, batches = tiny
    outputs = {name: [] for name in ("table", "body.0", "body.1", "head")}
    gradients = {name: [] for name in outputs}
    weight_gradients = {name: [] for name in ("table", "body.0", "head")}
    losses = []
    for batch in batches:
        e = model.table(batch["x"])
        a = e.sum(dim=1) @ model.body[0].weight.T + model.body[0].bias
        h = a.clamp(min=0)
        y = h @ model.head.weight.T + model.head.bias
        loss = model.compute_loss({"y_pred": y}, batch["y"])
        losses.append(float(loss.detach()))
        by_output = torch.autograd.grad(loss, (e, a, h, y), retain_graph=True)
        real = batch["x"] != 0
        for name, value, gradient in zip(outputs, (e, a, h, y), by_output, strict=True):
            outputs[name].append(value[real] if name == "table" else value)
            gradients[name].append(gradient[real] if name == "table" else gradient)
        for name, module in (("table", model.table), ("body.0", model.body[0]), ("head", model.head)):
            found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
            weight_gradients[name].append(torch.cat([one.flatten() for one in found]))
    scales = layer_scales(model, lambda batch: batch, batches, seed=0)
    assert (scales.batches, scales.loss) == (2, pytest.approx(sum(losses) / 2))
    assert [layer.name for layer in scales.layers] == ["table", "body.0", "body.1", "head"]
    for layer in scales.layers:
        flat = torch.cat([value.flatten() for value in outputs[layer.name]])
        assert layer.output == pytest.approx(rms(flat))
        assert layer.zeros == float((flat == 0).double().mean())
        assert layer.output_gradient == pytest.approx(rms(*gradients[layer.name]))
        if layer.name == "body.1":
            assert (layer.kind, layer.weights, layer.weight_gradient, layer.ratio) == ("ReLU", None, None, None)
            assert 0 < layer.zeros < 1
        else:
            weights = rms(*model.get_submodule(layer.name).parameters())
            gradient = rms(*weight_gradients[layer.name])
            assert layer.weights == pytest.approx(weights)
            assert layer.weight_gradient == pytest.approx(gradient)
            assert layer.ratio == pytest.approx(gradient / weights)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_dropout_is_drawn_by_the_seed(tiny):
    model, batches = tiny
    model.body[2] = nn.Dropout(0.5)
    first, again, other = (layer_scales(model, lambda batch: batch, batches, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert model.training


def test_sparse_gradients_count_all_rows(tiny):
    model, batches = tiny
    dense = layer_scales(model, lambda batch: batch, batches, seed=0).layers[0]
    model.table.sparse = True
    sparse = layer_scales(model, lambda batch: batch, batches, seed=0).layers[0]
    assert sparse.weight_gradient == pytest.approx(dense.weight_gradient)


def test_a_prediction_that_is_not_a_number_still_shows_where(tiny):
    model, batches = tiny
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    scales = layer_scales(model, lambda batch: batch, batches, seed=0)
    assert (scales.batches, scales.loss) == (1, None)
    table, *_, head = scales.layers
    assert math.isfinite(table.output)
    assert math.isnan(head.output)
    assert {layer.output_gradient for layer in scales.layers} == {None}
    assert head.as_dict()["output"] == "nan"
    json.dumps([layer.as_dict() for layer in scales.layers], allow_nan=False)


@pytest.fixture(scope="module")
def arguments(repository, data_root, tmp_path_factory):
    """QIN_test in a model root of its own, without a checkpoint."""
    root = tmp_path_factory.mktemp("scales")
    settings = [f"data_root={data_root}", f"model_root={root}", "verbose=0"]
    return {"config_dir": repository / "config", "expid": "QIN_test", "overrides": settings}


def test_every_layer_of_qin_is_seen(arguments):
    """The optimized implementation would hide its quadratic layers and its attention."""
    settings = [*arguments["overrides"], "form=fast", "activation=relu"]
    scales = experiment_scales(Experiment.load(**{**arguments, "overrides": settings}), batches=2, fresh=True)
    layers = {layer.name: layer for layer in scales.layers}
    tables = "embedding_layer.embedding_layer"
    assert {
        *(f"{tables}.embedding_layers.{name}" for name in ("likes_level", "views_level", "item_id", "item_tags")),
        f"{tables}.feature_encoders.item_emb_d128",
        "embedding_layer", "attention_layers", "qnn", "qnn.fc",
        *(f"attention_layers.W_{name}" for name in "qkvo"),
        *(f"qnn.{part}.{n}" for part in ("layer", "norm", "activation") for n in (0, 1)),
        *(f"qnn.layer.{n}.linear.0" for n in (0, 1)),
    } <= set(layers)  # fmt: skip
    assert all(layer.output_gradient > 0 for layer in layers.values())
    # What FuxiCTR initialises with, seen without the padding of histories.
    assert layers[f"{tables}.embedding_layers.item_id"].output == pytest.approx(1e-4, rel=0.2)
    projected = ("attention_layers.W_k", "attention_layers.W_v", f"{tables}.feature_encoders.item_emb_d128")
    for name in (f"{tables}.embedding_layers.item_id", "embedding_layer", *projected):
        assert layers[name].zeros < 0.01
    assert layers["qnn.activation.0"].zeros == pytest.approx(0.5, abs=0.1)
    assert layers["qnn.norm.1"].weight_gradient > 0
    assert scales.fresh


def test_fresh_weights_are_those_of_the_start_of_training(arguments, tmp_path):
    """Trained weights that were saved as they start give the same numbers."""
    settings = [*arguments["overrides"], f"model_root={tmp_path}"]
    experiment = Experiment.load(**{**arguments, "overrides": settings})
    with pytest.raises(DataError, match=r"does not exist: train it first .*, or add --fresh for the initial weights"):
        experiment_scales(experiment)
    torch.manual_seed(experiment.params["seed"])
    save_checkpoint(experiment.build_model(experiment.feature_map())[0])
    trained, fresh = (experiment_scales(experiment, batches=2, fresh=fresh) for fresh in (False, True))
    assert [layer.weights for layer in trained.layers] == [layer.weights for layer in fresh.layers]
    assert trained.layers == fresh.layers
    assert (trained.fresh, fresh.fresh) == (False, True)
    with pytest.raises(ConfigError, match="--batches 0 must be at least 1"):
        experiment_scales(experiment, batches=0)


def test_fewer_batches_than_asked_for(arguments):
    settings = [*arguments["overrides"], "batch_size=3000"]
    assert experiment_scales(Experiment.load(**{**arguments, "overrides": settings}), fresh=True).batches == 2


def test_view():
    layers = [
        LayerScale("body.0", "Linear", 0.5, 0.25, 0.002, 0.1, 0.02),
        LayerScale("body.1", "ReLU", 0.4, 0.5, None, None, None),
        LayerScale("zero", "Dice", 0.4, 0.0, 0.1, 0.0, 0.3),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(scales_table(Scales(True, 4, 0.7, layers)))
    console.print(scales_table(Scales(False, 1, None, layers)))
    text = console.export_text()
    assert "weights as initialised, 4 batches of train, mean loss 0.7000" in text
    assert "trained weights, 1 batches of train, a prediction is not a number" in text
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert lines[:3] == [
        ["body.0", "0.5", "25.0%", "0.002", "0.1", "0.02", "0.2"],
        ["body.1", "0.4", "50.0%", "", "", "", ""],
        ["zero", "0.4", "0.0%", "0.1", "0", "0.3", ""],
    ]


def test_the_command(arguments, tmp_path, capsys):
    base = ["--config", str(arguments["config_dir"]), "--expid", "QIN_test"]
    for text in [*arguments["overrides"], "batch_size=128"]:
        base += ["--set", text]
    run_explain_main([*base, "--scales", "--fresh", "--batches", "1"])
    text = capsys.readouterr().out
    assert "weights as initialised" in text
    assert "{" not in text
    run_explain_main([*base, "--scales", "--fresh", "--batches", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["fresh"], found["batches"]) == (True, 1)
    assert {"qnn.layer.0", "attention_layers"} <= {layer["name"] for layer in found["layers"]}
    run_explain_main([*base, "--scales", "--fresh", "--batches", "1", "--json", str(tmp_path / "scales.json")])
    assert json.loads((tmp_path / "scales.json").read_text()) == found
    for wrong, message in (
        (["--scales"], "add --fresh"),
        (["--scales", "--fresh", "--batches", "0"], "--batches 0"),
        (["--scales", "--fresh", "--out", "scales.png"], "--scales cannot be drawn with --out"),
        (["--fresh"], "--fresh needs --scales"),
    ):
        with pytest.raises(SystemExit) as left:
            run_explain_main([*base, *wrong])
        assert left.value.code == 2
        assert message in capsys.readouterr().err
