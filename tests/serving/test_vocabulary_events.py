"""Histories and event features: requests are encoded as samples of a log, of ready files and of scripts are."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.entry.tables import times as of_data
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.serving.runtime import times
from fuxictr_multimodal.serving.runtime.errors import RequestError
from tests.helpers import rich_store
from tests.helpers.serving_parity import assert_as_predicted, vocabulary

LABEL = {"name": "label", "dtype": "float"}
START = datetime(2024, 2, 27, 21, 30)
USERS, ITEMS = [f"u{n}" for n in range(5)], [f"i{n}" for n in range(12)]
OWN = {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"}
CITY = {"name": "city", "active": True, "dtype": "str", "type": "categorical"}


def as_times(moments, form):
    """Times as files have them: of the log (a flat list), or of histories (a list of lists)."""
    nested = bool(moments) and isinstance(moments[0], list)
    kinds = {"datetime": pl.Datetime("ms"), "date": pl.Date, "text": pl.String, "s": pl.Int64, "ms": pl.Int64,
             "count": pl.Int64}  # fmt: skip

    def one(moment):
        if form == "datetime":
            return moment
        if form == "date":
            return moment.date()
        if form == "text":
            return moment.isoformat(sep=" ")
        seconds = int((moment - datetime(1970, 1, 1)).total_seconds())
        return {"s": seconds, "ms": 1000 * seconds, "count": seconds - 1_700_000_000}[form]

    values = [[one(m) for m in row] if nested else one(row) for row in moments] if nested else list(map(one, moments))
    return pl.Series(values, dtype=pl.List(kinds[form]) if nested else kinds[form])


def moments(rng, count):
    return [START + timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 40 * 86_400, count))]


def histories(rng, rows, items):
    return [list(rng.choice([*items, "unknown"], rng.integers(0, 8))) for _ in range(rows)]


def beside(rng, lists, values):
    return [[values[k] for k in rng.integers(0, len(values), len(one))] for one in lists]


@st.composite
def logs(draw):
    form = draw(st.sampled_from(["datetime", "date", "text", "s", "ms", "count"]))
    times_of = [name for name in ("age", "weekday", "hour") if form != "count" or name == "age"]
    features = draw(st.lists(st.sampled_from([*times_of, "page", "dwell"]), min_size=1, unique=True))
    return form, features, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**16))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs())
def test_new_samples_of_a_log(tmp_path_factory, made):
    form, features, shown, two_kinds, seed = made
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("log")
    events = 80
    log = pl.DataFrame(
        {
            "user": rng.choice(USERS, events),
            "item_id": rng.choice(ITEMS, events),
            "when": as_times(moments(rng, events), form),
            "label": np.arange(events) % 2,
            "city": rng.choice(["x", "y"], events),
            "page": rng.choice(["home", "cart", None], events).tolist(),
            "dwell": [None if x < 1 else x for x in rng.exponential(9, events).round(1).tolist()],
            "kind": rng.choice(["click", "buy"], events),
        }
    )
    event_cols = [{"name": name} for name in features]
    for column in event_cols:
        column |= {"bins": 3} if column["name"] == "dwell" else {}
        column |= {"target": column["name"]} if shown and column["name"] in ("page", "dwell") else {}
    kinds = {"behaviour": "kind", "behaviours": ["click", "buy"]} if two_kinds else {}
    params = {
        "dataset_id": "Log", "data_root": str(folder), "max_len": 4, "event_cols": event_cols, "history": "all",
        "feature_cols": [OWN, CITY], "label_col": LABEL,
        "interactions": {"file": "log", "user": "user", "item": "item_id", "time": "when", "label": "label", **kinds},
    }  # fmt: skip
    store = build_entry(params, frames={"interactions": log})
    names = {"history": "history", **dict.fromkeys(store.manifest.behaviours)}
    names = {name: name for name in names}
    rows = 10
    new = pl.DataFrame({"item_id": rng.choice([*ITEMS, "unknown"], rows), "city": rng.choice(["x", "z"], rows)})
    new = new.with_columns(as_times(moments(rng, rows), form).alias("when"))
    new = new.with_columns(
        page=pl.Series(rng.choice(["home", "new", None], rows).tolist(), dtype=pl.String),
        dwell=pl.Series([None if x < 1 else x for x in rng.exponential(9, rows).tolist()], dtype=pl.Float64),
    )
    given_events = {}
    for name in names:
        lists = histories(rng, rows, ITEMS)
        values = {
            name: pl.Series(lists, dtype=pl.List(pl.String)),
            f"{name}_time": as_times([moments(rng, len(one)) for one in lists], form),
            f"{name}_page": pl.Series(beside(rng, lists, ["home", "new", None]), dtype=pl.List(pl.String)),
            f"{name}_dwell": pl.Series(beside(rng, lists, [0.0, 3.5, 90.0, None]), dtype=pl.List(pl.Float64)),
        }
        new = new.with_columns(**values)
        read = {"time" if feature in ("age", "weekday", "hour") else feature for feature in features}
        given_events[name] = {key: f"{name}_{key}" for key in read}
    assert_as_predicted(store, params, new, folder / "new.parquet", histories=names, events=given_events, time="when")


@st.composite
def ready(draw):
    forms = st.sampled_from(["datetime", "text", "s", "ms"])
    return draw(forms), draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**16))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ready())
def test_new_samples_of_ready_files(tmp_path_factory, made):
    form, shown, two_kinds, seed = made
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("ready")

    def frame(rows, items):
        found = {
            "item_id": rng.choice(items, rows),
            "city": rng.choice(["x", "y"], rows),
            "label": np.arange(rows) % 2,
            "at": as_times(moments(rng, rows), form),
            "page": pl.Series(rng.choice(["home", "cart", "list", None], rows).tolist(), dtype=pl.String),
        }
        for name in ("clicks", "carts"):
            lists = [["i1", "i2"], *histories(rng, rows - 1, items)]
            found |= {
                name: pl.Series(lists, dtype=pl.List(pl.String)),
                f"{name}_at": as_times([moments(rng, len(one)) for one in lists], form),
                f"{name}_page": pl.Series(beside(rng, lists, ["home", "cart", None]), dtype=pl.List(pl.String)),
                f"{name}_price": pl.Series(beside(rng, lists, [1.5, 2.0, 7.0, None]), dtype=pl.List(pl.Float64)),
            }
        return pl.DataFrame(found)

    names = ["clicks", "carts"] if two_kinds else ["clicks"]

    def aligned(end):
        return {name: f"{name}_{end}" for name in names}

    event_cols = [
        {"name": "age", "history": aligned("at"), "target": "at", "bins": 4},
        {"name": "hour", "history": aligned("at"), **({"target": "at"} if shown else {})},
        {"name": "weekday", "history": {"clicks": "clicks_at"}},
        {"name": "page", "history": aligned("page"), **({"target": "page"} if shown else {})},
        {"name": "price", "history": {"clicks": "clicks_price"}, "bins": 2},
    ]
    params = {
        "dataset_id": "Ready", "data_root": str(folder), "max_len": 4, "event_cols": event_cols,
        "history_col": names, "feature_cols": [OWN, CITY], "label_col": LABEL,
    }  # fmt: skip
    train = frame(40, ITEMS)
    store = build_entry(params, frames={"train_data": train, "valid_data": train})
    given_events = {
        "history": {"time": "clicks_at", "page": "clicks_page", "price": "clicks_price"},
        "carts": {"time": "carts_at", "page": "carts_page"},
    }
    new, columns = frame(10, [*ITEMS, "unknown"]), dict(zip(["history", "carts"], names, strict=False))
    own = vocabulary(store, params)
    assert own.request_columns == (("city", "page") if shown else ("city",))
    arguments = {"histories": columns, "events": {name: given_events[name] for name in columns}}
    assert_as_predicted(store, params, new, folder / "new.parquet", **arguments, time="at")


def test_samples_of_a_script_come_encoded(tmp_path):
    rich_store.build(tmp_path)
    store = Store.open(tmp_path, "rich")
    rng, rows = np.random.default_rng(2), 12
    items = [None, *(f"sku-{n}" for n in range(1, 30)), "unknown"]
    lists = [[items[k] for k in rng.integers(0, len(items), n)] for n in rng.integers(0, 8, rows)]
    columns = {
        "item_id": [f"sku-{n}" for n in rng.integers(1, 30, rows)],
        "city": [*["Rome"] * 6, *["Paris"] * 6],
        "age": rng.integers(0, 17, rows),
        "page": rng.integers(0, 4, rows),
    }
    for name in ("history", *rich_store.BEHAVIOURS):
        columns |= {name: lists, f"{name}_age": beside(rng, lists, range(17)), f"{name}_page": beside(rng, lists, [1])}
    names = ["history", *rich_store.BEHAVIOURS]
    events = {name: {"age": f"{name}_age", "page": f"{name}_page"} for name in names}
    assert_as_predicted(
        store, {}, pl.DataFrame(columns), tmp_path / "new.parquet", histories={n: n for n in names}, events=events
    )
    own = vocabulary(store, {})
    with pytest.raises(RequestError, match="column 'age': 17 is not a code of 'age', 0 to 16"):
        own.context({"city": "Rome", "age": 17, "page": 1})


def test_constants_of_times_are_those_of_the_dataset():
    assert of_data.PER_DAY == times.PER_DAY
    assert dict(of_data._LIMITS) == times.LIMITS
    assert (times.COUNT, times.EPOCH_WEEKDAY) == (of_data.COUNT, of_data._EPOCH_WEEKDAY)
    for most in (0, 10**8 - 1, 10**8, 10**11 - 1, 10**11, 10**14, 10**17 - 1, 10**17, 2**62):
        assert times.unit_of(most) == (of_data.unit_of(most) or of_data.COUNT)


@pytest.mark.parametrize(
    "text",
    ["2024-02-29", "2024-02-29 12:30", "2024-02-29T12:30:15", "2024-02-29 12:30:15.5", "2024-02-29T12:30:15.123456Z",
     "2024-02-29T12:30:15+02:00", " 2024-02-29 12:30:15.1234567 ", "1709209815", "-5"],
)  # fmt: skip
def test_a_text_is_the_time_that_a_file_of_texts_has(text):
    reader = of_data.TimeReader("file")
    expected = reader.read(pl.Series([text]))
    unit = reader.clock.unit
    assert times.TimeForm().read([text], unit, "time").tolist() == expected.tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "d"])
def test_a_whole_number_after_2200_is_of_another_unit(unit):
    # 2200-12-31 is the 84,371st day after 1970-01-01.
    first = 84_371 * times.PER_DAY[unit]
    for form in (times.TimeForm(unit), times.TimeForm(unit, times.LIMITS.get(unit))):
        assert form.read([first - 1], unit, "time").tolist() == [first - 1]
        for value in (first, str(first)):
            message = (
                f"time: {first} is after the year 2200 in {unit}, the unit of the training data: give it in {unit}, "
                "or as an ISO date"
            )
            with pytest.raises(RequestError, match=message):
                form.read([0, value], unit, "time")
        # A date says what it means.
        if unit != "ns":
            assert form.read(["2300-01-01"], unit, "time").tolist() == [120_530 * times.PER_DAY[unit]]
    for form in (times.TimeForm(times.COUNT), times.TimeForm()):
        assert form.read([1, 10**7], None, "time").tolist() == [1, 10**7]


def test_dates_and_counts_are_not_compared():
    with pytest.raises(RequestError, match=r"time: 0 cannot be .*, which are dates: give a date such as 2026-01-31"):
        times.TimeForm().read([0], "s", "time")
    with pytest.raises(RequestError, match=r"time: '2026-01-31' cannot .*, which only count: give a whole number"):
        times.TimeForm(times.COUNT).read(["2026-01-31"], None, "time")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "d"])
def test_times_of_python_and_numpy(unit):
    per_day = times.PER_DAY[unit]
    moment = datetime(2024, 2, 29, 12, 0)
    expected = 19_782 * per_day + per_day // 2
    for value in (moment, moment.replace(tzinfo=UTC), np.datetime64(moment), "2024-02-29 12:00"):
        assert times.TimeForm().read([value], unit, "time").tolist() == [expected]
    assert times.TimeForm().read([date(2024, 2, 29)], unit, "time").tolist() == [19_782 * per_day]
