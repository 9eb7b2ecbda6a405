"""A trained run: requests are read as new samples of `fxmm predict`, and its export scores them equally."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.raw_rows import Reading
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.serving.runtime import Ranker, Request, RequestError
from fuxictr_multimodal.serving.runtime.vocabulary import Vocabulary
from fuxictr_multimodal.serving.vocabulary import vocabulary_of
from fuxictr_multimodal.training.experiment import Experiment
from tests.helpers import shop, trained_shop


@pytest.mark.parametrize("model", ["qin", "din"])
def test_a_request_is_read_as_a_sample_of_predict(tmp_path, model, request):
    trained = request.getfixturevalue(f"{model}_shop")
    experiment = Experiment.load(trained.config, trained.expid)
    feature_map = experiment.feature_map()
    own = Vocabulary(json.loads(json.dumps(vocabulary_of(experiment.store, feature_map, experiment.params))))
    asked = trained_shop.REQUEST
    candidates = asked["candidates"]
    columns = {name: [value] * len(candidates) for name, value in asked["context"].items()}
    columns |= {
        "item_id": candidates,
        "timestamp": [asked["time"]] * len(candidates),
        "history": [asked["history"]] * len(candidates),
        "history_time": [asked["events"]["history"]["time"]] * len(candidates),
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "new.parquet")
    reading = Reading(experiment.store, feature_map, batch_size=8, max_len=experiment.max_len)
    (batch,) = new_samples(tmp_path / "new.parquet", reading, params=experiment.params)
    found = own.context(asked["context"], time=asked["time"])
    assert {n: v.tolist() * len(candidates) for n, v in found.items()} == {
        name: values.tolist() for name, values in batch.features.items()
    }
    given = asked["events"]["history"]
    codes = own.events("history", given, length=2, context=asked["context"], time=asked["time"])
    assert {name: v.tolist() * len(candidates) for name, v in codes.items()} == {
        name: values.tolist() for name, values in batch.history.events.items()
    }
    assert own.event_columns == (("age", "hour") if model == "qin" else ())
    table = ItemTable.from_store(experiment.store.dir, feature_map=feature_map).features
    features = own.items(list(shop.items().iter_rows(named=True)))
    assert features.keys() == table.keys()
    for name, values in features.items():
        assert np.array_equal(values, table[name][1:].numpy()), name


def test_one_request_fits_the_exports_of_both_models(qin_export, din_export):
    # QIN reads the times of the history, DIN neither them nor the request's.
    asked = Request(**trained_shop.REQUEST)
    for exported in (qin_export, din_export):
        assert len(Ranker(exported.out, threads=1).rank(asked).items) == len(asked.candidates)
        vocabulary = json.loads((exported.out / "vocabulary.json").read_text())
        assert vocabulary["histories"] == ["history"]


@pytest.mark.parametrize("model", ["QIN", "DIN"])
def test_one_request_with_two_histories_fits_both_models(tmp_path, model):
    log = {"behaviour": "device", "behaviours": ["phone", "desktop"]}
    trained = trained_shop.train(tmp_path / "shop", model=model, interactions=log)
    times = {"history": {"time": [1_704_000_000] * 2}, "desktop": {"time": [1_704_000_000]}}
    asked = Request(**trained_shop.REQUEST | {"behaviours": {"desktop": ["sku-0007"]}, "events": times})
    out = export(config_dir=trained.config, expid=trained.expid, out=tmp_path / "model").out
    ranker = Ranker(out, threads=1)
    assert ranker.model.behaviours == (("history", "desktop") if model == "QIN" else ("history",))
    with_desktop = ranker.score(asked).scores
    without = ranker.score(replace(asked, behaviours={}, events={"history": times["history"]})).scores
    assert np.array_equal(with_desktop, without) == (model == "DIN")
    with pytest.raises(RequestError, match="behaviours: 'desktops' is unknown; did you mean 'desktop'"):
        ranker.score(replace(asked, behaviours={"desktops": []}))


@pytest.mark.parametrize("model", ["qin", "din"])
def test_an_export_scores_raw_requests_as_predict_scores_a_file(tmp_path, model, request):
    trained, rng, rows = request.getfixturevalue(f"{model}_shop"), np.random.default_rng(8), 24
    export(config_dir=trained.config, expid=trained.expid, out=tmp_path / "exported")
    ranker = Ranker(tmp_path / "exported", threads=1)
    items = [f"sku-{n:04d}" for n in range(shop.ITEMS + 3)]  # the last ones are unknown
    frame = pl.DataFrame(
        {
            "user_id": [f"u{n:03d}" for n in rng.integers(0, shop.USERS, rows)],
            "device": [None, "watch", *rng.choice(["phone", "desktop"], rows - 2).tolist()],
            "country": ["it", None, *rng.choice(["de", "fr"], rows - 2).tolist()],
            "age": [None, *rng.integers(1, 120, rows - 1).tolist()],
            "item_id": [items[-1], *rng.choice(items, rows - 1)],
            "timestamp": 1_704_000_000 + rng.integers(0, 10**7, rows),
            "history": [rng.choice(items, n).tolist() for n in [0, *rng.integers(0, 14, rows - 1)]],
        }
    )
    ages = [rng.integers(0, 10**7, len(one)).tolist() for one in frame["history"]]
    frame = frame.with_columns(
        history_time=pl.Series(
            [[now - age for age in one] for now, one in zip(frame["timestamp"], ages, strict=True)],
            dtype=pl.List(pl.Int64),
        )
    )
    frame.write_parquet(tmp_path / "new.parquet")
    scored = predict(
        config_dir=trained.config, expid=trained.expid, data=tmp_path / "new.parquet", out=tmp_path / "scores.parquet"
    )
    requests = [
        Request(
            context={name: one[name] for name in ("user_id", "device", "country", "age")},
            history=one["history"],
            candidates=[one["item_id"]],
            events={"history": {"time": one["history_time"]}},
            time=one["timestamp"],
        )
        for one in frame.iter_rows(named=True)
    ]
    found = ranker.score_many(requests)
    expected = pl.read_parquet(scored.out)["score"].to_numpy()
    assert np.abs(np.concatenate([one.scores for one in found]) - expected).max() < 1e-6
    assert sum(one.unknown_history + len(one.unknown) for one in found) == (
        scored.unknown["history"] + scored.unknown["item_id"]
    )
    assert expected.std() > 1e-3
