"""Names of models are resolved in three places in order, and each layout is bound to what its models need."""

import inspect
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fuxictr.pytorch.layers import FeatureEmbedding, LogisticRegression
from fuxictr.pytorch.models import BaseModel
from torch import nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo import models as zoo
from fuxictr_multimodal.zoo.layouts import flat_feature_map
from fuxictr_multimodal.zoo.models import ZooModel, resolve

MODEL = "from fuxictr.pytorch.models import BaseModel\nclass {name}(BaseModel):\n    marker = {name!r}\n"
LONGCTR = ["DCNv2", "DIEN", "DIN", "ETA", "FinalMLP", "MIRRN", "SDIM", "SIM", "TWIN", "TransAct"]
PARAMS = {
    "verbose": 0,
    "model_root": "checkpoints",
    "metrics": ["AUC"],
    "embedding_regularizer": 1e-3,
    "net_regularizer": None,
    "max_len": 3,
}


@pytest.fixture
def zoo_root(tmp_path, monkeypatch):
    """A clone with its own QIN and DIN, and one more model."""
    monkeypatch.delenv("FUXICTR_ZOO_ROOT", raising=False)
    for name in ("QIN", "DIN", "Rare"):
        folder = tmp_path / "model_zoo" / name / "src"
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(MODEL.format(name=name), encoding="utf-8")
    return tmp_path


@pytest.fixture
def own_qin():
    """Leave the modules of QIN as they were: other tests hold their classes."""

    kept = {name: module for name, module in sys.modules.items() if name.startswith("model_zoo.QIN")}
    yield
    for name in [name for name in sys.modules if name.startswith("model_zoo.QIN")]:
        del sys.modules[name]
    sys.modules.update(kept)
    sys.modules["model_zoo"].QIN = kept["model_zoo.QIN"]


def test_the_order_is_ours_longctr_clone(zoo_root):
    from model_zoo.LongCTR import DIN
    from model_zoo.QIN import QIN

    assert resolve("QIN", zoo_root=zoo_root) == ZooModel(QIN, "batch")
    assert resolve("DIN", zoo_root=zoo_root) == ZooModel(DIN, "longctr")
    from model_zoo.BST import BST

    assert resolve("BST", zoo_root=zoo_root) == ZooModel(BST, "longctr")
    rare = resolve("Rare", zoo_root=zoo_root)
    assert (rare.model_class.marker, rare.layout) == ("Rare", "flat")
    for name in ("clone/DIN", "checkout/DIN"):  # the latter is what earlier versions called it
        assert resolve(name, zoo_root=zoo_root).model_class.marker == "DIN"
    assert resolve("LongCTR/DIN", zoo_root=zoo_root).model_class is DIN


def test_the_environment_names_the_clone(zoo_root, monkeypatch, tmp_path):
    monkeypatch.setenv("FUXICTR_ZOO_ROOT", str(zoo_root))
    assert resolve("Rare").layout == "flat"
    with pytest.raises(ConfigError, match="holds no models"):
        resolve("Rare", zoo_root=tmp_path / "elsewhere")


def test_a_copy_of_our_model_in_the_clone_is_the_one_that_runs(zoo_root, own_qin):
    import model_zoo.QIN

    installed = Path(model_zoo.QIN.__file__).parent
    folder = zoo_root / "model_zoo/QIN"
    shutil.copytree(installed, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "quadratic.py").open("a") as file:
        file.write("\nMARKER = 'of the copy'\n")
    for name in ("QIN", "clone/QIN"):
        copied = resolve(name, zoo_root=zoo_root)
        assert copied.layout == "batch"
        assert Path(inspect.getfile(copied.model_class)) == folder / "QIN.py"
        assert sys.modules["model_zoo.QIN.quadratic"].MARKER == "of the copy"
    # The next run in this process asks for the installed one again.
    back = resolve("QIN").model_class
    assert Path(inspect.getfile(back)).parent == installed
    assert back.__module__ == copied.model_class.__module__ == "model_zoo.QIN.QIN"
    assert not hasattr(sys.modules["model_zoo.QIN.quadratic"], "MARKER")

    (folder / "quadratic.py").write_text("raise RuntimeError('half an edit')\n")
    with pytest.raises(ConfigError, match=r"model 'QIN'.*model_zoo/QIN failed: RuntimeError: half an edit"):
        resolve("QIN", zoo_root=zoo_root)
    assert resolve("QIN").model_class is back


