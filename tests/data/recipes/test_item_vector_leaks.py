"""What no builder may let into the vectors of a training sample: its own target, and what valid and test hold.

Twenty users with ten items each; the last two items of a user are in valid and test. The items A and B occur together
for one user alone, A in the history of a training sample whose target is B.
"""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import yaml

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.recipes import movielens
from fuxictr_multimodal.data.recipes.microlens import challenge
from fuxictr_multimodal.data.recipes.microlens import raw as microlens
from fuxictr_multimodal.data.recipes.microlens.raw_recipe import Choices
from fuxictr_multimodal.data.recipes.user_events import fold_of
from fuxictr_multimodal.data.store import Store, read_item_table
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers import challenge_files as files

USERS, ITEMS, LENGTH = 20, 30, 10
A, B, OTHER = 29, 30, 28
PLANTED = 7
LABEL = {"name": "label", "dtype": "float"}
VECTORS = {
    "name": "v",
    "active": True,
    "dtype": "float",
    "type": "embedding",
    "source": "item",
    # As many directions as items: the vectors do not depend on the order of the items.
    "pretrain_dim": ITEMS,
    "item_vectors": "cooccurrence",
    "folds": 3,
}
ITEM = {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"}
TAGS = {"name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "source": "item", "vocab_size": 9}
USER = {"name": "user_id", "active": True, "dtype": "int", "type": "meta"}


def lists(*, planted=B, held_out=0):
    """Items of each user, oldest first; `held_out` is the seed of what valid and test hold."""
    rng, later = np.random.default_rng(1), np.random.default_rng(held_out)
    found = {}
    for user in range(1, USERS + 1):
        items = (1 + rng.permutation(OTHER - 1)[: LENGTH - 2]).tolist()
        items[2] = {1: A, 2: A, 3: B, 4: B, PLANTED: A}.get(user, items[2])
        if user == PLANTED:
            items[5] = planted
        rest = np.setdiff1d(np.arange(1, OTHER), items)
        found[user] = [*items, *later.permutation(rest)[:2].tolist()]
    return found


def by_log(folder, found):
    rows = [(user, item, place) for user, items in found.items() for place, item in enumerate(items)]
    entry = {
        "dataset_id": "D",
        "data_root": str(folder),
        "interactions": {"user": "user_id", "item": "item_id", "time": "time"},
        "split": {"by": "last_item"},
        "negatives": {"ratio": 1},
        "feature_cols": [USER, ITEM, VECTORS],
        "label_col": LABEL,
    }
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    return build_entry(entry, frames={"interactions": log}), range(1, ITEMS + 1)


def samples_of(found, places):
    rows = []
    for user, items in found.items():
        for place in places:
            other = next(item for item in range(1, OTHER) if item not in items)
            rows += [(1.0, user, items[place], items[:place]), (0.0, user, other, items[:place])]
    return pl.DataFrame(rows, schema=["label", "user_id", "item_id", "clicks"], orient="row")


PLACES = {"train": range(LENGTH - 2), "valid": [LENGTH - 2], "test": [LENGTH - 1]}


def by_samples(folder, found, *, places=PLACES, **changes):
    entry = {
        "dataset_id": "D",
        "data_root": str(folder),
        "history_col": "clicks",
        "feature_cols": [USER, ITEM, VECTORS],
        "label_col": LABEL,
    } | changes
    frames = {f"{split}_data": samples_of(found, where) for split, where in places.items()}
    return build_entry(entry, frames=frames), range(1, ITEMS + 1)


def config_of(folder, *columns):
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"data_root": "unused", "data_format": "h5", "max_len": 64, "feature_cols": [*columns], "label_col": LABEL}
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump({"D": entry}))
    return folder


def by_microlens(folder, found, **choices):
    config = config_of(folder / "config", USER, ITEM, VECTORS)
    text = "".join(f"{user}\t{' '.join(map(str, items))}\n" for user, items in found.items())
    (folder / "MicroLens-50k_pairs.tsv").write_text(text)
    chosen = Choices(**{"split": "last-item", "targets": "all", **choices})
    options = {"config_dir": config, "data_root": folder / "data", "choices": chosen, "progress": False}
    microlens.build(raw=folder, dataset_id="D", **options)
    store = Store.open(folder / "data", "D")
    return store, range(1, store.manifest.items)


