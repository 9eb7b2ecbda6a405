"""The raw release: splits, negatives that their user has not seen, and errors that name the line."""

import dataclasses
import json
import re
import runpy
from itertools import pairwise

import numpy as np
import pytest

from fuxictr_multimodal.data.recipes.microlens.raw import build
from fuxictr_multimodal.data.recipes.microlens.raw_files import read_release
from fuxictr_multimodal.data.recipes.microlens.raw_recipe import Choices, Recipe
from fuxictr_multimodal.data.store import SplitReader, Store, read_item_table
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.raw_release import ITEMS, USERS, write_release


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("tsv"))


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("csv"), size="MicroLens_100k", times=True)


@pytest.fixture(scope="module")
def make(repository, tmp_path_factory):
    def run(raw, dataset_id="MicroLens_50k", data_root=None, embedding=None, size=None, **choices):
        data_root = data_root or tmp_path_factory.mktemp("stores")
        build(
            raw=raw, config_dir=repository / "config", data_root=data_root, choices=Choices(**choices), size=size,
            dataset_id=dataset_id, embedding=embedding, progress=False,
        )  # fmt: skip
        return Store.open(data_root, dataset_id or "MicroLens_100k")

    return run


def read(store):
    """Rows by split: columns and a list of histories."""
    found = {}
    for split in store.manifest.splits:
        with SplitReader(store.split_path(split)) as reader:
            columns = {name: reader.read(name, 0, reader.rows) for name in reader.columns}
            values, offsets = reader.read_history(0, reader.rows)
            columns["history"] = [values[start:stop].tolist() for start, stop in pairwise(offsets)]
            found[split] = columns
    return found


def seen_by(release):
    return {user: set(group["item"]) for (user,), group in release.pairs.group_by("user")}


CHOICES = [
    {"split": "user"},
    {"split": "user", "targets": "all", "negatives": "popularity", "ratio": 1},
    {"split": "last-item", "ratio": 5},
    {"split": "last-item", "targets": "all", "negatives": "popularity"},
]


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("kind", ["lists", "timed"])
def test_promises(request, make, kind, choices):
    raw = request.getfixturevalue(kind)
    release = read_release(raw)
    store = make(raw, **choices)
    seen, splits = seen_by(release), read(store)
    group = 1 + choices.get("ratio", 3)
    users = {split: set(columns["user_id"].tolist()) for split, columns in splits.items()}
    pairs = {split: set() for split in splits}
    for split, columns in splits.items():
        label, target, user = columns["label"], columns["item_id"], columns["user_id"]
        assert len(label) % group == 0
        assert (label.reshape(-1, group)[:, 0] == 1).all()
        assert label.sum() * group == len(label)
        for first in range(0, len(label), group):
            rows = slice(first, first + group)
            assert len(set(user[rows])) == 1
            assert len(set(target[rows])) == group
            negatives = set(target[rows][1:].tolist())
            assert not negatives & seen[user[first]]
            assert target[first] in seen[user[first]]
            assert target[first] not in columns["history"][first]
            assert all(columns["history"][first] == columns["history"][row] for row in range(first, first + group))
            pairs[split].add((int(user[first]), int(target[first])))
    for split, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not pairs[split] & pairs[other]
        if choices["split"] == "user":
            assert not users[split] & users[other]
    if choices["split"] == "user":
        assert [len(users[split]) for split in splits] == [USERS - 18, 9, 9]
    else:
        assert len(pairs["test"]) == len(pairs["valid"]) == USERS
    if choices.get("targets") == "all":
        assert sum(map(len, pairs.values())) == len(release.pairs) - USERS
    manifest = store.manifest
    assert manifest.negative_sampling["ratio"] == group - 1
    assert manifest.negative_sampling["by"] == choices.get("negatives", "uniform")
    assert manifest.recipe["split"] == choices["split"]
    assert manifest.facts["repeated_interactions_left_out"] == 1


@pytest.mark.parametrize("kind", ["lists", "timed"])
def test_histories_are_what_came_before(request, make, kind):
    raw = request.getfixturevalue(kind)
    release = read_release(raw)
    columns = read(make(raw, split="last-item"))["test"]
    groups = release.pairs.group_by("user", maintain_order=True)
    by_user = {user: list(zip(group["item"], group["time"], strict=True)) for (user,), group in groups}
    for row in np.flatnonzero(columns["label"]):
        pairs = by_user[columns["user_id"][row]]
        assert columns["item_id"][row] == pairs[-1][0]
        assert columns["timestamp"][row] == pairs[-1][1]
        assert columns["history"][row] == [item for item, time in pairs if time < pairs[-1][1]]
        if kind == "lists":
            assert len(columns["history"][row]) == len(pairs) - 1