def test_an_unknown_name_lists_what_there_is(zoo_root):
    with pytest.raises(ConfigError) as refused:
        resolve("DINN", zoo_root=zoo_root)
    for part in (
        "'DINN' is not in the zoo",
        "Did you mean 'DIN'?",
        "This project has BST, HSTU, MUSE, QIN, RankMixer, Trees;",
        *LONGCTR,
        "DIN, QIN, Rare.",
    ):
        assert part in str(refused.value)
    with pytest.raises(ConfigError, match="set zoo_root to its folder or in FUXICTR_ZOO_ROOT"):
        resolve("Rare")
    with pytest.raises(ConfigError, match="prefix it with LongCTR/ or clone/"):
        resolve("elsewhere/DIN")
    with pytest.raises(ConfigError, match="'LongCTR/Rare' is not in the zoo"):
        resolve("LongCTR/Rare", zoo_root=zoo_root)


def test_a_fuxictr_without_longctr_is_named(monkeypatch):
    monkeypatch.setattr(zoo, "_longctr", lambda: None)
    monkeypatch.delenv("FUXICTR_ZOO_ROOT", raising=False)
    with pytest.raises(ConfigError, match=r"no model_zoo.LongCTR: install fuxictr==2.3.10"):
        resolve("DIN")


def test_what_longctr_has():
    assert zoo.longctr_models() == LONGCTR
    assert zoo.own_models() == ["BST", "HSTU", "MUSE", "QIN", "RankMixer", "Trees"]


class DinLike(BaseModel):
    def __init__(self, feature_map, din_target_field=(), din_sequence_field=(), embedding_dim=4, **kwargs):
        super().__init__(feature_map, **kwargs)
        self.fields = din_target_field, din_sequence_field


class DmrLike(BaseModel):
    def __init__(self, feature_map, target_field=(), sequence_field=(), neg_seq_field=(), context_field="x", **kwargs):
        super().__init__(feature_map, **kwargs)