def by_challenge(folder, found, *, places=PLACES):
    """Train has samples of the first eight items, valid and test the last two."""
    config = config_of(folder / "config", USER, {**ITEM, "vocab_size": ITEMS + 1}, TAGS, VECTORS)
    inner = folder / "MicroLens_1M_x1"
    inner.mkdir(parents=True)
    for split, where in places.items():
        frame = samples_of(found, where)
        histories = [(64 - len(history)) * [0] + history for history in frame["clicks"].to_list()]
        columns = {"ID": range(len(frame))} if split == "test" else {"label": frame["label"].cast(pl.Int64).to_list()}
        columns |= {name: frame[name].to_list() for name in ("user_id", "item_id")}
        columns |= {"item_seq": files.fixed(np.array(histories)), "likes_level": len(frame) * [1]}
        files.save(inner / f"{split}.parquet", **columns, views_level=len(frame) * [1])
    tags, vectors = np.zeros((ITEMS + 1, 5), dtype=int), np.zeros((ITEMS + 1, 128))
    ids = np.arange(ITEMS + 1)
    files.save(
        inner / "item_info.parquet", item_id=ids, item_tags=files.fixed(tags), item_emb_d128=files.fixed(vectors)
    )
    options = {"config_dir": config, "data_root": folder / "data", "any_size": True, "progress": False}
    challenge.build(raw=folder, dataset_id="D", **options)
    return Store.open(folder / "data", "D"), range(1, ITEMS + 1)


def by_movielens(folder, found):
    """Every third film but those of the pair is not liked, so in no history."""
    time = {**USER, "name": "timestamp"}
    config = config_of(folder / "config", USER, time, ITEM, VECTORS)
    lines = ["userId,movieId,rating,timestamp"]
    for user, items in found.items():
        for place, item in enumerate(items):
            liked = item in (A, B) or (user == PLANTED and place == 5) or (user + place) % 3
            lines.append(f"{user},{item},{5.0 if liked else 1.0},{1000 * place + user}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    films = "".join(f'{item},"Film {item} (2000)",Drama\n' for item in range(1, ITEMS + 1))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,calm,1\n")
    movielens.build(
        raw_path=folder, dataset_id="D", config_dir=config, data_root=folder / "data", history="liked", progress=False
    )
    return Store.open(folder / "data", "D"), range(1, ITEMS + 1)


BUILDERS = {
    "log": by_log,
    "samples": by_samples,
    "microlens": by_microlens,
    "challenge": by_challenge,
    "movielens": by_movielens,
}


def cosines(store, known, block):
    """Cosines of the items of `known` in a block, in the order of the user's ids."""
    table = read_item_table(store.dir)
    vectors = table["v"] if block == 0 else table["v.folds"][:, block - 1]
    own = store.ids("item_id")
    rows = np.array(known) if own is None else own.codes(pl.Series(known))
    vectors = vectors[rows] * (rows > 0)[:, None]
    return vectors @ vectors.T


def columns_of(store, split):
    with store.reader(split) as reader:
        found = {name: reader.read(name, 0, reader.rows) for name in reader.columns}
        values, offsets = reader.read_history(0, reader.rows)
    return found | {"history": [values[start:stop] for start, stop in pairwise(offsets)]}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_pair_of_a_history_and_its_own_target_does_not_show(tmp_path, name):
    store, known = BUILDERS[name](tmp_path / "with", lists())
    without, _ = BUILDERS[name](tmp_path / "without", lists(planted=OTHER, held_out=5))
    fold = fold_of(PLANTED, 3)
    pair = A - 1, B - 1
    found, expected = (cosines(one, known, fold) for one in (store, without))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found[pair]) < 1
    # Counted without folds it would have shown.
    assert cosines(store, known, 0)[pair] > cosines(without, known, 0)[pair] + 0.02
    for split in store.manifest.splits:
        columns = columns_of(store, split)
        users = (
            columns["user_id"] if store.ids("user_id") is None else store.ids("user_id").originals(columns["user_id"])
        )
        assert columns["item_fold"].dtype == np.uint8
        assert columns["item_fold"].tolist() == [fold_of(user, 3) for user in users]
    facts = store.manifest.facts.get("vectors", store.manifest.facts)["v"]
    assert facts["method"] == "ppmi_svd"
    assert facts["folds"] == 3
    assert facts["users"] == USERS
    store.verify()


