"""The example of a request has what the vocabulary reads, in every form of columns, events and times."""

import itertools
import json

import numpy as np
import pytest

from fuxictr_multimodal.serving.example_request import as_text, example_request
from fuxictr_multimodal.serving.runtime.vocabulary import Vocabulary

COLUMNS = [
    {"name": "city", "kind": "category", "dtype": "str", "tokens": ["rome", "oslo"], "oov": 3, "missing": 3},
    {"name": "size", "kind": "category", "dtype": "int", "tokens": [4, 7], "oov": 3, "missing": 3},
    {"name": "mixed", "kind": "category", "dtype": "int", "text": True, "tokens": ["4"], "oov": 2, "missing": 2},
    {"name": "none", "kind": "category", "dtype": "str", "tokens": [], "oov": 1, "missing": 1},
    {"name": "code", "kind": "encoded_category", "vocab_size": 9},
    {"name": "codes", "kind": "encoded_sequence", "vocab_size": 9, "splitter": "^", "max_len": 3, "padding": "pre"},
    {"name": "tags", "kind": "sequence", "splitter": "^", "max_len": 3, "padding": "pre", "pad_token": "",
     "tokens": ["a", "b", "c"], "oov": 4, "missing": [0, 0, 0]},
    {"name": "price", "kind": "number", "dtype": "float", "subtract": 31.25, "divide": 2.5},
    {"name": "years", "kind": "number", "dtype": "int", "multiply": 0.1, "add": -1.0},
    {"name": "plain", "kind": "number", "dtype": "int"},
    {"name": "bin", "kind": "quantile_bins", "dtype": "int", "boundaries": [1.5, 2.5, 8.5]},
    {"name": "one_bin", "kind": "quantile_bins", "dtype": "float", "boundaries": []},
    {"name": "hashed", "kind": "hash", "dtype": "int", "num_buckets": 5},
    {"name": "hashed_text", "from": "url", "kind": "hash", "dtype": "str", "num_buckets": 5},
    {"name": "vector", "kind": "embedding", "width": 3},
]  # fmt: skip
SECONDS = {"unit": "s", "limit": 10**11}
FORMS = {
    "dates": ("d", {}, "2026-01-31"),
    "datetimes": ("us", {}, "2026-01-31 12:30:00"),
    "seconds": ("s", SECONDS, 1_769_862_600),
    "milliseconds": ("ms", {"unit": "ms", "limit": 10**14}, 1_769_862_600_000),
    "counts": (None, {}, 1000),
}


def event(name, kind, **more):
    return {"name": name, "kind": kind, "without_value": 0, **more}


def time_event(kind, form, column="when"):
    unit, whole, _ = FORMS[form]
    return event(
        kind, kind, unit=unit, boundaries=[1.0, 2.0], column=column, of_request=True, times=whole, column_times=whole,
        reads={"history": "time", "buys": "time"},
    )  # fmt: skip


def content(context=(), events=(), rows=40):
    items = {"column": "item_id", "ids": [None, *(f"i{n}" for n in range(1, rows))], "rows": rows, "features": []}
    return {
        "format": 1, "context": [*context], "events": [*events], "items": items, "histories": ["history", "buys"],
    }  # fmt: skip


def read(made, behaviours=("history", "buys")):
    """The example by way of its text, and the codes of each history, all of which the vocabulary gave."""
    request = json.loads(as_text(example_request(made, behaviours)))
    vocabulary = Vocabulary(made)
    columns = vocabulary.context(request["context"], time=request.get("time"))
    assert set(request["context"]) >= set(vocabulary.request_columns)
    lists = {"history": request.get("history", []), **request.get("behaviours", {})}
    codes = {
        name: vocabulary.events(
            name, request.get("events", {}).get(name, {}), length=len(lists[name]), context=request["context"],
            time=request.get("time"),
        )
        for name in behaviours
    }  # fmt: skip
    return request, columns, codes


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column["name"])
def test_a_value_of_every_kind_is_read(column):
    request, columns, _ = read(content([column]))
    assert request["context"].keys() == {column.get("from", column["name"])}
    assert np.isfinite(columns[column["name"]]).all()