def test_levels_tags_and_vectors(lists, make):
    store = make(lists)
    rows = read(store)["train"]
    known = np.arange(1, ITEMS - 3)
    likes = 1 + np.searchsorted(np.quantile(known * 10, np.linspace(0.1, 0.9, 9)), known * 10)
    expected = np.zeros(ITEMS + 1, int)
    expected[known] = likes
    assert (rows["likes_level"] == expected[rows["item_id"]]).all()
    assert set(rows["views_level"]) <= set(range(11))
    table = read_item_table(store.dir)
    vocabulary = json.loads((store.dir / "feature_vocab.json").read_text())["item_tags"]
    words = {code: word for word, code in vocabulary.items()}
    assert [words[code] for code in table["item_tags"][1]] == ["topic 1", "dog", *["__PAD__"] * 3]
    assert table["item_emb_d128"].shape == (release_items(lists), 128)
    assert not table["item_emb_d128"][0].any()
    assert np.allclose(np.linalg.norm(table["item_emb_d128"][1:], axis=1), 1, atol=1e-5)
    assert store.manifest.facts["item_emb_d128"]["method"] == "tfidf_svd"


def test_hashtags_keep_their_marks(lists):
    release = read_release(lists)
    titles = ["", "#दिन x #दीन, #Dog_1! #mu\u00adsic", *[""] * (release.num_items - 2)]
    recipe = Recipe(dataclasses.replace(release, titles=titles, categories=None), Choices(), max_len=5)
    assert recipe.tags(most=5)[1] == "दिन|दीन|dog_1|music"


def release_items(raw):
    return read_release(raw).num_items


def test_a_pretrained_table_of_vectors(lists, make, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 128)).astype(np.float32)
    np.savez(tmp_path / "x.npz", key=np.arange(1, ITEMS + 1), value=vectors)
    store = make(lists, embedding=tmp_path / "x.npz")
    assert (read_item_table(store.dir)["item_emb_d128"][1:] == vectors[: release_items(lists) - 1]).all()
    assert store.manifest.recipe["embedding"] == "x.npz"


def test_one_seed_one_dataset(timed, make):
    first, again, other = (make(timed, None, seed=seed).manifest for seed in (5, 5, 6))
    assert first.hash == again.hash
    assert first.files["train.h5"] != other.files["train.h5"]
    assert first.dataset_id == "MicroLens_100k"


def test_popularity_does_not_count_what_comes_later(tmp_path, make):
    folder = write_release(tmp_path / "raw")
    store = make(folder, split="last-item", targets="all", negatives="popularity")
    release = read_release(folder)
    last = release.pairs.group_by("user").tail(2)
    late = set(last["item"]) - set(release.pairs.join(last, on=["user", "item"], how="anti")["item"])
    for columns in read(store).values():
        assert not set(columns["item_id"][columns["label"] == 0].tolist()) & late


def test_levels_may_go_with_every_item(lists, make, repository, tmp_path):
    text = (repository / "config/dataset_config/microlens_raw.yaml").read_text()
    text = text.replace("type: categorical, vocab_size: 11}", "type: categorical, source: item, vocab_size: 11}")
    (tmp_path / "config/dataset_config").mkdir(parents=True)
    (tmp_path / "config/dataset_config/x.yaml").write_text(text)
    build(raw=lists, config_dir=tmp_path / "config", data_root=tmp_path / "data", choices=Choices(), progress=False)
    table = read_item_table(tmp_path / "data/MicroLens_50k")
    assert table["likes_level"][1] == 1
    assert table["views_level"][1] == 10
    assert table["likes_level"][[0, ITEMS - 3]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("MicroLens-50k_pairs.tsv", "1\t2 3 4\n2\t5 x 7\n", "_pairs.tsv: column 'items', row 2: '5 x 7' is not a list"),
        ("MicroLens-50k_pairs.tsv", "1\t2 3\n1\t4 5\n", "column 'user': user 1 has more than one line"),
        ("MicroLens-50k_pairs.tsv", "1\t2 3\nu\t4 5\n", "column 'user', row 2: 'u' is not a whole number"),
        ("MicroLens-50k_pairs.tsv", "1\t2 0\n", "item 0 of user 1: ids count from 1"),
        ("MicroLens-50k_pairs.tsv", "1\t2 900000\n", "ids go up to 900000 for only 2 items"),
        ("MicroLens-50k_pairs.tsv", "1\t2 3 4 5 6\n", "the valid split is empty"),
        ("MicroLens-50k_pairs.tsv", "", "empty file"),
        ("MicroLens-50k_pairs.csv", "user,item,timestamp\n", "_pairs.csv: there are no pairs of a user and an item"),
        ("MicroLens-50k_pairs.csv", "user,item,time\n1,2,3\n", "column 'timestamp' is missing"),
        ("MicroLens-50k_pairs.csv", "user,item,timestamp\n1,2,3\n1,,4\n", "column 'item', row 2: an empty field"),
        ("MicroLens-50k_likes_and_views.txt", "1\t-5\t3\n", "column 'likes', row 1: -5 is not a count from 0"),
        ("MicroLens-50k_likes_and_views.txt", "1\t5\n", "_likes_and_views.txt"),
        ("MicroLens-50k_titles.csv", "item,title\nx,hello\n", "column 'item', row 1: 'x' is not a whole number"),
        ("tags_to_summary.csv", "video_id\n1\n", "expected two columns"),
        ("tags_to_summary.csv", "\n1,a\n", "expected two columns"),
        ("MicroLens-100k_pairs.tsv", "1\t2 3\n", "holds several sizes .* --size"),
    ],
)
def test_a_spoilt_file_is_one_error_that_names_it(tmp_path, make, file, text, message):
    folder = write_release(tmp_path / "raw")
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        make(folder, data_root=tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("MicroLens-50k_pairs.tsv", "there are no pairs"),
        ("MicroLens-50k_titles.csv", "has no file of titles: add it, or pass a table"),
        ("MicroLens-50k_likes_and_views.txt", "has 'likes_level', but MicroLens-50k has no file of likes and views"),
    ],
)
def test_a_missing_file(tmp_path, make, file, message):
    folder = write_release(tmp_path / "raw")
    (folder / file).unlink()
    with pytest.raises(DataError, match=message):
        make(folder)


