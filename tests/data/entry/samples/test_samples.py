"""Samples that are ready: what is read back equals the user's tables, by an independent computation."""

from itertools import pairwise

import numpy as np
import polars as pl

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import read_item_table
from tests.helpers.ready_samples import COLUMNS, MAX_LEN, entry_of, make_items, make_rows, make_users


def histories_of(store, split):
    """Histories of a split as lists of the user's ids."""
    reader, ids = store.reader(split), store.ids("item_id")
    values, offsets = reader.read_history(0, reader.rows)
    names = ids.originals(values).to_list()
    return [names[start:stop] for start, stop in pairwise(offsets)]


def column(store, split, name):
    reader = store.reader(split)
    return reader.read(name, 0, reader.rows)


def tokens_of(store, name):
    """The token of each code of a fitted column."""
    import json

    vocabulary = json.loads((store.dir / "feature_vocab.json").read_text())[name]
    return {code: token for token, code in vocabulary.items()}


def test_all_values_are_those_of_the_tables(shop):
    store = build_entry(entry_of(shop))
    items, users = make_items(), make_users()
    known = dict(zip(users["user_id"], users["city"], strict=True))
    ids = store.ids("item_id")
    assert ids.ids[1:31].to_list() == items["item_id"].to_list()
    for seed, (split, rows) in enumerate((("train", 200), ("valid", 50), ("test", 60))):
        given = make_rows(seed, rows)
        assert column(store, split, "label").tolist() == given["label"].to_list()
        assert ids.originals(column(store, split, "item_id")).to_list() == given["item_id"].to_list()
        wanted = [[x for x in clicks or [] if x is not None][-MAX_LEN:] for clicks in given["clicks"].to_list()]
        assert histories_of(store, split) == wanted
        paid = given["price_paid"].fill_null(0).to_numpy().astype(np.float32)
        assert (column(store, split, "price_paid") == paid).all()
        people = store.ids("user_id").originals(column(store, split, "user_id")).to_list()
        assert people == given["user_id"].fill_null("").to_list()
        hours = tokens_of(store, "hour")
        assert [hours[code] for code in column(store, split, "hour")] == [
            str(hour) if str(hour) in hours.values() else "__OOV__" for hour in given["hour"]
        ]
        cities = tokens_of(store, "city")
        assert [cities[code] for code in column(store, split, "city")] == [
            known.get(user, "__OOV__") for user in given["user_id"]
        ]


def test_the_item_table_is_that_of_the_file(shop):
    store = build_entry(entry_of(shop))
    table, items = read_item_table(store.dir), make_items()
    rows = 1 + items.height
    brands, tags = tokens_of(store, "brand"), tokens_of(store, "tags")
    shown = make_rows(0, 200)["item_id"].to_list()
    in_train = {brand for item, brand in zip(items["item_id"], items["brand"], strict=True) if item in shown}
    assert [brands[code] for code in table["brand"][1:rows]] == [
        brand if brand in in_train and brand is not None else "__OOV__" for brand in items["brand"]
    ]
    for row, wanted in enumerate(items["tags"].to_list(), 1):
        assert [tags[code] for code in table["tags"][row] if code] == wanted
    wanted = np.array([vector or [0] * 5 for vector in items["vector"].to_list()], dtype=np.float32)
    assert (table["vector"][1:rows] == wanted).all()
    # Items that only the samples know have an id and no features.
    assert store.manifest.items == rows + 3
    assert not table["vector"][rows:].any()
    assert not table["tags"][rows:].any()


def test_csv_and_frames_give_the_same_bytes(shop, capsys):
    first = build_entry(entry_of(shop))
    folder = shop / "csv"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        frame = pl.read_parquet(shop / f"{name}.parquet")
        frame.with_columns(pl.col("clicks").list.eval(pl.element().fill_null("")).list.join("^")).write_csv(
            folder / f"{name}.csv"
        )
    files = {f"{split}_data": str(folder / f"{split}.csv") for split in ("train", "valid", "test")}
    as_csv = build_entry(entry_of(shop, data_format="csv", data_root=str(folder), **files))
    frames = {f"{split}_data": pl.read_parquet(shop / f"{split}.parquet") for split in ("train", "valid", "test")}
    frames["item_data"], frames["user_data"] = make_items().to_pandas(), make_users().to_pandas()
    plain = dict.fromkeys(("train_data", "valid_data", "test_data", "item_data", "user_data", "data_format"))
    as_frames = build_entry(entry_of(shop, data_root=str(shop / "frames"), **plain), frames=frames)
    assert first.manifest.files == as_csv.manifest.files == as_frames.manifest.files
    assert "items.parquet lacks 3 items that occur (3 as targets)" in capsys.readouterr().out


