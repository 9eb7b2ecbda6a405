"""Plain graphs of models that read columns: with items, with several histories and events, and without items."""

import os

import numpy as np
import pytest
import torch
import yaml
from fuxictr.pytorch.layers import FeatureEmbedding, FeatureEmbeddingDict
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import nn

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.serving.plain import plain_servable
from fuxictr_multimodal.serving.servables import servable_of
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo.models import ZooModel
from tests.helpers import rich_experiments, sequence_csv
from tests.helpers.servable_requests import (
    check_scores,
    draw_requests,
    graph_scores,
    model_scores,
    stirred,
)

CLONE = os.environ.get("FUXICTR_ZOO_ROOT")
IN_A_CLONE = pytest.mark.skipif(not CLONE, reason="FUXICTR_ZOO_ROOT names no clone")
SIZES = [(1, 1, 5), (3, 7, 3), (3, 2, 1), (2, 7, 5)]


class Averages(BaseModel):
    """Features, each averaged where it is a history, summed up."""

    def __init__(self, feature_map, **params):
        super().__init__(feature_map, **params)
        self.embedding_layer = FeatureEmbedding(feature_map, 4)
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs):
        embedded = self.embedding_layer(self.get_inputs(inputs))
        return {"y_pred": self.layer(torch.tanh(embedded.prod(dim=1) + embedded.sum(dim=1))).sigmoid()}


class Places(BaseModel):
    """Each slot of a history counts by its place."""

    def __init__(self, feature_map, din_target_field, din_sequence_field, **params):
        super().__init__(feature_map, **params)
        self.embedding_layer = FeatureEmbeddingDict(feature_map, 4)
        self.histories = [name for group in din_sequence_field for name in group]
        self.targets = [name for group in din_target_field for name in group]

    def forward(self, inputs):
        embedded = self.embedding_layer(self.get_inputs(inputs))
        total = embedded["city"].sum(dim=-1)
        for history, target in zip(self.histories, self.targets, strict=True):
            place = torch.arange(1, embedded[history].shape[1] + 1)
            total = total + ((embedded[history] * embedded[target].unsqueeze(1)).sum(dim=-1) * place).sum(dim=1)
        return {"y_pred": total.sigmoid().view(-1, 1)}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """An experiment on the datasets `rich` and `flat`."""
    config = rich_experiments.write(tmp_path_factory.mktemp("rich"))
    return lambda expid, *overrides: Experiment.load(config, expid, overrides=overrides)


def check(servable, feature_map, model, to_inputs, folder, *, sizes=SIZES):
    """Graph and ONNX Runtime give the scores of the model."""
    path = folder / "model.onnx"
    check_scores(servable, feature_map, model, to_inputs, path, sizes=sizes, traced_slots=4, onnx_atol=1e-6)


def built(experiment, model_class=None, **params):
    """A model with weights that count, its servable and what belongs to it."""
    feature_map = experiment.feature_map()
    seed_everything(2)
    if model_class is None:
        model, to_inputs = experiment.build_model(feature_map)
        return servable_of(experiment, stirred(model), feature_map), feature_map, model, to_inputs
    zoo_model = ZooModel(model_class, "flat")
    table = experiment.item_table(feature_map, "cpu")
    params = {"verbose": 0, "model_root": "checkpoints", "metrics": ["AUC"], "max_len": experiment.max_len, **params}
    model, to_inputs = zoo_model.build(feature_map, lambda device: table, params)
    servable = plain_servable(stirred(model), zoo_model, feature_map, table, max_len=experiment.max_len)
    return servable, feature_map, model, to_inputs


def test_longctr_reads_the_target_s_events_and_one_kind_of_history(load, tmp_path):
    servable, *rest = built(load("DIN_rich", "event_features=all"))
    assert [given.name for given in servable.inputs] == [
        "context.city",
        "context.age",
        "context.page",
        "behaviours.history.mask",
        "behaviours.history.items.item_id",
        "behaviours.history.items.tags",
        "candidates.item_id",
        "candidates.tags",
    ]
    check(servable, *rest, tmp_path)


@pytest.mark.parametrize(("model_class", "slots"), [(Averages, None), (Places, 5)])
def test_flat_columns_have_every_history_and_its_events(load, tmp_path, model_class, slots):
    servable, *rest = built(load("DIN_rich", "event_features=[age]"), model_class)
    assert list(servable.behaviours) == ["history", "carts", "buys"]
    assert servable.fixed_slots == slots
    names = {given.name for given in servable.inputs}
    assert {"behaviours.carts.events.age", "behaviours.buys.items.item_id", "candidates.tags"} <= names
    check(servable, *rest, tmp_path)