def test_a_file_of_another_name_is_named(tmp_path, make):
    folder = write_release(tmp_path / "raw")
    likes = folder / "MicroLens-50k_likes_and_views.txt"
    likes.rename(folder / "MicroLens-50k_likes_views.txt")
    message = f"{likes} does not exist. Did you mean 'MicroLens-50k_likes_views.txt'? Rename it."
    with pytest.raises(DataError, match=re.escape(message)):
        make(folder)


@pytest.mark.parametrize("kind", ["lists", "timed"])
def test_files_as_a_spreadsheet_on_windows_saves_them(request, tmp_path, kind):
    raw = request.getfixturevalue(kind)
    for file in raw.iterdir():
        text = file.read_text(encoding="utf-8").replace("\n", "\r\n")
        (tmp_path / file.name.upper()).write_bytes(f"{text}\r\n\r\n".encode("utf-8-sig"))
    plain, saved = read_release(raw), read_release(tmp_path)
    assert saved.size == plain.size.upper()
    assert saved.pairs.equals(plain.pairs)
    assert (saved.titles, saved.categories, saved.has_times) == (plain.titles, plain.categories, plain.has_times)
    assert (saved.likes == plain.likes).all()
    assert (saved.views == plain.views).all()


def test_a_file_is_no_folder(lists):
    with pytest.raises(DataError, match=r"_pairs\.tsv is not a folder; it must hold"):
        read_release(lists / "MicroLens-50k_pairs.tsv")


def test_sizes_and_headers(tmp_path, make):
    folder = write_release(tmp_path / "raw")
    write_release(folder, size="MicroLens-1M", seed=2)
    (folder / "tags_to_summary.csv").write_text('"video_id", "tag"\n1,Music\n1,Other\n99999,Nothing\n')
    assert read_release(folder, size="1M").size == "MicroLens-1M"
    assert read_release(folder, size="50k").categories[1] == "Music"
    with pytest.raises(DataError, match="no pairs of size '100k'"):
        read_release(folder, size="100k")
    with pytest.raises(ConfigError, match="there is no dataset entry for 'Own-7'"):
        make(write_release(tmp_path / "own", size="Own-7"), None)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"split": "time"}, "split is 'time', but must be user or last-item"),
        ({"ratio": 0}, "ratio is 0"),
        ({"valid_share": 0.6, "test_share": 0.4}, "must be above 0 and leave users to train"),
    ],
)
def test_choices(choices, message):
    with pytest.raises(ConfigError, match=message):
        Choices(**choices)


def test_command(lists, make, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(repository / "datasets/microlens_raw.py"))["main"]
    main(["--raw", str(lists), "--split", "last-item", "--targets", "all", "--negatives", "popularity", "--seed", "3"])
    choices = {"split": "last-item", "targets": "all", "negatives": "popularity", "seed": 3}
    assert Store.open("data", "MicroLens_50k").manifest == make(lists, **choices).manifest
    with pytest.raises(SystemExit, match="2"):
        main(["--raw", "nowhere"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: nowhere does not exist")
