"""Calibration: optimum and steps known from elsewhere, order kept, and kept beside the model for its weights only."""

import json
import logging

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from fuxictr_multimodal import api
from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics.classification import auc, expected_calibration_error, log_loss
from fuxictr_multimodal.scoring import calibration
from fuxictr_multimodal.scoring.calibration import METHODS, Calibration
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers.two_builds import build_shop, samples, write_config


def too_sure(rows, seed):
    """Labels of known probabilities, and the scores of a model that is too sure and too low."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1, rows)
    return rng.random(rows) < expit(z), expit(2 * z - 1).astype(np.float32)


def test_platt_is_the_optimum_of_his_likelihood_and_undoes_a_wrong_scale():
    labels, scores = too_sure(20_000, 0)
    found = Calibration.fit("platt", labels, scores)
    p, n = labels.sum(), (~labels).sum()
    target = np.where(labels, (p + 1) / (p + 2), 1 / (n + 2))
    z = logit(scores.astype(np.float64))

    def loss(x):
        return -np.mean(target * np.log(expit(x[0] * z + x[1])) + (1 - target) * np.log(expit(-x[0] * z - x[1])))

    best = minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert (found.numbers["slope"], found.numbers["intercept"]) == pytest.approx(tuple(best), abs=1e-4)
    # The scores have the logit 2 z - 1, the labels z.
    assert (found.numbers["slope"], found.numbers["intercept"]) == pytest.approx((0.5, 0.5), abs=0.05)


def pooled(labels, scores):
    """Isotonic regression by its definition: neighbours that are out of order are averaged until none is."""
    blocks = []
    for score in np.unique(scores):
        blocks.append([labels[scores == score].mean(), int((scores == score).sum()), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, weight, values = blocks.pop()
            total = blocks[-1][1] + weight
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * weight) / total, total, blocks[-1][2] + values]
    return np.repeat([mean for mean, _, _ in blocks], [values for _, _, values in blocks])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=4, max_size=60))
def test_isotonic_is_the_pooled_means(rows):
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 8
    means = pooled(labels.astype(float), scores)
    if labels.all() or not labels.any() or means[0] == means[-1]:
        with pytest.raises(DataError, match=r"both labels in the valid split|do not rise with the labels"):
            Calibration.fit("isotonic", labels, scores)
        return
    found = Calibration.fit("isotonic", labels, scores).apply(np.unique(scores))
    least = 1 / (len(rows) + 2)
    np.testing.assert_allclose(found, np.clip(means, least, 1 - least), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_scores_are_nearer_to_the_rates_and_in_the_same_order(method):
    found = Calibration.fit(method, *too_sure(20_000, 1))
    labels, scores = too_sure(20_000, 2)
    calibrated = found.apply(scores)
    order = np.argsort(scores)
    assert (np.diff(calibrated[order]) >= 0).all()
    assert expected_calibration_error(labels, scores) > 0.1
    assert expected_calibration_error(labels, calibrated) < 0.02
    assert log_loss(labels, calibrated) < log_loss(labels, scores) - 0.05
    # Steps tie some pairs, which count one half.
    assert auc(labels, calibrated) == pytest.approx(auc(labels, scores), abs=1e-12 if method == "platt" else 2e-3)
    ends = found.apply([0.0, 1.0, np.float32(1e-12)])
    assert np.isfinite(ends).all()
    assert 0 < ends[0] <= ends[2] < 0.05
    assert 0.8 < ends[1] < 1


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_calibrated(method):
    with pytest.raises(DataError, match="all 3 samples have label 1"):
        Calibration.fit(method, [1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="do not rise with the labels"):
        Calibration.fit(method, [1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ConfigError, match="'plat' is unknown. Did you mean 'platt'"):
        Calibration.fit("plat", [0, 1], [0.1, 0.2])
    # Without Platt's targets, labels that scores separate would have an infinite slope.
    separated = Calibration.fit(method, [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert np.isfinite(separated.apply([0.1, 0.5, 0.9])).all()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop with a test split, and a trained DIN."""
    folder = tmp_path_factory.mktemp("shop")
    splits = {
        split: samples(users=range(20), items=range(1, 20), rows=rows, seed=seed)
        for seed, (split, rows) in enumerate({"train": 3000, "valid": 1200, "test": 1100}.items())
    }
    build_shop(folder / "data", "shop", splits, IdMap(pl.Series([None, *(f"i{i}" for i in range(1, 20))])))
    config = write_config(folder / "config", folder / "data", ("shop",), model_root=str(folder / "runs"), epochs=3)
    report, _ = run_experiment(config_dir=config, expid="DIN_shop")
    return folder, report


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_calibrated_on_its_valid_split(shop, tmp_path, method):
    folder, report = shop
    out = tmp_path / "scores.parquet"
    plain = pl.read_parquet(predict(config_dir=folder / "config", expid="DIN_shop", out=out).out)
    scored = predict(config_dir=folder / "config", expid="DIN_shop", out=out, calibrate=method)
    found = pl.read_parquet(out)
    assert found.columns == [*(name for name in plain.columns if name != "score"), "score_raw", "score"]
    assert found["score_raw"].equals(plain["score"], check_names=False)
    assert found["score"].dtype == pl.Float32
    labels = {}
    for split in ("valid", "test"):
        with Store.open(folder / "data", "shop").reader(split) as reader:
            labels[split] = reader.read("label", 0, reader.rows)
    with np.load(folder / "runs/shop/DIN_shop.predictions.npz") as kept:
        expected = Calibration.fit(method, labels["valid"], kept["valid_scores"]).apply(kept["test_scores"])
    np.testing.assert_allclose(found["score"].to_numpy(), expected, rtol=1e-6)
    assert scored.calibrated.before == pytest.approx(
        {
            "ECE": expected_calibration_error(labels["test"], plain["score"]),
            "logloss": report.metrics["test"]["logloss"],
        }
    )
    assert scored.calibrated.after["logloss"] == pytest.approx(log_loss(labels["test"], expected), rel=1e-5)
    table = api.predict(report, config=folder / "config", calibrate=method)
    assert table["score"].equals(found["score"])