def test_items_come_from_the_samples_where_there_is_no_table(shop, capsys):
    features = make_items()
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(shop / f"{split}.parquet").join(
            features, on="item_id", how="left", maintain_order="left"
        )
        if split == "train":
            # One sample contradicts the others of its item, and comes last.
            last = frame.with_row_index("n").filter(pl.col("brand").is_not_null()).row(-1, named=True)
            frame = (
                frame.with_row_index("n")
                .with_columns(brand=pl.when(pl.col("n") == last["n"]).then(pl.lit("other")).otherwise("brand"))
                .drop("n")
            )
        frame.write_parquet(shop / f"{split}.parquet")
    store = build_entry(entry_of(shop, item_data=None))
    table, ids, brands = read_item_table(store.dir), store.ids("item_id"), tokens_of(store, "brand")
    wanted = dict(zip(features["item_id"], features["brand"], strict=True))
    wanted[last["item_id"]] = "other"
    for item, code in zip(ids.ids[1:], table["brand"][1:], strict=True):
        assert brands[code] == (wanted.get(item) or "__OOV__")
    given = dict(zip(features["item_id"], features["vector"].to_list(), strict=True))
    seen = {x for split in ("train", "valid", "test") for x in pl.read_parquet(shop / f"{split}.parquet")["item_id"]}
    for row, item in enumerate(ids.ids[1:], 1):
        expected = given.get(item) if item in seen else None
        assert table["vector"][row].tolist() == np.float32(expected or [0] * 5).tolist()
    out = capsys.readouterr().out
    assert f"brand: 1 items have several values in the training samples, such as '{last['item_id']}'" in out


def test_items_may_have_no_features(shop):
    columns = [c for c in COLUMNS if c["name"] in ("user_id", "item_id")]
    store = build_entry(entry_of(shop, item_data=None, user_data=None, feature_cols=columns))
    assert read_item_table(store.dir)["item_id"].tolist() == list(range(store.manifest.items))


def test_several_histories_and_weights(shop):
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(shop / f"{split}.parquet")
        frame = frame.with_columns(carts=pl.col("clicks").list.reverse())
        if split == "train":
            frame = frame.with_columns(weight=pl.col("hour") + 0.5)
        frame.write_parquet(shop / f"{split}.parquet")
    store = build_entry(entry_of(shop, history_col=["clicks", "carts"], weight_col="weight"))
    assert store.manifest.behaviours == ["carts"]
    given = make_rows(0, 200)
    assert (column(store, "train", "weight") == given["hour"].to_numpy() + 0.5).all()
    assert histories_of(store, "train") == histories_of(
        build_entry(entry_of(shop, data_root=str(shop / "one"))), "train"
    )


def test_event_features_go_with_their_items(shop):
    rng = np.random.default_rng(3)
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(shop / f"{split}.parquet")
        now = rng.integers(1_700_000_000, 1_800_000_000, frame.height)
        lengths = frame["clicks"].list.len().fill_null(0).to_list()
        frame = frame.with_columns(
            time=pl.Series(now),
            times=pl.Series(
                [sorted((t - rng.integers(1, 10**7, n)).tolist()) for t, n in zip(now, lengths, strict=True)]
            ),
            dwell=pl.Series([rng.random(n).tolist() for n in lengths]),
            pages=pl.Series([[f"page {x}" for x in rng.integers(0, 3, n)] for n in lengths]),
            page=pl.Series([f"page {x}" for x in rng.integers(0, 4, frame.height)]),
        )
        frame.write_parquet(shop / f"{split}.parquet")
    events = [
        {"name": "age", "history": "times", "target": "time", "bins": 8},
        {"name": "weekday", "history": "times", "target": "time"},
        {"name": "dwell", "history": "dwell", "target": None, "bins": 4},
        {"name": "where", "history": "pages", "target": "page"},
    ]
    store = build_entry(entry_of(shop, event_cols=events))
    frame = pl.read_parquet(shop / "train.parquet")
    kept = frame.select("time", "page", pl.col("clicks", "times", "dwell", "pages").fill_null([])).with_row_index("row")
    flat = kept.explode("clicks", "times", "dwell", "pages", empty_as_null=True).drop_nulls("clicks")
    flat = flat.group_by("row", maintain_order=True).tail(MAX_LEN)
    reader = store.reader("train")
    values, _ = reader.read_history(0, reader.rows)
    assert store.ids("item_id").originals(values).to_list() == flat["clicks"].to_list()
    stored = store.manifest.facts["event_features"]
    found = {name: read_events(reader, name) for name in stored}
    days = pl.from_epoch(flat["times"], time_unit="s")
    assert (found["weekday"] == days.dt.weekday().to_numpy()).all()
    for name, numbers in (("age", flat["time"] - flat["times"]), ("dwell", flat["dwell"])):
        boundaries = np.array(stored[name]["boundaries"])
        assert len(boundaries) == {"age": 7, "dwell": 3}[name]
        assert (found[name] == 1 + (numbers.to_numpy()[:, None] >= boundaries).sum(axis=1)).all()
        assert np.ptp(np.bincount(found[name])[1:]) <= 2
    pages = ["", *stored["where"]["vocabulary"]]
    assert [pages[code] for code in found["where"]] == flat["pages"].to_list()
    now = pl.from_epoch(frame["time"], time_unit="s")
    assert (column(store, "train", "weekday") == now.dt.weekday().to_numpy()).all()
    targets = column(store, "train", "where")
    assert [pages[code] if code < len(pages) else "page 3" for code in targets] == frame["page"].to_list()
    assert set(column(store, "train", "age").tolist()) == {9}