@pytest.mark.parametrize("name", ["samples", "challenge"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_target_of_valid_or_test_in_a_history_of_train_does_not_show(tmp_path, name, split):
    """One training sample a user; the older target of another split stands in its history."""
    newest, other = LENGTH - 1, "test" if split == "valid" else "valid"
    places = {"train": [newest], split: [newest - 3], other: [newest]}
    store, _ = BUILDERS[name](tmp_path / "with", lists(), places={key: places[key] for key in PLACES})
    assert store.manifest.folds == 3
    for part in store.manifest.splits:
        columns = columns_of(store, part)
        assert columns["item_fold"].tolist() == [fold_of(user, 3) for user in columns["user_id"]]
    without, _ = BUILDERS[name](tmp_path / "without", lists(), places={key: [newest] for key in PLACES})
    assert without.manifest.folds == 0


@pytest.mark.parametrize("place", [LENGTH - 3, LENGTH - 1])
def test_one_table_of_samples_that_is_cut_needs_folds_too(tmp_path, place):
    """The samples of valid come among those of train, before it at first."""
    parts = [samples_of(lists(), [at]).with_columns(part=pl.lit(part)) for part, at in
             (("valid", place), ("train", LENGTH - 1))]  # fmt: skip
    entry = {
        "dataset_id": "D", "data_root": str(tmp_path), "history_col": "clicks", "label_col": LABEL,
        "feature_cols": [USER, ITEM, VECTORS], "split": {"by": "column", "column": "part"},
    }  # fmt: skip
    store = build_entry(entry, frames={"train_data": pl.concat(parts).sort("user_id", "part", descending=True)})
    assert store.manifest.folds == (3 if place < LENGTH - 1 else 0)


def test_targets_that_stand_in_no_counted_history_need_no_folds(tmp_path):
    choices = {"split": "user", "targets": "last", "valid_share": 0.2, "test_share": 0.2}
    store, _ = by_microlens(tmp_path / "one", lists(), **choices)
    train = set(columns_of(store, "train")["user_id"].tolist())
    assert "item_fold" not in columns_of(store, "train")
    assert store.manifest.folds == 0
    changed = lists()
    for user, items in changed.items():
        # The target of a training user, everything of another one.
        changed[user] = [*items[:-1], A if A not in items else B] if user in train else items[::-1]
    other, _ = by_microlens(tmp_path / "other", changed, **choices)
    np.testing.assert_array_equal(read_item_table(store.dir)["v"], read_item_table(other.dir)["v"])
    assert {item for user in train for item in lists()[user][:-1]} == {
        item for item, row in enumerate(read_item_table(store.dir)["v"]) if row.any()
    }


def test_a_loader_hands_out_folds_and_the_table_reads_them(tmp_path):
    from fuxictr_multimodal.data.loader import MultimodalDataLoader
    from fuxictr_multimodal.data.store.feature_map import load_feature_map

    store, _ = by_samples(tmp_path, lists())
    feature_map = load_feature_map(store.dir, "D", {"embedding_dim": 4})
    table = ItemTable.from_store(store.dir, feature_map=feature_map)
    folds = {}
    for mode in ("resident", "streaming"):
        for shuffle in (False, True):
            loader = MultimodalDataLoader(feature_map, store.dir / "train", batch_size=7, shuffle=shuffle, mode=mode)
            for batch in loader:
                rows, read = table.of_batch(batch)
                found = rows.gather(read.target)["v"]
                stored = read_item_table(store.dir)
                for row, (fold, item) in enumerate(zip(batch.fold.tolist(), batch.target.tolist(), strict=True)):
                    expected = stored["v.folds"][item, fold - 1] if fold else stored["v"][item]
                    np.testing.assert_array_equal(found[row].numpy(), expected)
                    folds.setdefault((mode, shuffle), []).append(fold)
    assert len({tuple(sorted(found)) for found in folds.values()}) == 1
    assert folds["resident", True] == folds["streaming", True]


ERRORS = {
    "another kind of column": (
        [{**VECTORS, "type": "numeric"}],
        r"column 'v': item_vectors is for a column of type",
    ),
    "of samples": ([{**VECTORS, "source": ""}], r"column 'v': item_vectors is for a column of type embedding"),
    "unknown": ([{**VECTORS, "item_vectors": "word2vec"}], r"column 'v': item_vectors 'word2vec' is unknown; choose"),
    "folds": ([{**VECTORS, "folds": 1}], r"column 'v': folds must be a whole number from 2"),
    "alone": (
        [{**VECTORS, "item_vectors": None, "window": 3}],
        r"column 'v': window means nothing without item_vectors",
    ),
    "different": ([VECTORS, {**VECTORS, "name": "w", "folds": 4}], r"columns 'v', 'w' have different `folds`"),
    "a file": ([{**VECTORS, "embedding_file": "v.npz"}], r"column 'v': item_vectors .* comes with vectors already"),
}


@pytest.mark.parametrize("wrong", ERRORS)
def test_refuses_wrong_settings(tmp_path, wrong):
    columns, message = ERRORS[wrong]
    columns = [{key: value for key, value in column.items() if value is not None} for column in columns]
    with pytest.raises(ConfigError, match=message):
        by_samples(tmp_path, lists(), feature_cols=[USER, ITEM, *columns])
    assert not (tmp_path / "D").exists()


@pytest.mark.parametrize("name", BUILDERS)
def test_the_name_of_the_fold_is_kept_for_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(VECTORS, "name", "item_fold")
    with pytest.raises(ConfigError, match=r"feature_cols: 'item_fold' cannot be the name of a column: it is kept"):
        BUILDERS[name](tmp_path, lists())
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feature_cols", [USER, {**USER, "name": "item_fold"}, ITEM]),
        ("label_col", {"name": "item_fold", "dtype": "float"}),
        ("weight_col", "item_fold"),
        ("event_cols", [{"name": "item_fold", "history": "times", "target": "time"}]),
    ],
)
def test_no_key_of_an_entry_takes_the_name_of_the_fold(tmp_path, key, value):
    """Nothing is read before: no file is there."""
    entry = {
        "dataset_id": "D", "data_root": str(tmp_path), "data_format": "csv", "feature_cols": [USER, ITEM],
        "label_col": LABEL, "train_data": "nowhere.csv", "valid_data": "nowhere.csv", "history_col": "clicks",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=f"{key}: 'item_fold' cannot be the name of a column"):
        build_entry(entry | {key: value})


