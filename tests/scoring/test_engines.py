"""The folded engine of scoring gives what the model gives, and models without a folded form are scored as they are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.scoring.trained_run import scorer_of
from model_zoo.QIN import QIN
from model_zoo.QIN.folded import FoldedQIN
from tests.helpers.flat_qin import flat_feature_map_of, qin_of


@pytest.fixture
def both(run_qin, repository, tmp_path, data_root):
    """Train, and score the test split by both engines; columns of scores."""

    def run(*overrides, expid="QIN_test", **arguments):
        run_qin(*overrides, expid=expid, name="engines")
        settings = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0", *overrides]
        frames = {}
        for engine in ("folded", "model"):
            out = tmp_path / f"{engine}.parquet"
            predict(
                config_dir=repository / "config",
                expid=expid,
                overrides=settings,
                name="engines",
                out=out,
                engine=engine,
                **arguments,
            )
            frames[engine] = pl.read_parquet(out)
        return frames["folded"], frames["model"]

    return run


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["first_order=[item_id]", "first_order_loss=own", "attention_similarity=True"],
        ["interaction=mlp", "pooling=mean", "mlp_hidden_units=[16]"],
    ],
    ids=["published", "more", "ablations"],
)
def test_both_engines_give_the_same_scores(both, overrides, monkeypatch):
    called = []
    score = FoldedQIN.__call__
    monkeypatch.setattr(FoldedQIN, "__call__", lambda self, batch: called.append(len(batch)) or score(self, batch))
    folded, model = both(*overrides)
    assert sum(called) == len(folded)
    assert folded.columns == model.columns
    np.testing.assert_allclose(folded["score"], model["score"], rtol=1e-5, atol=1e-6)
    assert folded["score"].n_unique() > 100


def test_calibration_uses_the_same_engine(both, tmp_path):
    folded, model = both(calibrate="platt")
    np.testing.assert_allclose(folded["score"], model["score"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(folded["score_raw"], model["score_raw"], rtol=1e-5, atol=1e-6)
    assert json.loads(next(tmp_path.rglob("*.calibration.json")).read_text())["methods"]["platt"]


def test_a_model_without_a_folded_form_is_scored_as_it_is(both, monkeypatch):
    monkeypatch.delattr(QIN, "fold")
    folded, model = both()
    assert folded.equals(model)


def test_a_dataset_without_items_is_scored_by_the_model():
    model = qin_of(flat_feature_map_of())
    experiment = SimpleNamespace(store=SimpleNamespace(manifest=SimpleNamespace(item_col=None)))
    assert scorer_of(experiment, model, "folded") == model.forward


def test_an_unknown_engine_is_named(repository, data_root, capsys, run_qin):
    settings = [f"data_root={data_root}"]
    with pytest.raises(ConfigError, match=r"engine: 'fold' is unknown. Did you mean 'folded'"):
        predict(config_dir=repository / "config", expid="QIN_test", overrides=settings, engine="fold")
    with pytest.raises(SystemExit) as refused:
        run_predict_main(["--expid", "QIN_test", "--engine", "onnx"])
    assert refused.value.code == 2
    assert "--engine" in capsys.readouterr().err