def test_values_are_those_that_training_saw():
    request, columns, _ = read(content(COLUMNS))
    assert len(columns) == len(COLUMNS)
    context = request["context"]
    assert (context["city"], context["size"], context["tags"]) == ("rome", 4, ["a", "b"])
    assert (context["price"], context["years"], context["bin"]) == (31.25, 15, 2)
    assert columns["price"] == 0
    assert columns["years"] == 0.5


@pytest.mark.parametrize("form", FORMS)
def test_times_have_the_form_of_the_training_data(form):
    events = [time_event(kind, form) for kind in (["age"] if form == "counts" else ["age", "weekday", "hour"])]
    request, columns, codes = read(content(events=events))
    assert request["time"] == FORMS[form][2]
    assert request["context"] == {}
    assert len(request["events"]["buys"]["time"]) == len(request["behaviours"]["buys"]) == 3
    # The newest event is the last one.
    assert (np.diff(codes["history"]["age"]) <= 0).all()
    if form != "counts":
        # The last day of January 2026 is a Saturday.
        assert (columns["weekday"], codes["history"]["weekday"].tolist()) == (6, [3, 4, 5])


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(FORMS, 2)))
def test_times_of_two_forms_are_both_there(one, other):
    events = [time_event("age", one, "shown"), time_event("age", other, "bought")]
    events = [events[0], {**events[1], "name": "other", "reads": {"history": "other", "buys": None}}]
    request, _, codes = read(content(events=events))
    assert request["context"] == {"bought": FORMS[other][2]}
    assert len(codes["history"]["other"]) == 3


def test_a_column_of_two_readers_has_a_value_for_both():
    both = [{**COLUMNS[0], "name": "as_text", "from": "age"}, {**COLUMNS[7], "name": "age", "subtract": 40.0}]
    shown = event("of_event", "category", tokens=["30"], column="age", reads={"history": None, "buys": None})
    request, columns, _ = read(content(both, [shown]))
    assert request["context"] == {"age": 40.0}
    assert columns["as_text"] == 3


def test_values_of_events_are_known_ones():
    events = [
        event("page", "category", tokens=["home"], column="page", reads={"history": "page", "buys": None}),
        event("dwell", "bins", boundaries=[2.0, 8.0], reads={"history": "dwell", "buys": "dwell"}),
        event("code", "encoded", vocab_size=4, column="code", reads={"history": "code", "buys": "code"}),
    ]
    request, columns, codes = read(content(events=events))
    assert (request["context"], columns["page"], columns["code"]) == ({"page": "home", "code": 1}, 1, 1)
    assert request["events"]["buys"].keys() == {"dwell", "code"}
    assert codes["history"]["page"].tolist() == codes["history"]["code"].tolist() == [1, 1, 1]
    assert "time" not in request


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_small_catalogues_have_an_example_too(rows):
    request, _, _ = read(content(rows=rows))
    known = {f"i{n}" for n in range(1, rows)}
    ids = [*request["history"], *request["behaviours"]["buys"], *request["candidates"]]
    assert set(ids) <= known
    assert len(request["candidates"]) == min(rows - 1, 10)


def test_ids_may_be_numbers_of_rows_and_a_dataset_may_have_no_items():
    counted = content()
    counted["items"]["ids"] = None
    assert read(counted)[0]["history"] == [1, 2, 3]
    flat = content([COLUMNS[0]]) | {"items": None, "histories": []}
    assert read(flat, ())[0] == {"context": {"city": "rome"}}


def test_histories_that_the_model_does_not_read_are_not_shown():
    request, _, _ = read(content(), ["buys"])
    assert request.keys() == {"context", "behaviours", "candidates"}
    assert read(content(), ["history"])[0].keys() == {"context", "history", "candidates"}