def with_requests(frame):
    return frame.with_columns(request=pl.int_range(pl.len()))


def test_a_group_that_may_be_a_request_is_not_taken_for_the_user(tmp_path):
    columns = [USER, {**USER, "name": "request"}, ITEM, VECTORS]
    entry = {
        "dataset_id": "D", "data_root": str(tmp_path), "history_col": "clicks", "feature_cols": columns,
        "label_col": LABEL, "group_id": "request",
    }  # fmt: skip
    frames = {f"{split}_data": with_requests(samples_of(lists(), where)) for split, where in PLACES.items()}
    with pytest.raises(ConfigError, match=r"column 'v': item_vectors needs `user_col`, .*: `group_id` is 'request'"):
        build_entry(entry, frames=frames)
    assert not (tmp_path / "D").exists()
    # Without such vectors it groups what it did.
    build_entry(entry | {"feature_cols": [*columns[:3]]}, frames=frames)
    store = build_entry(entry | {"user_col": "user_id"}, frames=frames, overwrite=True)
    found = columns_of(store, "train")
    assert found["item_fold"].tolist() == [fold_of(user, 3) for user in found["user_id"]]


def test_a_training_sample_needs_a_user(tmp_path):
    entry = {
        "dataset_id": "D", "data_root": str(tmp_path), "history_col": "clicks", "label_col": LABEL,
        "feature_cols": [ITEM, VECTORS], "user_col": "user_id",
    }  # fmt: skip
    frames = {f"{split}_data": samples_of(lists(), where) for split, where in PLACES.items()}

    def without(split, row):
        user = pl.when(pl.int_range(pl.len()) == row).then(None).otherwise("user_id").alias("user_id")
        return frames | {f"{split}_data": frames[f"{split}_data"].with_columns(user)}

    with pytest.raises(DataError, match=r"train_data.*: column 'user_id', row 7 .*: the training sample has no user"):
        build_entry(entry, frames=without("train", 7))
    assert not (tmp_path / "D").exists()
    assert columns_of(build_entry(entry, frames=without("valid", 7)), "valid")["item_fold"][7] == 0
    cut = frames["train_data"].with_columns(
        part=pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit("valid")).otherwise(pl.lit("train")),
        user_id=pl.when(pl.int_range(pl.len()) > 9).then("user_id"),
    )
    split = {"split": {"by": "column", "column": "part"}}
    with pytest.raises(DataError, match=r"column 'user_id', row 1 "):
        build_entry(entry | split, frames={"train_data": cut}, overwrite=True)


def test_refuses_data_without_users_histories_or_items(tmp_path):
    with pytest.raises(DataError, match=r"'nobody'"):
        by_samples(tmp_path, lists(), user_col="nobody")
    with pytest.raises(DataError, match=r"column 'v': item_vectors counts pairs .* none of the 0 users"):
        build_entry(
            {
                "dataset_id": "D", "data_root": str(tmp_path), "history_col": "clicks",
                "feature_cols": [USER, ITEM, VECTORS], "label_col": LABEL,
            },
            frames={f"{split}_data": samples_of(lists(), [0]) for split in ("train", "valid")},
        )  # fmt: skip
    flat = {"dataset_id": "D", "data_root": str(tmp_path), "feature_cols": [USER, VECTORS], "label_col": LABEL}
    with pytest.raises(ConfigError, match=r"column 'v': item_vectors is for another kind of column: this one needs"):
        build_entry(flat, frames={f"{split}_data": samples_of(lists(), [3]) for split in ("train", "valid")})