def test_it_is_kept_for_these_weights_only(shop, tmp_path, monkeypatch, capsys):
    folder, _ = shop
    path = folder / "runs/shop/DIN_shop.calibration.json"
    path.unlink(missing_ok=True)
    fitted = []
    fit = Calibration.fit
    monkeypatch.setattr(Calibration, "fit", lambda *arguments: fitted.append(arguments[0]) or fit(*arguments))

    def score(method):
        arguments = ["--config", str(folder / "config"), "--expid", "DIN_shop", "--out", str(tmp_path / "x.csv")]
        run_predict_main([*arguments, "--calibrate", method])
        return (tmp_path / "x.csv").read_text(), capsys.readouterr().out

    first, told = score("platt")
    assert "platt calibration on the test split: ECE 0." in told
    assert " -> 0." in told
    assert score("platt")[0] == first
    assert fitted == ["platt"]
    score("isotonic")
    score("platt")
    score("none")
    assert fitted == ["platt", "isotonic"]
    stored = json.loads(path.read_text())
    assert set(stored["methods"]) == set(METHODS)
    # Of other weights, or damaged, it is made again.
    no_numbers = {"platt": {"slope": [1], "intercept": "0"}}
    too_large = {"platt": {"slope": 10**400, "intercept": 0}}
    for spoilt in (
        {**stored, "weights": "0" * 64},
        {},
        {"format_version": 1},
        {**stored, "methods": no_numbers},
        {**stored, "methods": too_large},
    ):
        path.write_text(json.dumps(spoilt) if spoilt else "{")
        assert score("platt")[0] == first
    assert fitted == ["platt", "isotonic", *["platt"] * 5]
    assert json.loads(path.read_text()) == {**stored, "methods": {"platt": stored["methods"]["platt"]}}


def test_isotonic_warns_of_few_samples(shop, tmp_path, monkeypatch, caplog):
    folder, _ = shop
    for least, warned in ((1200, False), (1201, True)):
        (folder / "runs/shop/DIN_shop.calibration.json").unlink(missing_ok=True)
        monkeypatch.setattr(calibration, "FEW_SAMPLES", least)
        with caplog.at_level(logging.WARNING):
            predict(config_dir=folder / "config", expid="DIN_shop", out=tmp_path / "x.csv", calibrate="isotonic")
        assert ("1200 valid samples follows their noise" in caplog.text) == warned


def test_imported_weights_have_a_calibration_of_their_own(shop, tmp_path):
    folder, _ = shop
    call = {"config_dir": folder / "config", "expid": "QIN_shop", "overrides": ["batch_norm=True"]}
    run_experiment(**call)
    own = pl.read_parquet(predict(**call, out=tmp_path / "own.parquet", calibrate="platt").out)
    predict(**call, exported=tmp_path / "qin.model", score=False)
    imported = predict(**call, imported=tmp_path / "qin.model", out=tmp_path / "imported.parquet", calibrate="platt")
    assert pl.read_parquet(imported.out).equals(own)
    path = folder / "runs/shop/QIN_shop.calibration.json"
    path.unlink()
    predict(**call, imported=tmp_path / "qin.model", out=tmp_path / "imported.parquet", calibrate="platt")
    assert not path.exists()


def test_wrong_use_is_one_error(shop, tmp_path):
    folder, report = shop
    with pytest.raises(ConfigError, match="'isotonc' is unknown. Did you mean 'isotonic'"):
        api.predict(report, config=folder / "config", calibrate="isotonc")
