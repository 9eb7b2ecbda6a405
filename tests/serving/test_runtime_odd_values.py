"""Values that no column has, of callers in Python: each is refused by one line that names where it was."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fuxictr_multimodal.serving.runtime import Ranker, Request, RequestError
from fuxictr_multimodal.serving.runtime.encoders import encoder_of
from fuxictr_multimodal.serving.runtime.times import TimeForm
from tests.helpers.exported_folder import made_item, write_folder

HUGE = 10**5000
CONTEXT = {"user_id": "ann", "price": 3.0}
WORDS = {"tokens": ["rome"], "oov": 2}
LIST = {"splitter": "^", "max_len": 3, "padding": "pre"}
ENCODERS = {
    "text": {"kind": "category", "dtype": "str", **WORDS},
    "whole": {"kind": "category", "dtype": "int", "tokens": [1], "oov": 2},
    "code": {"kind": "encoded_category", "vocab_size": 3},
    "texts": {"kind": "sequence", "pad_token": None, **WORDS, **LIST},
    "codes": {"kind": "encoded_sequence", "vocab_size": 3, **LIST},
    "number": {"kind": "number", "dtype": "float"},
    "bins": {"kind": "quantile_bins", "dtype": "float", "boundaries": [1.0]},
    "hash": {"kind": "hash", "dtype": "str", "num_buckets": 5},
    "vector": {"kind": "embedding", "width": 2},
}


class Unshowable:
    """Its text fails, as that of an object of a caller may."""

    def __repr__(self):
        raise RuntimeError("no text")


ODD = {
    "huge": HUGE,
    "huge, negative": -HUGE,
    "list of huge": [HUGE],
    "table": pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
    "array": np.arange(4).reshape(2, 2),
    "no time": pd.NaT,
    "nothing": pd.NA,
    "span": np.timedelta64(1, "s"),
    "unshowable": Unshowable(),
    "lines": b"a\nb",
}
COLUMNS = {"column of pandas": pd.Series([1.5, 2, 3]), "column of polars": pl.Series([1.5, 2, 3])}


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return Ranker(write_folder(tmp_path_factory.mktemp("odd") / "m", {f"i{n}": made_item(n) for n in range(4)}))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return Ranker(write_folder(tmp_path_factory.mktemp("odd") / "n", {n: made_item(n) for n in range(1, 4)}))


def refused(call, named):
    with pytest.raises(RequestError, match=named) as raised:
        call()
    message = str(raised.value)
    assert message.splitlines() == [message]
    assert len(message) < 300


@pytest.mark.parametrize("value", [*ODD, *COLUMNS])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_refuses_it(encoder, value):
    given = {**ODD, **COLUMNS}[value]
    one = encoder_of({"name": "col", **ENCODERS[encoder]})
    # A code outside of the vocabulary is a code, and a vector or a list may be a column.
    if encoder == "code" and value in ("huge", "huge, negative"):
        assert one.encode(given) == 0
    elif (encoder, value) == ("codes", "list of huge"):
        assert one.encode(given).tolist() == [0, 0, 0]
    elif encoder == "texts" and value in COLUMNS:
        assert one.encode(given).tolist() == [2, 2, 2]
    else:
        refused(lambda: one.encode(given), "column 'col'")


@pytest.mark.parametrize("unit", ["s", None])
@pytest.mark.parametrize("value", [*ODD, *COLUMNS])
def test_it_is_no_time(value, unit):
    given = {**ODD, **COLUMNS}[value]
    refused(lambda: TimeForm("s").read([given], unit, "time"), "time: ")
    refused(lambda: TimeForm("s").read([1_700_000_000, given], unit, "time"), "time: ")


def test_a_time_of_pandas_that_is_missing_is_called_so():
    refused(lambda: TimeForm().read([pd.NaT], "us", "time"), "time: the time is missing")
    assert TimeForm().read([pd.Timestamp("2024-01-01")], "s", "time").tolist() == [1_704_067_200]


@pytest.mark.parametrize("value", [*ODD, *COLUMNS])
def test_a_request_refuses_it(ranker, numbered, value):
    given = {**ODD, **COLUMNS}[value]
    refused(lambda: ranker.score(Request({**CONTEXT, "user_id": given})), "column 'user_id'")
    refused(lambda: ranker.score(Request(CONTEXT, (), [given])), "candidates: ")
    refused(lambda: ranker.score(Request(CONTEXT, [given], ["i1"])), "history: ")
    refused(lambda: ranker.score(Request(given)), "context must map names to values")
    refused(lambda: ranker.score(Request(CONTEXT, behaviours=given)), "behaviours must map names to values")
    refused(lambda: ranker.upsert_items([{"item_id": given}]), "item_id: ")
    refused(lambda: numbered.upsert_items([made_item(1).raw(given)]), "item_id: ")
    if value != "huge":
        refused(lambda: ranker.rank(Request(CONTEXT, (), ["i1"]), k=given), "k must be a whole number from 1")
    if value not in ("list of huge", *COLUMNS):
        refused(lambda: ranker.score(Request(CONTEXT, given)), "history must be a list")
    if value not in ("huge", "huge, negative"):
        refused(lambda: numbered.score(Request(CONTEXT, (), [given])), "candidates: ")
    else:
        assert numbered.score(Request(CONTEXT, (), [given, 1])).unknown == [given]


NAMES = {"huge": HUGE, "nothing": pd.NA, "number": 7, "pair": ("a", "b"), "long": "n" * 5000, "lines": "a\nb"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_it_is_no_name(ranker, name):
    refused(lambda: ranker.score(Request({**CONTEXT, name: 1})), "context: column .* is unknown; known are ")
    refused(lambda: ranker.score(Request(CONTEXT, behaviours={name: []})), "behaviours: .* is unknown; known are ")
    refused(
        lambda: ranker.score(Request(CONTEXT, ["i1"], ["i1"], events={"history": {name: [1]}})),
        "events of 'history': .* is unknown; known are ",
    )
    if not isinstance(name, str):
        refused(lambda: ranker.upsert_items([{"item_id": "x", name: 1}]), "item 'x': column 'kind' is missing")
