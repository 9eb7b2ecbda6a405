"""New samples of datasets that were built from entries: the same batches as those of the split, by the user's ids."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fuxictr_multimodal.api import build_dataset
from fuxictr_multimodal.config.of_settings import BASE
from fuxictr_multimodal.data.batch import join
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.raw_rows import Reading
from fuxictr_multimodal.training.experiment import Experiment
from tests.helpers import shop

USER = {"name": "user_id", "active": True, "dtype": "str", "type": "meta"}
COLUMNS = [
    USER,
    {"name": "device", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "country", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    {"name": "user_age", "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler",
     "source": "user", "preprocess": "copy_from(age)"},
    {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
]  # fmt: skip
LABEL = {"name": "click", "dtype": "float"}
AGES = [{"name": "age", "bins": 6}, {"name": "weekday"}, {"name": "hour"}]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return shop.write(tmp_path_factory.mktemp("shop"), events=1200)


@pytest.fixture
def opened(tmp_path, raw):
    """Build a dataset, and open what a model of it reads: its test split as one batch, and new samples as another."""

    def run(events="all", read=5, **changes):
        entry = {
            "dataset_id": "Shop", "data_root": str(tmp_path / "data"), "max_len": 5, "group_id": "user_id",
            "user_data": str(raw / "users.csv"), "item_data": str(raw / "items.parquet"), "feature_cols": COLUMNS,
            "label_col": LABEL, **changes,
        }  # fmt: skip
        entry = {key: value for key, value in entry.items() if value is not None}
        store = build_dataset(entry, overwrite=True)
        params = {**BASE, **entry, "model": "QIN", "model_id": "x", "batch_size": 50, "event_features": events}
        params["max_len"] = read
        experiment = Experiment.of(params, "x")
        feature_map = experiment.feature_map()

        def score(data, **options):
            path = data if isinstance(data, Path) else tmp_path / "new.parquet"
            if isinstance(data, pl.DataFrame):
                data.write_parquet(path)
            history_column = options.pop("history_column", None)
            reading = Reading(store, feature_map, **{"batch_size": 50, "max_len": read, **options})
            return new_samples(path, reading, params=experiment.params, history_column=history_column)

        return store, join([*experiment.split_loader("test", feature_map, "cpu")]), score

    return run


def log_entry(raw, **changes):
    interactions = {"file": str(raw / "log.parquet"), "user": "user_id", "item": "item_id", "time": "timestamp",
                    "label": "click"}  # fmt: skip
    return {"data_format": "parquet", "interactions": interactions | changes, "event_cols": AGES,
            "split": {"by": "time", "valid": 0.1, "test": 0.1}}  # fmt: skip


def samples_entry(raw):
    events = [{**event, "history": "click_times", "target": "timestamp"} for event in AGES]
    files = {f"{split}_data": str(raw / f"{split}.parquet") for split in ("train", "valid", "test")}
    return {"data_format": "parquet", **files, "history_col": "click_history", "event_cols": events}


def same_jagged(found, expected):
    assert found.values.tolist() == expected.values.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()
    for name, column in expected.events.items():
        assert found.events[name].tolist() == column.tolist(), name


def same(rows, expected):
    """The samples are those of the split: every feature, target and history, and the features of their events."""
    found = join([*rows])
    assert found.target.tolist() == expected.target.tolist()
    same_jagged(found.history, expected.history)
    assert found.behaviours.keys() == expected.behaviours.keys()
    for name, history in expected.behaviours.items():
        same_jagged(found.behaviours[name], history)
    for name, values in found.features.items():
        assert torch.equal(values, expected.features[name].to(values.dtype)), name
    assert {"device", "country", "user_age"} <= found.features.keys()


def test_user_item_and_time_are_enough_for_a_dataset_of_a_log(opened, raw, tmp_path):
    _, expected, score = opened(**log_entry(raw))
    test = shop.log(1200)[1080:].select("user_id", "item_id", "timestamp", "device")
    assert len(expected.history.events) == 3
    same(score(test), expected)
    # In another order, with the features of users, and as csv.
    order = np.random.default_rng(0).permutation(test.height)
    named = test.join(shop.users(), on="user_id", how="left")
    same(score(named[order]), expected.take(torch.from_numpy(order)))
    test.write_csv(tmp_path / "new.csv")
    same(score(tmp_path / "new.csv"), expected)
    assert score(tmp_path / "new.csv").columns(["item_id", "nothing"])["item_id"].equals(test["item_id"])
    assert score(test).columns(["ID", "user_id", "item_id"])["item_id"].to_list() == test["item_id"].to_list()


def test_an_experiment_that_reads_fewer_items_reads_the_newest_of_new_samples_too(opened, raw):
    store, expected, score = opened(read=3, **log_entry(raw))
    assert store.manifest.max_len == 5
    assert expected.history.lengths.max() == 3
    same(score(shop.log(1200)[1080:].select("user_id", "item_id", "timestamp", "device")), expected)


def test_a_log_that_went_on_gives_later_histories(opened, raw):
    _, _, score = opened(events=None, **log_entry(raw))
    log = shop.log(1200)
    last = log.filter(pl.col("click") == 1).group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(5))
    store_order = dict(last.iter_rows())
    users = sorted(store_order)[:20]
    new = pl.DataFrame({"user_id": [*users, "a new user"], "item_id": "sku-0001", "device": "phone"})
    rows = score(new)
    found = join([*rows])
    ids = shop.items()["item_id"]
    for row, user in enumerate(users):  # without a time, all that the user did counts
        history = found.history.take(range(row, row + 1)).values.tolist()
        assert [ids[code - 1] for code in history] == store_order[user]
    assert found.history.lengths[-1] == 0


def test_histories_that_come_with_samples_of_a_log(opened, raw):
    _, expected, score = opened(**log_entry(raw))
    ready = shop.samples(1200)[1080:].rename({"click_history": "history", "click_times": "history_time"})
    same(score(ready), expected)
    with pytest.raises(DataError, match="column 'history_time' is missing"):
        score(ready.drop("history_time"))
    renamed = ready.rename({"history": "seen", "history_time": "seen_time"})
    same(score(renamed, history_column="seen"), expected)


def test_kinds_of_events_have_a_history_each(opened, raw, tmp_path):
    shop.log(1200, kinds=True).write_parquet(tmp_path / "kinds.parquet")
    entry = log_entry(raw)
    entry["interactions"] = {
        "file": str(tmp_path / "kinds.parquet"), "user": "user_id", "item": "item_id", "time": "timestamp",
        "behaviour": "action", "target_behaviour": "buy", "behaviours": ["buy", "cart"],
    }  # fmt: skip
    entry["event_cols"] = [*AGES, {"name": "dwell_time", "bins": 4}]
    entry["negatives"] = {"ratio": 1}
    entry["label_col"] = LABEL
    store, expected, score = opened(**entry)
    assert [*expected.behaviours] == ["cart"]
    assert int(expected.behaviours["cart"].lengths.sum()) > 0
    # The split has a negative behind each positive, of the same time.
    with store.reader("test") as reader:
        positive = np.flatnonzero(reader.read("click", 0, reader.rows))
    test = shop.log(1200, kinds=True).filter(pl.col("action") == "buy").tail(len(positive))
    same(score(test), expected.take(torch.from_numpy(positive)))


def test_samples_score_as_those_of_the_split(opened, raw, tmp_path):
    _, expected, score = opened(**samples_entry(raw))
    test = pl.read_parquet(raw / "test.parquet")
    same(score(test.drop("click")), expected)
    text = test.with_columns(
        pl.col("click_history").list.join("^"), pl.col("click_times").cast(pl.List(pl.String)).list.join("^")
    )
    text.write_csv(tmp_path / "new.csv")
    same(score(tmp_path / "new.csv"), expected)
    same(score(test.rename({"click_history": "seen"}), history_column="seen"), expected)


@pytest.mark.parametrize("form", ["log", "samples", "lists of the log"])
def test_whole_numbers_are_in_the_unit_that_the_build_recognised(opened, raw, tmp_path, form):
    # Microseconds by their greatest; those of the first rows alone look like milliseconds.
    times, first = (pl.col("timestamp") - 1_699_999_000) * 10**9, 20
    lists = pl.col("click_times").list.eval((pl.element() - 1_699_999_000) * 10**9)
    ready = shop.samples(1200).with_columns(timestamp=times, click_times=lists)
    log = shop.log(1200).with_columns(timestamp=times)
    if form == "samples":
        for split, start, stop in (("train", 0, 960), ("valid", 960, 1080), ("test", 1080, 1200)):
            ready[start:stop].write_parquet(tmp_path / f"{split}.parquet")
        store, expected, score = opened(**samples_entry(tmp_path))
        assert store.manifest.facts["time_units"]["age"] == {"history": "us", "target": "us"}
    else:
        log.write_parquet(tmp_path / "log.parquet")
        store, expected, score = opened(**log_entry(tmp_path))
        assert store.manifest.facts["time_unit"] == "us"
    new = log if form == "log" else ready
    if form == "lists of the log":
        new = new.rename({"click_history": "history", "click_times": "history_time"})
    assert new["timestamp"][first - 1] < 10**14 < new["timestamp"][-1]
    every = join([*score(new)])
    same_jagged(every.take(torch.arange(1080, 1200)).history, expected.history)
    same(score(new[:first]), every.take(torch.arange(first)))
    with pytest.raises(DataError, match=r"row \d+: .* is too great for a time in us, the unit of the dataset's times"):
        list(score(new[-9:].with_columns(pl.col("timestamp") * 1000)))


def test_event_features_that_no_model_reads_need_not_be_there(opened, raw):
    _, expected, score = opened(events=None, **samples_entry(raw))
    assert expected.history.events == {}
    same(score(pl.read_parquet(raw / "test.parquet").drop("click_times", "timestamp")), expected)


def test_unknown_ids_are_counted_and_left_out_before_histories_are_cut(opened, raw):
    store, _, score = opened(events=None, **samples_entry(raw))
    known = shop.items()["item_id"].to_list()
    new = pl.DataFrame({
        "user_id": ["u001", "nobody"], "item_id": [known[3], "sku-xxxx"], "device": ["phone", "watch"],
        "click_history": [[*known[:5], "gone", known[7]], ["gone"]],
    })  # fmt: skip
    rows = score(new)
    batch = join([*rows])
    codes = store.ids("item_id").codes(pl.Series([*known[1:5], known[7]]))
    assert batch.history.values.tolist() == codes.tolist()
    assert batch.target.tolist() == [4, 0]
    assert rows.unknown == {"item_id": 1, "click_history": 2, "device": 1, "country": 1}
    assert rows.cut_histories == 1


def test_samples_without_items(opened, raw, tmp_path):
    columns = [*COLUMNS[:4], {"name": "item_id", "active": True, "dtype": "str", "type": "categorical"},
               {"name": "dwell_time", "active": True, "dtype": "float", "type": "numeric"}]  # fmt: skip
    frame = shop.log(600)
    frame.write_parquet(tmp_path / "flat.parquet")
    files = {"data_format": "parquet", "train_data": str(tmp_path / "flat.parquet"), "item_data": None}
    _, expected, score = opened(feature_cols=columns, split={"by": "order"}, **files)
    same(score(frame[540:].drop("click")), expected)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (["item_id"], "column 'item_id' is missing"),
        (["user_id"], "column 'user_id' is missing"),
        (["device"], "column 'device' is missing"),
        (["timestamp"], "column 'timestamp' is missing"),  # for the age of the events
    ],
)
def test_columns_that_are_missing(opened, raw, drop, message):
    _, _, score = opened(**log_entry(raw))
    with pytest.raises(DataError, match=message):
        score(shop.log(1200)[1100:].drop(drop))


DWELL = [{"name": "dwell_time", "bins": 4, "target": "dwell_time"}]
GIVEN = {"history": ["sku-0001^sku-0002^sku-0003", "sku-0001"], "history_dwell_time": ["1.0^^200.5", ""]}


def test_a_gap_in_a_given_history_is_a_missing_value(opened, raw, tmp_path):
    _, _, score = opened(**{**log_entry(raw), "event_cols": DWELL})
    new = shop.log(1200)[:2].drop("click").with_columns(**{k: pl.Series(v) for k, v in GIVEN.items()})
    new.write_csv(tmp_path / "new.csv")
    lists = new.with_columns(
        pl.col("history").str.split("^"), pl.Series("history_dwell_time", [[1.0, None, 200.5], [None]])
    )
    found, expected = join([*score(tmp_path / "new.csv")]), join([*score(lists)])
    same_jagged(found.history, expected.history)
    assert found.history.events["dwell_time"].tolist() == [1, 0, 4, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dwell_time": ["1.5", "abc"]}, r"column 'dwell_time', row 1 \(counted from 0\): 'abc' is no number"),
        ({"dwell_time": [[1.5], []]}, r"column 'dwell_time' holds List\(Float64\), but an event feature is one number"),
        (
            {**GIVEN, "history_dwell_time": ["1^2^3", "x"]},
            r"column 'history_dwell_time', row 1 \(counted from 0\): 'x' is no number",
        ),
        ({"timestamp": pl.Series([2**64 - 1, 1], dtype=pl.UInt64)}, r"column 'timestamp', row 0: 1844\d+ is no time"),
    ],
)
def test_values_of_event_features_that_are_wrong(opened, raw, changes, message):
    _, _, score = opened(**{**log_entry(raw), "event_cols": DWELL})
    new = shop.log(1200)[:2].drop("click").with_columns(**{k: pl.Series(v) for k, v in changes.items()})
    with pytest.raises(DataError, match=message):
        list(score(new))


def test_a_log_that_is_gone(opened, raw, tmp_path):
    shop.log(1200).write_parquet(tmp_path / "log.parquet")
    _, _, score = opened(**log_entry(raw, file=str(tmp_path / "log.parquet")))
    (tmp_path / "log.parquet").unlink()
    message = r"new\.parquet: there is no column of histories \(item_seq or history\), .* read off the log: .*log"
    with pytest.raises(DataError, match=message):
        score(shop.log(1200)[1100:])
    assert score(
        shop.samples(1200)[1100:].rename({"click_history": "history", "click_times": "history_time"})
    ).num_samples


def test_ids_of_a_dataset_that_a_script_built(tmp_path):
    """Text ids that a script handed to the builder are those of new samples, too; csv or parquet."""
    items = IdMap.of(pl.Series(["a", "b", "c"]), padding=True)
    columns = [
        {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 4},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    ]
    with StoreBuilder(
        dataset_id="Own", data_root=tmp_path, feature_cols=columns, label_col=LABEL, max_len=3, recipe={},
        group_id=None, progress=False,
    ) as builder:  # fmt: skip
        builder.write_ids({"item_id": items})
        builder.write_items({"item_id": np.arange(4)})
        for split in ("train", "valid", "test"):
            part = {"level": np.array([1, 2]), "item_id": np.array([1, 3]), "click": np.array([0, 1])}
            builder.append(split, part, np.array([2, 1, 3]), np.array([0, 1, 3]))
        builder.finish(split_method="by hand")
    params = {**BASE, "dataset_id": "Own", "data_root": str(tmp_path), "model": "QIN", "model_id": "x", "max_len": 3,
              "batch_size": 9, "feature_cols": columns, "label_col": LABEL, "data_format": "h5"}  # fmt: skip
    experiment = Experiment.of(params, "x")
    feature_map = experiment.feature_map()
    expected = join([*experiment.split_loader("test", feature_map, "cpu")])

    new = pl.DataFrame({"level": [1, 2], "item_id": ["a", "c"], "history": [["b"], ["a", "c"]]})
    new.write_parquet(tmp_path / "new.parquet")
    new.with_columns(pl.col("history").list.join("^")).write_csv(tmp_path / "new.csv")
    for name in ("new.parquet", "new.csv"):
        reading = Reading(experiment.store, feature_map, batch_size=9, max_len=3)
        rows = new_samples(tmp_path / name, reading, params=params)
        found = join([*rows])
        assert found.target.tolist() == expected.target.tolist() == [1, 3]
        same_jagged(found.history, expected.history)
        assert found.features["level"].tolist() == [1, 2]
        assert rows.columns(["item_id"])["item_id"].to_list() == ["a", "c"]
