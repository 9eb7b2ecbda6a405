"""Tensors of a call, number by number: rows gathered, histories filled up with zeros, candidates of another length."""

from dataclasses import replace

import numpy as np
import pytest

from fuxictr_multimodal.serving.runtime.engines import Input
from fuxictr_multimodal.serving.runtime.feeds import Encoded, Feeds, Slots
from fuxictr_multimodal.serving.runtime.folder import read_model
from fuxictr_multimodal.serving.runtime.ids import IdMap
from fuxictr_multimodal.serving.runtime.items import Version
from fuxictr_multimodal.serving.runtime.storage import Rows, Stored
from tests.helpers.exported_folder import write_folder

# The padding item is not zero here: a history's empty slots are all the same.
ARRAYS = {
    "vector": Stored(Rows.of(np.array([[9, 9], [1, 10], [2, 20], [3, 30]], np.float32))),
    "code": Stored(Rows.of(np.array([9, 1, 2, 3], np.int32))),
}
VERSION = Version(IdMap.of([None, "a", "b", "c"]), ARRAYS)
INPUTS = (
    Input("context.age", "float32", ("requests",)),
    Input("behaviours.clicks.mask", "bool", ("requests", "slots_0")),
    Input("behaviours.clicks.items.vector", "float32", ("requests", "slots_0", 2)),
    Input("behaviours.clicks.items.code", "int64", ("requests", "slots_0")),
    Input("behaviours.clicks.events.hour", "int64", ("requests", "slots_0")),
    Input("candidates.vector", "float32", ("requests", "candidates", 2)),
)


def encoded(age, rows, hours, candidates):
    slots = Slots(np.array(rows, np.int64), {"hour": np.array(hours, np.int64)})
    return Encoded({"age": np.array([age])}, {"clicks": slots}, np.array(candidates, np.int64))


REQUESTS = [encoded(0.5, [1, 3], [7, 8], [2]), encoded(1.5, [], [], [1, 3]), encoded(2.5, [2, 2, 1], [4, 5, 6], [0])]


@pytest.fixture
def feeds(tmp_path):
    def made(padding, fixed_slots=None):
        model = read_model(write_folder(tmp_path / "m", {}, padding=padding, fixed_slots=fixed_slots))
        return Feeds(replace(model, inputs=INPUTS, behaviours=("clicks",)), ARRAYS, ["age"], ["hour"])

    return made


def test_histories_are_filled_up_before(feeds):
    found = feeds("pre").of_users(REQUESTS, VERSION)
    assert found["context.age"].tolist() == [0.5, 1.5, 2.5]
    assert found["context.age"].dtype == np.float32
    assert found["behaviours.clicks.mask"].astype(int).tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert found["behaviours.clicks.items.code"].tolist() == [[0, 1, 3], [0, 0, 0], [2, 2, 1]]
    assert found["behaviours.clicks.items.vector"].tolist() == [
        [[0, 0], [1, 10], [3, 30]],
        [[0, 0], [0, 0], [0, 0]],
        [[2, 20], [2, 20], [1, 10]],
    ]
    assert found["behaviours.clicks.events.hour"].tolist() == [[0, 7, 8], [0, 0, 0], [4, 5, 6]]


def test_histories_are_filled_up_behind_and_to_a_fixed_number(feeds):
    found = feeds("post", 4).of_users(REQUESTS, VERSION)
    assert found["behaviours.clicks.items.code"].tolist() == [[1, 3, 0, 0], [0, 0, 0, 0], [2, 2, 1, 0]]
    assert found["behaviours.clicks.mask"].astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]


def test_an_empty_history_has_one_empty_slot(feeds):
    found = feeds("pre").of_users(REQUESTS[1:2], VERSION)
    assert found["behaviours.clicks.mask"].tolist() == [[False]]
    assert found["behaviours.clicks.items.vector"].tolist() == [[[0, 0]]]


def test_candidates_are_gathered(feeds):
    found = feeds("pre").of_candidates(np.array([[2, 0], [1, 3]]), VERSION)
    assert found["candidates.vector"].tolist() == [[[2, 20], [9, 9]], [[1, 10], [3, 30]]]
