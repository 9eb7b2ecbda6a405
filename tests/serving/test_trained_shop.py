"""A trained run, its vocabulary from its own feature map, and the batches that `fxmm predict` makes of new samples."""

import json

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.raw_rows import Reading
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