class FmLike(BaseModel):
    """Calls the embedding layer by its former keyword, has one regulariser and a layer of width 1."""

    def __init__(self, feature_map, regularizer=None, embedding_dim=4, **kwargs):
        super().__init__(feature_map, embedding_regularizer=regularizer, net_regularizer=regularizer, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.lr = LogisticRegression(feature_map)
        self.fc = nn.Linear(feature_map.sum_emb_out_dim(), 1)

    def forward(self, inputs):
        columns = self.get_inputs(inputs)
        return {"y_pred": self.fc(self.embedding_layer(columns, dynamic_emb_dim=True)) + self.lr(columns)}


@pytest.fixture
def feature_map():
    from fuxictr.features import FeatureMap

    made = FeatureMap("Made_up", ".")
    made.features.update(
        item_id={"type": "categorical", "source": "item", "vocab_size": 4, "padding_idx": 0},
        genre={"type": "categorical", "source": "item", "vocab_size": 4, "padding_idx": 0},
        emb={"type": "embedding", "source": "item", "pretrain_dim": 3},
    )
    made.labels, made.default_emb_dim = ["label"], 4
    made.num_fields = made.get_num_fields()
    return made


@pytest.fixture
def table():
    ids = torch.arange(4, dtype=torch.int32)
    return ItemTable({"item_id": ids, "genre": ids, "emb": torch.ones(4, 3)})


@pytest.fixture
def batch():
    ids = torch.tensor([1, 2], dtype=torch.int32)
    return Batch({"label": torch.ones(2)}, ids, Jagged(ids, torch.tensor([0, 2, 2])))


def test_fields_of_din_like_models_name_the_histories(feature_map):
    flat = flat_feature_map(feature_map, 3, pooled=False)
    assert zoo.sequence_fields(DinLike, flat) == {
        "din_target_field": [("item_id", "genre")],
        "din_sequence_field": [("history_item_id", "history_genre")],
    }
    fields = zoo.sequence_fields(DmrLike, flat)
    assert fields["sequence_field"] == [("history_item_id", "history_genre")]
    assert (fields["neg_seq_field"], fields["context_field"]) == (None, None)
    assert zoo.sequence_fields(FmLike, flat) == {}
    given = {"din_target_field": [["item_id"]], "din_sequence_field": "history_item_id"}
    assert zoo.sequence_fields(DinLike, flat, given) == {
        "din_target_field": [("item_id",)],
        "din_sequence_field": "history_item_id",
    }


def test_din_like_models_read_raw_slots(feature_map, table, batch):
    model, to_inputs = ZooModel(DinLike, "flat").build(feature_map, lambda device: table, PARAMS)
    assert model.fields == ([("item_id", "genre")], [("history_item_id", "history_genre")])
    assert model.feature_map.features["history_item_id"]["feature_encoder"] is None
    assert to_inputs(batch)["history_item_id"].tolist() == [[0, 1, 2], [0, 0, 0]]


def test_faults_that_interaction_models_of_a_clone_have_are_handled(feature_map, table, batch, caplog):
    with caplog.at_level(logging.WARNING):
        model, to_inputs = ZooModel(FmLike, "flat").build(feature_map, lambda device: table, PARAMS)
    assert "FmLike is trained without emb" in caplog.text
    assert "a table of history_item_id is initialised here" in caplog.text
    width_one = model.lr.embedding_layer.embedding_layer.embedding_layers["history_item_id"].weight
    assert width_one.shape == (4, 1)
    assert 0 < width_one.abs().max() < 1e-2
    assert width_one[0] == 0
    assert model._embedding_regularizer == 1e-3
    assert "Pooling" in model.feature_map.features["history_item_id"]["feature_encoder"]
    inputs = to_inputs(batch)
    assert "emb" not in inputs
    assert model(inputs)["y_pred"].shape == (2, 1)


def test_fault_fuxictr_forgets_tables_that_a_layer_does_not_share(feature_map):
    """Fails when FuxiCTR fixes it: then `initialise_forgotten_tables` can go."""
    flat = flat_feature_map(feature_map, 3, pooled=True, embeddings=False)
    layer = LogisticRegression(flat).embedding_layer.embedding_layer
    assert layer.embedding_layers["item_id"].weight.abs().max() < 1e-2
    assert layer.embedding_layers["history_item_id"].weight.abs().max() > 1e-2


def test_a_model_that_cuts_its_history_always_gets_that_many_slots(table, batch):
    class Cuts(nn.Module):
        def __init__(self, feature_map, short_seq_len, **params):
            super().__init__()
            self.short_seq_len, self.device = short_seq_len, "cpu"

    def slots(short_seq_len):
        params = {"max_len": 3, "short_seq_len": short_seq_len}
        return ZooModel(Cuts, "longctr").build(None, lambda device: table, params)[1](batch)[2].shape[1]

    assert slots(2) == 3
    assert slots(5) == 5
    assert slots(None) == 2


def test_dien_reads_its_history_from_the_left(table, batch):
    """It packs histories, which takes the first slots: FuxiCTR's `padding: pre` would hand it padding only."""
    dien = type("DIEN", (), {"__init__": lambda self, feature_map, **params: None, "device": "cpu"})
    assert ZooModel(dien, "longctr").padding == "post"
    _, to_inputs = ZooModel(dien, "longctr").build(None, lambda device: table, PARAMS)
    assert to_inputs(batch)[1]["item_id"].tolist() == [1, 2, 1, 0, 0, 2]
    assert ZooModel(SimpleNamespace, "longctr").padding == "pre"