def test_the_number_of_slots_is_fixed_where_scores_depend_on_it(load):
    """The test above cannot see this: the model itself always gets five slots."""
    scores = {}
    for model_class in (Averages, Places):
        servable, feature_map, *_ = built(load("DIN_rich"), model_class)
        drawn = draw_requests(servable, feature_map, requests=3, candidates=2, slots=5)
        drawn.inputs.update(
            {name: torch.nn.functional.pad(v, (4, 0)) for name, v in drawn.inputs.items() if name.startswith("behav")}
        )
        narrow = draw_requests(servable, feature_map, requests=3, candidates=2, slots=5)
        scores[model_class] = [graph_scores(servable, drawn), graph_scores(servable, narrow)]
    np.testing.assert_allclose(*scores[Averages], rtol=1e-5)
    assert np.abs(np.subtract(*scores[Places])).max() > 1e-3


@pytest.mark.parametrize(
    ("expid", "overrides"),
    [("QIN_flat", []), ("QIN_flat", ["first_order=[city,item]"]), ("DIN_flat", []), ("DIN_flat", ["model=DIEN"])],
)
def test_without_items_each_request_is_a_sample(load, tmp_path, expid, overrides):
    servable, *rest = built(load(expid, *overrides))
    assert not servable.items
    assert not servable.behaviours
    assert {given.name for given in servable.inputs} == {"context.city", "context.item", "context.items"}
    check(servable, *rest, tmp_path, sizes=[(1, 1, 1), (7, 1, 1)])


def test_flat_columns_without_items(tmp_path):
    """Numbers and histories are columns of the samples."""
    for seed, split in enumerate(("train", "valid", "test")):
        sequence_csv.frame_of(200, seed=seed).write_csv(tmp_path / f"{split}.csv")
    entry = sequence_csv.dataset_entry(tmp_path, "clicks_csv", tmp_path / "data")
    for column in entry["clicks_csv"]["feature_cols"]:
        if column["name"] == "hour":
            column |= {"type": "numeric", "dtype": "float"}
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump(entry))
    models = sequence_csv.experiments("clicks_csv", seeds=(1,), data_format="csv")
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    servable, *rest = built(Experiment.load(tmp_path, "QIN_s1"), Averages)
    assert {given.name: (given.dtype, given.dims) for given in servable.inputs} == {
        "context.user_id": ("int64", ("requests",)),
        "context.hour": ("float32", ("requests",)),
        "context.item_id": ("int64", ("requests",)),
        "context.brand": ("int64", ("requests",)),
        "context.clicks": ("int64", ("requests", 8)),
        "context.clicked_brands": ("int64", ("requests", 8)),
    }
    check(servable, *rest, tmp_path, sizes=[(1, 1, 1), (7, 1, 1)])


def test_the_model_is_left_as_it_was(load):
    for expid in ("DIN_rich", "QIN_flat"):
        experiment = load(expid)
        servable, feature_map, model, to_inputs = built(experiment)
        drawn = draw_requests(servable, feature_map, requests=2, candidates=3, slots=5)
        before = model_scores(model, to_inputs, drawn)
        parts = dict(model.named_modules())
        graph_scores(servable, drawn)
        assert dict(model.named_modules()) == parts
        np.testing.assert_array_equal(model_scores(model, to_inputs, drawn), before)
        shared = {id(parameter) for parameter in model.parameters()}
        assert {id(parameter) for parameter in servable.graph.parameters()} == shared


def test_random_hashes_have_no_graph(load):
    with pytest.raises(InputError, match="ETA draws new hashes at every score .* train it with reuse_hash: True"):
        built(load("DIN_rich", "model=ETA", "reuse_hash=False"))


def test_what_ties_are_broken_by_is_told(load):
    servable, *_ = built(load("DIN_rich", "model=ETA", "topk=3", "short_seq_len=4"))
    assert "ETA keeps 3 of 5 history slots" in servable.only_torch
    servable, *_ = built(load("DIN_rich", "model=ETA", "topk=5", "short_seq_len=4"))
    assert servable.only_torch == ""


@IN_A_CLONE
@pytest.mark.parametrize("name", ["DeepFM", "DIN", "DMR", "PNN", "FFMv2"])
def test_models_of_a_clone(load, tmp_path, name):
    servable, *rest = built(load("DIN_rich", f"model=clone/{name}", f"zoo_root={CLONE}"))
    check(servable, *rest, tmp_path)


@IN_A_CLONE
def test_models_of_a_clone_that_no_graph_gives(load):
    with pytest.raises(InputError, match="DIEN of a clone packs its histories"):
        built(load("DIN_rich", "model=clone/DIEN", f"zoo_root={CLONE}"))
    servable, *_ = built(load("DIN_rich", "model=clone/CCPM", f"zoo_root={CLONE}"))
    assert "CCPM keeps the largest of its values" in servable.only_torch


def test_an_export_to_onnx_says_that_ties_are_broken_otherwise(tmp_path, run_qin, data_root, repository):
    settings = ["dataset_id=Synthetic_test", "epochs=1", "topk=3"]
    run_qin(*settings, expid="ETA_demo", name="ties")
    overrides = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0", *settings]
    with pytest.raises(InputError, match=r"ETA keeps 3 of 64 history slots .* or pass --to torch"):
        export(
            config_dir=repository / "config", expid="ETA_demo", overrides=overrides, name="ties", out=tmp_path / "eta"
        )
    assert not (tmp_path / "eta").exists()