def read_events(reader, name):
    import h5py

    with h5py.File(reader._paths[0]) as file:
        return file[f"history/events/{name}"][:]


def test_a_split_is_cut_off_by_users_times_order_or_column(shop):
    rows = make_rows(5, 300).with_columns(
        time=pl.Series(np.random.default_rng(1).permutation(300)),
        fold=pl.Series((["train"] * 8 + ["valid", "test"]) * 30),
    )
    rows.write_parquet(shop / "train.parquet")
    files = {"valid_data": None, "test_data": None}
    for by in ({"by": "user"}, {"by": "time", "time": "time"}, {"by": "order"}, {"by": "column", "column": "fold"}):
        store = build_entry(entry_of(shop, data_root=str(shop / by["by"]), split=by, **files))
        sizes = {split: counts.rows for split, counts in store.manifest.splits.items()}
        assert sum(sizes.values()) == 300
        users = {split: set(column(store, split, "user_id").tolist()) for split in sizes}
        if by["by"] == "user":
            assert not users["train"] & users["valid"]
            assert not users["train"] & users["test"]
            assert not users["valid"] & users["test"]
            continue
        assert sizes == {"train": 240, "valid": 30, "test": 30}
        ordered = {
            "time": rows.sort("time"),
            "order": rows,
            "column": rows.sort(
                pl.col("fold").replace_strict({"train": 0, "valid": 1, "test": 2}, return_dtype=pl.Int8),
                maintain_order=True,
            ),
        }[by["by"]]
        for split, part in (("train", ordered[:240]), ("valid", ordered[240:270]), ("test", ordered[270:])):
            found = sorted(column(store, split, "price_paid").tolist())
            assert found == sorted(part["price_paid"].fill_null(0).cast(pl.Float32).to_list())


def test_vectors_by_item_id_and_texts(shop):
    items = make_items().with_columns(title=pl.concat_str(pl.lit("red shoes "), pl.col("brand").fill_null("plain")))
    items.write_parquet(shop / "items.parquet")
    names = items["item_id"][:20].to_numpy()
    vectors = np.random.default_rng(0).random((20, 6)).astype(np.float32)
    np.savez(shop / "vectors.npz", key=names.astype(str), value=vectors)
    more = [
        {
            "name": "image",
            "active": True,
            "dtype": "float",
            "type": "embedding",
            "source": "item",
            "embedding_file": str(shop / "vectors.npz"),
        },
        {"name": "title", "active": True, "dtype": "str", "type": "text", "source": "item", "pretrain_dim": 8},
    ]
    store = build_entry(entry_of(shop, feature_cols=[*COLUMNS, *more]))
    table = read_item_table(store.dir)
    assert (table["image"][1:21] == vectors).all()
    assert not table["image"][21:].any()
    assert np.allclose(np.linalg.norm(table["title"][1:31], axis=1), 1)
    same = items["brand"].to_list().index("brand 1"), [n for n, b in enumerate(items["brand"]) if b == "brand 1"][-1]
    assert (table["title"][same[0] + 1] == table["title"][same[1] + 1]).all()


def test_fuxictrs_form_of_a_history_and_a_copied_column(shop):
    columns = [
        *COLUMNS,
        {
            "name": "clicks",
            "active": True,
            "dtype": "str",
            "type": "sequence",
            "splitter": "^",
            "share_embedding": "item_id",
        },
        {"name": "hour_again", "active": True, "dtype": "int", "type": "categorical", "preprocess": "copy_from(hour)"},
    ]
    store = build_entry(entry_of(shop, feature_cols=columns))
    assert (column(store, "train", "hour_again") == column(store, "train", "hour")).all()
    assert "clicks" not in store.reader("train").columns
