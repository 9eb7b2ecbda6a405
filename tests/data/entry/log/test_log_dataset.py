"""A log of events to a dataset, read back and compared with a computation in polars; files of every kind."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.events import EventFeature
from fuxictr_multimodal.data.entry.log import pieces as log_pieces
from fuxictr_multimodal.data.entry.log.dataset import build_log
from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.data.store.store import Store
from tests.helpers.log_dataset import build, entry_of, histories_in_polars, make_raw, samples_of, written


@pytest.fixture
def raw() -> dict[str, pl.DataFrame]:
    return make_raw()


def test_the_dataset_reads_back_as_polars_computes_it(raw, tmp_path):
    store = build(entry_of(written(tmp_path, raw)), tmp_path)
    log = raw["log"]
    found = samples_of(store)
    wanted = histories_in_polars(log, 5).join(raw["users"], on="user", how="left")
    wanted = wanted.join(raw["items"], left_on="item", right_on="item_id", how="left").sort("row")
    times = log["ts"].sort()
    first, second = times[round(0.8 * len(log)) - 1], times[round(0.9 * len(log)) - 1]
    split = pl.when(pl.col("ts") <= first).then(pl.lit("train"))
    split = split.when(pl.col("ts") <= second).then(pl.lit("valid")).otherwise(pl.lit("test"))
    wanted = wanted.with_columns(split=split, label=(pl.col("rating") >= 3).cast(pl.UInt8))
    wanted = pl.concat([wanted.filter(split=name) for name in ("train", "valid", "test")])
    same = {"user_id": "user", "item_id": "item"}
    for name in ("split", "user_id", "item_id", "ts", "label", "brand", "device", "city", "history"):
        assert found[name].to_list() == wanted[same.get(name, name)].to_list(), name
    assert found["hours"].to_list() == pytest.approx(wanted["hours"].to_list(), abs=1e-6)
    assert store.ids("item_id").ids.to_list() == [None, *raw["items"]["item_id"]]
    store.verify()


@pytest.mark.parametrize("kind", ["csv", "parts", "frames"])
def test_files_of_every_kind_give_the_same_samples(raw, tmp_path, kind):
    parquet = samples_of(build(entry_of(written(tmp_path, raw)), tmp_path / "a"))
    (tmp_path / "b").mkdir()
    if kind == "csv":
        store = build(entry_of(written(tmp_path / "b", raw, "csv"), kind="csv"), tmp_path / "b")
    elif kind == "parts":
        paths = written(tmp_path / "b", raw)
        (tmp_path / "b" / "parts").mkdir()
        for part in range(3):
            raw["log"][200 * part : 200 * part + 200].write_parquet(tmp_path / "b" / "parts" / f"part-{part}.parquet")
        store = build(entry_of({**paths, "log": str(tmp_path / "b" / "parts")}), tmp_path / "b")
    else:
        frames = {"interactions": raw["log"], "item_data": raw["items"], "user_data": raw["users"]}
        entry = Entry.of(entry_of({"log": "x", "items": "x", "users": "x"}), frames)
        build_log(entry, data_root=tmp_path / "b", recipe={}, overwrite=False, progress=False)
        store = Store.open(tmp_path / "b", "Shop")
    assert samples_of(store).equals(parquet)


def test_rows_without_a_user_or_an_item_are_left_out_and_counted(raw, tmp_path, capsys):
    log = raw["log"]
    holes = pl.DataFrame({"row": [5, 6, 7], "user": [None, None, "user 1"], "item": ["item-1", None, None]})
    whole = samples_of(build(entry_of(written(tmp_path, raw)), tmp_path / "a"))
    gaps = log[:3].with_columns(user=holes["user"], item=holes["item"])
    (tmp_path / "b").mkdir()
    paths = written(tmp_path / "b", {**raw, "log": pl.concat([log[:100], gaps, log[100:]])})
    capsys.readouterr()
    assert samples_of(build(entry_of(paths), tmp_path / "b")).equals(whole)
    printed = capsys.readouterr().out
    assert "2 rows without 'user' are left out\n1 rows without 'item' are left out" in printed
    assert "times go from 2023-11-14 22:00:00 to 2023-11-19" in printed
    assert "(taken as seconds: set `time_unit` if they are not)" in printed


def test_items_and_users_that_their_tables_lack_are_told_and_have_missing_features(raw, tmp_path, capsys):
    few = {**raw, "items": raw["items"][:-2], "users": raw["users"][1:]}
    store = build(entry_of(written(tmp_path, few)), tmp_path)
    printed = capsys.readouterr().out
    assert "items.parquet lacks 2 items that occur in the log: they have an id and no features" in printed
    assert "users.parquet lacks 1 of 20 users of the log: their features are missing values" in printed
    found = samples_of(store)
    gone = ["item-78", "item-79"]
    assert sorted(store.ids("item_id").ids.to_list()[-2:]) == gone
    assert {*found.filter(pl.col("item_id").is_in(gone))["brand"]} == {None}
    assert {*found.filter(pl.col("user_id") == "user 0")["city"]} == {None}


def test_without_item_data_the_log_shows_the_items_features(raw, tmp_path):
    log = raw["log"].join(raw["items"], left_on="item", right_on="item_id", how="left")
    store = build(entry_of(written(tmp_path, {**raw, "log": log}), item_data=None), tmp_path)
    assert store.ids("item_id").ids.to_list() == [None, *log["item"].unique(maintain_order=True)]
    whole = samples_of(build(entry_of(written(tmp_path, raw)), tmp_path / "b"))
    assert samples_of(store).equals(whole)


def test_negatives_weights_and_event_features_in_the_dataset(raw, tmp_path):
    store = build(
        entry_of(
            written(tmp_path, raw),
            interactions={"label": None, "positive": None},
            negatives={"ratio": 2, "by": "popularity", "seed": 4},
            weight_col="weight",
            event_cols=[{"name": "age", "bins": 4}, {"name": "weekday"}, {"name": "rating", "embedding_dim": 4}],
        ),
        tmp_path,
    )
    found, log = samples_of(store), raw["log"]
    assert len(found) == 3 * len(log)
    groups = [found[start : start + 3] for start in range(0, len(found), 3)]
    seen = {user: {*items} for user, items in log.group_by("user").agg("item").iter_rows()}
    train = {*found.filter(split="train", label=1)["item_id"]}
    for group in groups:
        assert group["label"].to_list() == [1, 0, 0]
        shared = group.drop("label", "item_id", "brand")
        assert len(shared.unique()) == 1
        for item in group["item_id"][1:]:
            assert item in train - seen[group["user_id"][0]]
    positives = found.filter(label=1)
    brands = dict(raw["items"].iter_rows())
    assert found["brand"].to_list() == [brands[item] for item in found["item_id"]]
    weights = positives.select("user_id", "item_id", "ts", pl.col("weight").cast(pl.Float64).round(2))
    assert sorted(weights.rows()) == sorted(log.select("user", "item", "ts", "weight").rows())
    manifest = store.manifest
    assert manifest.weight_col == "weight"
    assert manifest.negative_sampling["by"] == "popularity"
    assert [column.name for column in manifest.event_columns] == ["age", "weekday", "rating"]
    stored = manifest.facts["event_features"]
    features = {name: EventFeature.from_json(name, stored[name]) for name in stored}
    sizes = {c["name"]: c["vocab_size"] for c in manifest.feature_cols if c.get("source") == "event"}
    assert sizes == {name: feature.vocab_size for name, feature in features.items()}
    days = features["weekday"].codes(found["ts"])
    assert found["weekday"].to_list() == days.tolist() == ((found["ts"] // 86_400 + 3) % 7 + 1).to_list()
    assert next(c for c in manifest.feature_cols if c["name"] == "rating")["embedding_dim"] == 4


def test_further_behaviours_are_in_the_dataset(raw, tmp_path):
    actions = np.random.default_rng(0).choice(["view", "cart", "buy"], len(raw["log"]))
    raw["log"] = raw["log"].with_columns(action=pl.Series(actions))
    store = build(
        entry_of(
            written(tmp_path, raw),
            interactions={
                "label": None, "positive": None, "behaviour": "action", "target_behaviour": "buy",
                "behaviours": ["view", "cart"],
            },
            negatives={"ratio": 1},
        ),
        tmp_path,
    )  # fmt: skip
    assert store.manifest.behaviours == ["cart"]
    with store.reader("test") as reader:
        carts = reader.read_jagged(0, reader.rows, behaviour="cart")
        users, times = reader.read("user_id", 0, reader.rows), reader.read("ts", 0, reader.rows)
    items, own = store.ids("item_id"), store.ids("user_id").originals(users)
    for row in range(0, len(times), 7):
        past = raw["log"].filter(user=own[row], action="cart").filter(pl.col("ts") < times[row])
        wanted = past.sort("ts", maintain_order=True)["item"].tail(5).to_list()
        assert items.originals(carts.values[carts.offsets[row] : carts.offsets[row + 1]]).to_list() == wanted


def test_the_same_entry_gives_the_same_bytes(raw, tmp_path):
    entry = entry_of(written(tmp_path, raw), negatives={"ratio": 1, "seed": 2}, event_cols=[{"name": "age"}])
    first, second = build(entry, tmp_path / "a"), build(entry, tmp_path / "b")
    assert first.manifest == second.manifest


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_may_be_numbers_and_columns_of_any_name(raw, tmp_path, kind, monkeypatch):
    """Whole numbers as ids, a fitted user column, times as text, and a path that is relative."""
    number = pl.col("user").str.extract(r"(\d+)").cast(pl.Int64) * 10**10
    movie = pl.col("item").str.extract(r"(\d+)").cast(pl.Int64) - 7
    log = raw["log"].select(
        number.alias("uid"),
        movie.alias("movie"),
        pl.from_epoch("ts").dt.strftime("%Y-%m-%d %H:%M").alias("when"),
        "rating",
    )
    paths = written(tmp_path, {"log": log}, kind)
    monkeypatch.chdir(tmp_path)
    columns = [
        {"name": "uid", "active": True, "dtype": "int", "type": "meta"},
        {"name": "who", "active": True, "dtype": "int", "type": "categorical", "preprocess": "copy_from(uid)"},
        {"name": "movie", "active": True, "dtype": "int", "type": "categorical"},
    ]
    entry = {
        **{key: value for key, value in entry_of({**paths, "items": "", "users": ""}, kind=kind).items()
           if key not in ("item_data", "user_data")},
        "interactions": {"file": f"log.{kind}", "user": "uid", "item": "movie", "time": "when", "label": "rating"},
        "split": {"by": "user", "valid": 0.2, "test": 0.2},
        "feature_cols": columns,
        "group_id": "uid",
    }  # fmt: skip
    entry["interactions"]["positive"] = ">= 3"
    store = build(entry, tmp_path)
    with store.reader("train") as train:
        users, who, items = (train.read(name, 0, train.rows) for name in ("uid", "who", "movie"))
        values, offsets = train.read_history(0, train.rows)
    assert store.manifest.item_col == "movie"
    assert store.ids("uid") is None
    mine = log.filter(pl.col("uid").is_in({*users.tolist()}))
    assert users.tolist() == mine["uid"].to_list()
    assert store.ids("movie").originals(items).to_list() == mine["movie"].to_list()
    assert len({*zip(users.tolist(), who.tolist(), strict=True)}) == len({*users.tolist()}) == len({*who.tolist()})
    renamed = raw["log"].with_columns(user=number)
    wanted = histories_in_polars(renamed, 5).filter(pl.col("user").is_in({*users.tolist()}))["history"]
    found = [store.ids("movie").originals(values[a:b]).to_list() for a, b in pairwise(offsets)]
    assert found == [[int(item[5:]) - 7 for item in items] for items in wanted]


def test_the_pieces_in_which_a_log_is_read_make_no_difference(raw, tmp_path, monkeypatch):
    users = raw["log"]["user"].set(pl.Series([row % 11 == 3 or 200 <= row < 320 for row in range(600)]), None)
    log = raw["log"].with_columns(user=users).join(raw["items"], left_on="item", right_on="item_id", how="left")
    entry = entry_of(
        written(tmp_path, {**raw, "log": log}),
        item_data=None,
        negatives={"ratio": 1},
        weight_col="weight",
        event_cols=[{"name": "age", "bins": 4}, {"name": "rating"}],
    )
    whole = build(entry, tmp_path / "a")
    plain = Table.chunks
    monkeypatch.setattr(Table, "chunks", lambda self, columns=None, *, rows=0, task="": plain(self, columns, rows=37))
    monkeypatch.setattr(log_pieces, "PIECE_ROWS", 20)
    small = build(entry, tmp_path / "b")
    assert small.manifest == whole.manifest
    assert samples_of(small).filter(label=1).height == (log["user"].is_not_null() & (log["rating"] >= 3)).sum()
