"""Requests beside samples of a file: a vocabulary must encode what scoring reads for the same raw values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.store import Store, read_item_table
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.raw_rows import Reading
from fuxictr_multimodal.serving.example_request import as_text, example_request
from fuxictr_multimodal.serving.runtime.vocabulary import Vocabulary
from fuxictr_multimodal.serving.vocabulary import vocabulary_of
from fuxictr_multimodal.zoo.histories import name_histories


def feature_map_of(store: Store) -> Any:
    """The feature map of a run that reads everything."""
    feature_map = load_feature_map(store.dir, store.manifest.dataset_id, {"group_id": store.manifest.group_id})
    name_histories(feature_map, store.manifest)
    return feature_map


def vocabulary(store: Store, params: Mapping[str, Any], feature_map: Any = None) -> Vocabulary:
    """The vocabulary of such a run, by way of its JSON text."""
    content = vocabulary_of(store, feature_map or feature_map_of(store), params)
    content = json.loads(json.dumps(content, allow_nan=False))
    found = Vocabulary(content)
    assert_example_is_read(found, json.loads(as_text(example_request(content, found.histories))))
    return found


def assert_example_is_read(own: Vocabulary, request: Mapping[str, Any]) -> None:
    """Check that the example of a request has all that the vocabulary reads, with items that it knows."""
    context, time = request["context"], request.get("time")
    assert set(own.context(context, time=time)) == set(own.context_columns)
    histories = {"history": request.get("history", []), **request.get("behaviours", {})}
    assert set(own.histories) <= histories.keys()
    for name in own.histories:
        events = request.get("events", {}).get(name, {})
        codes = own.events(name, events, length=len(histories[name]), context=context, time=time)
        assert set(codes) == set(own.event_columns)
    known = set(range(1, own.rows) if own.ids is None else own.ids[1:])
    assert all(known.issuperset(ids) for ids in (*histories.values(), request.get("candidates", ())))


def assert_as_predicted(
    store: Store,
    params: Mapping[str, Any],
    samples: pl.DataFrame,
    path: Path,
    *,
    histories: Mapping[str, str] | None = None,
    events: Mapping[str, Mapping[str, str]] | None = None,
    time: str | None = None,
    max_len: int = 4,
) -> None:
    """Compare every sample of a frame with the request of the same values.

    Args:
        store: the dataset.
        params: its entry.
        samples: new samples in the form of `fxmm predict --data`.
        path: where they may be written, `.parquet` or `.csv`.
        histories: column of the samples by name of the history.
        events: by history, column of the samples by key of the request's `events`.
        time: column of the samples with the request's time.
        max_len: of the run.
    """
    if path.suffix == ".csv":
        samples.write_csv(path)
    else:
        samples.write_parquet(path)
    feature_map = feature_map_of(store)
    reading = Reading(store, feature_map, batch_size=len(samples), max_len=max_len)
    (batch,) = new_samples(path, reading, params=params)
    own = vocabulary(store, params, feature_map)
    assert set(own.context_columns) == set(batch.features)
    rows = dict(zip(own.ids or [], range(len(own.ids or [])), strict=True))
    kinds = dict(zip(["history", *store.manifest.behaviours], [batch.history, *batch.behaviours.values()], strict=True))
    for at, sample in enumerate(samples.iter_rows(named=True)):
        context = {name: sample[name] for name in own.request_columns}
        now = None if time is None else sample[time]
        found = own.context(context, time=now)
        for name, values in batch.features.items():
            expected = values[at].numpy()
            assert found[name].shape == (1, *expected.shape), name
            assert np.array_equal(found[name][0], expected), (name, sample, found[name], expected)
            assert found[name].dtype == (np.float32 if expected.dtype == np.float32 else np.int64)
        for name, column in (histories or {}).items():
            items = sample[column] or []
            given = {key: sample[of] or [] for key, of in (events or {}).get(name, {}).items()}
            codes = own.events(name, given, length=len(items), context=context, time=now)
            kept = [place for place, item in enumerate(items) if item is not None and item in rows][-max_len:]
            one = kinds[name].take(range(at, at + 1))
            assert one.values.tolist() == [rows[items[place]] for place in kept]
            assert codes.keys() == one.events.keys()
            for event, values in one.events.items():
                assert values.tolist() == codes[event][kept].tolist(), (name, event, sample)


def assert_items_as_stored(store: Store, params: Mapping[str, Any], items: pl.DataFrame) -> None:
    """Feed the items of a frame back: the features must be the rows of `item.h5`, and a new one's own id is 0."""
    own, stored = vocabulary(store, params), read_item_table(store.dir / "item.h5")
    raw = list(items.iter_rows(named=True))
    assert own.ids is not None
    rows = [own.ids.index(one[own.item_column]) for one in raw]
    found = own.items(raw)
    assert found.keys() == stored.keys()
    for name, values in found.items():
        assert values.dtype == (np.float32 if stored[name].dtype.kind == "f" else np.int64)
        assert np.array_equal(values, stored[name][rows]), name
    new = own.items([{**one, own.item_column: f"new {at}"} for at, one in enumerate(raw)])
    for name, values in new.items():
        assert np.array_equal(values, np.zeros(len(raw)) if name == own.item_column else found[name])
