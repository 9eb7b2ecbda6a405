"""Graphs around models' own forward passes: scores of the model, in torch and in ONNX Runtime, for any sizes."""

from pathlib import Path

import pytest
import torch
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_multimodal.serving.graphs import write_graph
from fuxictr_multimodal.serving.servables import servable_of
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo.models import longctr_models
from tests.helpers.servable_requests import (
    check_scores,
    stirred,
)

CONFIG = Path(__file__).resolve().parents[2] / "config"
SIZES = [(1, 1, 5), (3, 7, 9), (3, 1, 1), (1, 7, 64)]


@pytest.fixture
def trained(data_root):
    """A model of an expid on the small dataset: its servable, its feature map and its own way to score."""

    def load(expid, *overrides):
        settings = [f"data_root={data_root}", "verbose=0", "dataset_id=Synthetic_test", "embedding_dim=8", *overrides]
        experiment = Experiment.load(CONFIG, expid, overrides=settings)
        feature_map = experiment.feature_map()
        seed_everything(1)
        model, to_inputs = experiment.build_model(feature_map)
        servable = servable_of(experiment, stirred(model), feature_map)
        return servable, feature_map, model, to_inputs

    return load


# What keeps fewer slots than there are by hashes breaks ties, and DIEN is one graph a slot.
OVERRIDES = {"ETA": ["topk=64"], "MIRRN": ["topk=64"], "DIEN": ["max_len=12"]}


@pytest.mark.parametrize("name", ["DIN", "TransAct", "MIRRN"])
def test_longctr_models_are_traced_for_the_compiler_of_torch(trained, tmp_path, monkeypatch, name):
    servable, *_ = trained(f"{name}_demo", *OVERRIDES.get(name, []))
    programs = []
    monkeypatch.setattr(
        torch._inductor, "aoti_compile_and_package", lambda program, **_: programs.append(program) or "compiled"
    )
    write_graph("torch", servable.graph, servable.inputs, ["scores"], tmp_path / "model.pt2", model=name)
    assert len(programs) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", [*longctr_models(), "MUSE"])
def test_longctr_models_score_alike_in_onnx_runtime(trained, tmp_path, name):
    servable, feature_map, model, to_inputs = trained(f"{name}_demo", *OVERRIDES.get(name, []))
    path = tmp_path / "model.onnx"
    check_scores(servable, feature_map, model, to_inputs, path, sizes=SIZES, traced_slots=5, onnx_atol=2e-6)
