"""The MovieLens recipe on generated downloads of each official layout."""

import importlib.util
import re
import zipfile
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.recipes.movielens import build
from fuxictr_multimodal.data.store import SPLITS, SplitReader, Store, read_item_table, read_item_titles
from fuxictr_multimodal.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[3]
GENRES = ("Action", "Comedy", "Drama", "Children's", "Sci-Fi")
WORDS = "dark space robot love paris war train night summer king queen island".split()
USERS, MOVIES = 12, 30


def make_log(seed=0):
    """Ratings with many equal times; movie ids have gaps, as the real ones do."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(USERS * MOVIES)
    users, movies = pairs // MOVIES + 1, (pairs % MOVIES) * 3 + 2
    times = 956_700_000 + rng.integers(0, 60, len(pairs)) * 10
    return pl.DataFrame(
        {"user": users, "movie": movies, "rating": rng.integers(1, 6, len(pairs)), "time": times}, strict=False
    )


def make_movies(seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            row * 3 + 2,
            f"{' '.join(rng.choice(WORDS, 3))}, The",
            int(rng.integers(1930, 2001)),
            "|".join(rng.choice(GENRES, rng.integers(1, 4), replace=False)),
        )
        for row in range(MOVIES)
    ]


def text(rows, separator):
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def ml_1m():
    people = [(user, "FM"[user % 2], (1, 18, 25)[user % 3], user % 4, "01234") for user in range(1, USERS + 1)]
    movies = [(movie, f"{title} ({year})", genres) for movie, title, year, genres in make_movies()]
    return {
        "ratings.dat": text(make_log().rows(), "::"),
        "movies.dat": text(movies, "::").replace("Comedy", "Com\xe9die"),
        "users.dat": text(people, "::"),
    }


def ml_latest():
    movies = [
        (movie, f'"{title} ({year})"', genres if movie > 8 else "(no genres listed)")
        for movie, title, year, genres in make_movies()
    ]
    log = make_log().with_columns(pl.col("rating") - 0.5)
    first, last = log["time"].min(), log["time"].max()
    return {
        "ratings.csv": "userId,movieId,rating,timestamp\n" + text(log.rows(), ","),
        "movies.csv": "movieId,title,genres\n" + text(movies, ","),
        "tags.csv": f"userId,movieId,tag,timestamp\n1,2,robot island,{first}\n1,5,king queen,{last + 1}\n",
    }


def tail():
    log = make_log().sort("user", "time", maintain_order=True)
    half = log.with_columns((pl.int_range(pl.len()).over("user") < pl.len().over("user") // 2).alias("early"))
    # Rows of one time stay together, so that no user has a validation time after a test time.
    half = half.with_columns(pl.col("early").all().over("user", "time"))
    movies = [
        (movie, f'"{title}"', year, genres, f'"{WORDS[movie % 12]} and {WORDS[movie % 7]}, again"')
        for movie, title, year, genres in make_movies()
    ]
    head = "UserID,MovieID,Rating,Timestamp\n"
    people = [(user, "FM"[user % 2], 25, user % 4, "01234") for user in range(1, USERS + 1)]
    return {
        "ratings_validation.csv": head + text(half.filter("early").drop("early").rows(), ","),
        "ratings_test.csv": head + text(half.filter(~pl.col("early")).drop("early").rows(), ","),
        "movies.csv": "MovielensID,Title,Year,Genre,Plot\n" + text(movies, ","),
        "users.csv": "UserID,Gender,Age,Occupation,Zip-code\n" + text(people, ","),
    }


LAYOUTS = {"MovieLens_1M": ml_1m, "MovieLens_small": ml_latest, "MovieLens": tail}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode("latin-1" if name.endswith(".dat") else "utf-8"))
    return folder


def build_quietly(raw, data_root, **options):
    options = {"dataset_id": None, "config_dir": ROOT / "config", "progress": False, **options}
    return build(raw_path=raw, data_root=data_root, **options)


@pytest.fixture(scope="module", params=LAYOUTS)
def built(request, tmp_path_factory):
    """A generated download and its dataset: (dataset id, raw folder, dataset)."""
    base = tmp_path_factory.mktemp(request.param)
    raw = write(base / "raw", LAYOUTS[request.param]())
    manifest = build_quietly(raw, base / "data")
    assert manifest.dataset_id == request.param
    return request.param, raw, Store.open(base / "data", request.param)


def read_split(store, split):
    with SplitReader(store.split_path(split)) as reader:
        frame = pl.DataFrame({name: reader.read(name, 0, reader.rows) for name in reader.columns})
        values, offsets = reader.read_history(0, reader.rows)
    histories = [values[a:b].tolist() for a, b in pairwise(offsets)]
    return frame.with_columns(pl.Series("history", histories, dtype=pl.List(pl.Int64)), pl.lit(split).alias("split"))


def read_all(store):
    return pl.concat([read_split(store, split) for split in SPLITS])


def test_every_rating_is_one_row_with_its_label(built):
    name, _, store = built
    rows = read_all(store)
    log = make_log().with_columns(pl.col("movie").sub(2).floordiv(3).add(1).alias("item"))
    liked = log["rating"] - 0.5 >= 4 if name == "MovieLens_small" else log["rating"] >= 4
    wanted = sorted(zip(log["user"], log["item"], log["time"], liked.cast(int), strict=True))
    assert sorted(rows.select("user_id", "item_id", "timestamp", "label").rows()) == wanted


def test_splits_are_in_order_of_time(built):
    name, _, store = built
    keys = ["user_id"] if name == "MovieLens" else []
    spans = (
        read_all(store).group_by("split", *keys).agg(pl.col("timestamp").min().alias("a"), pl.col("timestamp").max())
    )
    for early, late in (("train", "valid"), ("valid", "test"), ("train", "test")):
        one, two = (spans.filter(split=split).drop("split") for split in (early, late))
        both = one.join(two, on=keys) if keys else one.join(two, how="cross")
        assert len(both)
        assert (both["timestamp"] < both["a_right"]).all()


def test_tail_takes_the_test_rows_as_given(built):
    name, raw, store = built
    if name != "MovieLens":
        assert [store.manifest.splits[split].rows for split in SPLITS] == pytest.approx(
            [0.8 * len(make_log()), 0.1 * len(make_log()), 0.1 * len(make_log())], abs=15
        )
        return
    given = pl.read_csv(raw / "ratings_test.csv")
    assert sorted(given.select("UserID", "Timestamp").rows()) == sorted(
        read_split(store, "test").select("user_id", "timestamp").rows()
    )


def reference_known(rows, at, *, key, earlier_only):
    """Training rows with the key of row `at` that it may know."""
    row = rows.row(at, named=True)
    known = rows.filter(pl.col("split") == "train", pl.col(key) == row[key])
    return known.filter(pl.col("timestamp") < row["timestamp"]) if earlier_only else known


def test_history_holds_liked_items_of_earlier_seconds_only(built):
    _, _, store = built
    rows = read_all(store)
    for at in range(0, len(rows), 7):
        row = rows.row(at, named=True)
        mine = rows.filter(user_id=row["user_id"], label=1).filter(pl.col("timestamp") < row["timestamp"])
        times = dict(mine.select("item_id", "timestamp").rows())
        assert sorted(row["history"]) == sorted(times)
        assert [times[item] for item in row["history"]] == sorted(times.values())


@pytest.mark.parametrize(("level", "key"), [("views_level", "item_id"), ("user_activity_level", "user_id")])
def test_levels_count_training_rows_before_the_row_and_all_of_them_later(built, level, key):
    _, _, store = built
    rows = read_all(store)
    counts = np.array(
        [len(reference_known(rows, at, key=key, earlier_only=rows["split"][at] == "train")) for at in range(len(rows))]
    )
    levels = rows[level].to_numpy()
    assert ((levels == 0) == (counts == 0)).all()
    train = (rows["split"] == "train").to_numpy() & (counts > 0)
    boundaries = np.quantile(counts[train], np.linspace(0.1, 0.9, 9))
    np.testing.assert_array_equal(levels[counts > 0], 1 + np.searchsorted(boundaries, counts[counts > 0]))


def test_likes_levels_follow_what_was_known(built):
    _, _, store = built
    rows = read_all(store)
    prior = rows.filter(split="train")["label"].mean()
    film, excess, counts = [], [], []
    for at in range(len(rows)):
        known = reference_known(rows, at, key="item_id", earlier_only=rows["split"][at] == "train")
        film.append((known["label"].sum() + 5 * prior) / (len(known) + 5))
    rows = rows.with_columns(pl.Series("excess", rows["label"] - np.array(film)))
    for at in range(len(rows)):
        known = reference_known(rows, at, key="user_id", earlier_only=rows["split"][at] == "train")
        excess.append(known["excess"].sum() / (len(known) + 5))
        counts.append(len(known))
    excess, counts = np.array(excess), np.array(counts)
    train = (rows["split"] == "train").to_numpy() & (counts > 0)
    boundaries = np.quantile(excess[train], np.linspace(0.1, 0.9, 9))
    clear = np.abs(excess[:, None] - boundaries).min(axis=1) > 1e-9  # sums in another order may cross a boundary
    wanted = np.where(counts > 0, 1 + np.searchsorted(boundaries, excess), 0)
    np.testing.assert_array_equal(rows["user_likes_level"].to_numpy()[clear], wanted[clear])
    assert clear.mean() > 0.9


def test_items_are_all_films_with_genres_decades_and_vectors(built):
    name, _, store = built
    columns = read_item_table(store.dir / "item.h5")
    assert store.manifest.items == MOVIES + 1
    assert columns["item_id"].tolist() == list(range(MOVIES + 1))
    np.testing.assert_allclose(np.linalg.norm(columns["item_emb_d128"][1:], axis=1), 1, atol=1e-5)
    for values in columns.values():
        assert not values[0].any()
    films = make_movies()
    assert list(read_item_titles(store.dir).values()) == ["", *(title for _, title, *_ in films)]
    tags = (columns["item_tags"] > 0).sum(axis=1)[1:].tolist()
    wanted = [len(genres.split("|")) for _, _, _, genres in films]
    if name == "MovieLens_small":
        wanted[:3] = [0, 0, 0]
    assert tags == wanted
    same_decade = np.equal.outer(columns["decade"][1:], columns["decade"][1:])
    decades = np.array([year // 10 for _, _, year, _ in films])
    seen = columns["decade"][1:] != columns["decade"].max()  # the highest code is that of decades unseen in train
    np.testing.assert_array_equal(same_decade[np.ix_(seen, seen)], np.equal.outer(decades, decades)[np.ix_(seen, seen)])


def reference_baselines(rows):
    """Test AUC of smoothed means over train and valid, by counting pairs."""
    fit, test = rows.filter(pl.col("split") != "test"), rows.filter(pl.col("split") == "test")

    def deviations(key, values):
        mean = sum(values) / len(values)
        found = {}
        for name in set(fit[key]):
            own = [value - mean for value, other in zip(values, fit[key], strict=True) if other == name]
            found[name] = Fraction(sum(own), len(own) + 5)
        return found

    labels = [Fraction(int(label)) for label in fit["label"]]
    item, user = deviations("item_id", labels), deviations("user_id", labels)
    excess = deviations("user_id", [label - item[i] for label, i in zip(labels, fit["item_id"], strict=True)])

    def auc(score):
        scores = [(score(row), row["label"]) for row in test.iter_rows(named=True)]
        wins = [(a > b) + (a == b) / 2 for a, x in scores if x for b, y in scores if not y]
        return sum(wins) / len(wins)

    def of(known, row, key):
        return known.get(row[key], Fraction(0))

    return {
        "item_mean": auc(lambda row: of(item, row, "item_id")),
        "user_item_mean": auc(lambda row: of(user, row, "user_id") + of(item, row, "item_id")),
        "item_mean_user_excess": auc(lambda row: of(excess, row, "user_id") + of(item, row, "item_id")),
    }


def test_manifest_tells_floors_sources_and_method(built):
    name, raw, store = built
    manifest = store.manifest
    assert set(manifest.sources) == {path.name for path in raw.iterdir()}
    assert manifest.group_id == "user_id"
    assert "by time" in manifest.split_method
    assert ("each user" in manifest.split_method) == (name == "MovieLens")
    for floor, value in reference_baselines(read_all(store)).items():
        # Equal means may differ by rounding there, which decides ties.
        assert manifest.facts[f"floor_auc_{floor}"] == pytest.approx(float(value), abs=0.02)
    assert manifest.facts["item_emb_d128"]["method"] == "tfidf_svd"
    store.verify()


def test_the_same_input_gives_the_same_store_also_from_a_zip_file(built, tmp_path):
    name, raw, store = built
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        for path in raw.iterdir():
            archive.write(path, f"ml-x/{path.name}")
    manifest = build_quietly(tmp_path / "download.zip", tmp_path, dataset_id=name)
    assert manifest.files == store.manifest.files
    assert list(manifest.sources) == ["download.zip"]


def test_later_rows_change_nothing_earlier(tmp_path):
    """Turning every label of test leaves train and valid as they are, byte for byte."""
    files = tail()
    turned = pl.read_csv(files["ratings_test.csv"].encode()).with_columns(Rating=6 - pl.col("Rating"))
    other = {**files, "ratings_test.csv": turned.write_csv()}
    for history, user_levels in (("liked", "train"), ("all", "earlier")):
        hashes = []
        for number, content in enumerate((files, other)):
            raw = write(tmp_path / f"{history}{number}", content)
            manifest = build_quietly(
                raw, tmp_path / f"{history}{number}/data", history=history, user_levels=user_levels
            )
            hashes.append(manifest.files)
        same = {name for name in hashes[0] if hashes[0][name] == hashes[1][name]}
        assert {"train.h5", "valid.h5", "item.h5", "feature_map.json", "feature_vocab.json"} <= same
        assert "test.h5" not in same


def test_all_items_in_the_history_on_request(tmp_path):
    raw = write(tmp_path / "raw", ml_1m())
    build_quietly(raw, tmp_path, history="all")
    rows = read_all(Store.open(tmp_path, "MovieLens_1M"))
    for at in range(0, len(rows), 11):
        row = rows.row(at, named=True)
        mine = rows.filter(user_id=row["user_id"]).filter(pl.col("timestamp") < row["timestamp"])
        assert sorted(row["history"]) == sorted(mine["item_id"])


def test_user_levels_of_all_earlier_rows_on_request(tmp_path):
    raw = write(tmp_path / "raw", tail())
    build_quietly(raw, tmp_path, user_levels="earlier")
    rows = read_all(Store.open(tmp_path, "MovieLens"))
    test = rows.filter(split="test").sort("timestamp")
    counts = np.array(
        [
            len(rows.filter(user_id=row["user_id"]).filter(pl.col("timestamp") < row["timestamp"]))
            for row in test.iter_rows(named=True)
        ]
    )
    order = np.argsort(counts, kind="stable")
    assert (np.diff(test["user_activity_level"].to_numpy()[order]) >= 0).all()


def test_an_earlier_window_is_a_store_of_the_log_as_it_stood_then(tmp_path):
    """The same files as of a download that ends there, and no test row of the whole log."""
    files = ml_latest()
    whole, window, ended = tmp_path / "whole", tmp_path / "window", tmp_path / "ended"
    raw = write(tmp_path / "raw", files)
    build_quietly(raw, whole)
    manifest = build_quietly(raw, window, until=0.9)
    rows = read_all(Store.open(whole, "MovieLens_small"))
    before_test = rows.filter(pl.col("split") != "test")
    last = before_test["timestamp"].max()
    kept = [line for line in files["ratings.csv"].splitlines()[1:] if int(line.split(",")[3]) <= last]
    tags = [line for line in files["tags.csv"].splitlines()[1:] if int(line.split(",")[3]) <= last]
    assert len(kept) == len(before_test) < len(rows)
    head = {name: files[name].splitlines()[0] for name in ("ratings.csv", "tags.csv")}
    cut = {
        **files,
        "ratings.csv": "\n".join([head["ratings.csv"], *kept, ""]),
        "tags.csv": "\n".join([head["tags.csv"], *tags, ""]),
    }
    expected = build_quietly(write(tmp_path / "cut", cut), ended)
    assert manifest.files == expected.files
    assert manifest.recipe["until"] == 0.9


def test_a_window_needs_a_log_that_is_split_by_time_and_a_share(tmp_path):
    with pytest.raises(DataError, match="layout tail20 are split for each user"):
        build_quietly(write(tmp_path / "tail", tail()), tmp_path, until=0.5)
    raw = write(tmp_path / "raw", ml_latest())
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(DataError, match="must be above 0 and at most 1"):
            build_quietly(raw, tmp_path, until=share)
    assert not list(tmp_path.glob("*MovieLens*"))


def test_levels_on_items_count_all_training_rows(tmp_path):
    manifest = build_quietly(write(tmp_path / "raw", tail()), tmp_path, levels_on_items=True)
    assert manifest.dataset_id == "MovieLens_levels"
    store = Store.open(tmp_path, "MovieLens_levels")
    columns = read_item_table(store.dir / "item.h5")
    train = read_split(store, "train")
    assert "views_level" not in train.columns
    counts = np.bincount(train["item_id"], minlength=MOVIES + 1)
    assert ((columns["views_level"] == 0) == (counts == 0)).all()
    order = np.argsort(counts, kind="stable")
    assert (np.diff(columns["views_level"][order]) >= 0).all()
    assert columns["likes_level"].max() <= 10


def test_pretrained_vectors_go_to_their_films(tmp_path):
    keys = np.array([movie for movie, *_ in make_movies()][::-1][:-2])
    values = np.random.default_rng(3).normal(size=(len(keys), 128)).astype(np.float32)
    np.savez(tmp_path / "given.npz", key=keys, value=values)
    raw = write(tmp_path / "raw", ml_1m())
    manifest = build_quietly(raw, tmp_path, embedding=tmp_path / "given.npz")
    table = read_item_table(tmp_path / "MovieLens_1M/item.h5")["item_emb_d128"]
    for key, value in zip(keys, values, strict=True):
        np.testing.assert_array_equal(table[(key - 2) // 3 + 1], value)
    assert not table[1:3].any()
    assert manifest.facts["item_emb_d128"]["items_without_vector"] == 2
    assert "given.npz" in manifest.sources


def test_text_vectors_know_neither_untrained_films_nor_later_tags(tmp_path):
    vectors = []
    for number, late_tag in enumerate(("king queen", "robot space")):
        files = ml_latest()
        files["tags.csv"] = files["tags.csv"].replace("king queen", late_tag)
        raw = write(tmp_path / str(number), files)
        build_quietly(raw, tmp_path / str(number))
        vectors.append(read_item_table(tmp_path / str(number) / "MovieLens_small/item.h5")["item_emb_d128"])
    np.testing.assert_array_equal(*vectors)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_titles_of_dat_files_in_utf_8(tmp_path, encoding):
    raw = write(tmp_path / "raw", ml_1m())
    first = make_movies()[0][1]
    movies = (raw / "movies.dat").read_text(encoding="latin-1").replace(first, "L\u00e9on", 1)
    (raw / "movies.dat").write_text(movies, encoding=encoding)
    build_quietly(raw, tmp_path / "data")
    assert read_item_titles(tmp_path / "data/MovieLens_1M")[1] == "L\u00e9on"


def test_files_as_a_spreadsheet_on_windows_saves_them(built, tmp_path):
    dataset_id, raw, store = built
    (tmp_path / "raw").mkdir()
    for file in raw.iterdir():
        text = file.read_text(encoding="latin-1" if file.suffix == ".dat" else "utf-8").replace("\n", "\r\n")
        (tmp_path / "raw" / file.name.upper()).write_bytes(f"{text}\r\n\r\n".encode("utf-8-sig"))
    build_quietly(tmp_path / "raw", tmp_path / "data")
    again = Store.open(tmp_path / "data", dataset_id)
    assert again.manifest.files == store.manifest.files
    assert again.manifest.facts == store.manifest.facts


def test_films_whose_texts_are_all_equal(tmp_path):
    files = ml_latest()
    films = "".join(f"{row * 3 + 2},Dark Space (1950),Drama\n" for row in range(MOVIES))
    raw = write(tmp_path / "raw", {**files, "movies.csv": f"movieId,title,genres\n{films}"})
    (raw / "tags.csv").unlink()
    manifest = build_quietly(raw, tmp_path / "data")
    assert manifest.facts["item_emb_d128"]["explained_variance"] is None
    vectors = read_item_table(tmp_path / "data/MovieLens_small")["item_emb_d128"]
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors[1:], axis=1) == pytest.approx(1)
    assert Store.open(tmp_path / "data", "MovieLens_small").manifest.facts == manifest.facts


def replaced(maker, file, old, new):
    files = maker()
    assert old in files[file]
    return {**files, file: files[file].replace(old, new, 1)}


FIRST = "::".join(map(str, make_log().row(0)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": "hello"}, r"does not match a known layout.*ml-1m \(ratings.dat.*ml-latest.*tail20"),
        (replaced(ml_latest, "ratings.csv", "rating,", "stars,"), r"ratings\.csv: column 'rating' is missing"),
        (replaced(tail, "movies.csv", "Plot", "Story"), r"movies\.csv: column 'Plot' is missing"),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "1::2::five::3"),
            r"ratings\.dat: column 'Rating', row 1: 'five' is not a number",
        ),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "1::2::7::3"),
            r"ratings\.dat: column 'Rating', row 1: 7\.0 is not a rating of 0\.5 to 5",
        ),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "1::2::5::soon"),
            r"ratings\.dat: column 'Timestamp', row 1: 'soon' is not a whole number",
        ),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "1::2::5::-4"),
            r"column 'Timestamp', row 1: -4 is not a time in seconds since 1970",
        ),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "1::3::5::4"),
            r"column 'MovieID', row 1: 3 is not a movie of the movies file",
        ),
        (
            replaced(ml_1m, "ratings.dat", FIRST, "99::2::5::4"),
            r"column 'UserID', row 1: 99 is not a user of the users file",
        ),
        (
            replaced(ml_1m, "movies.dat", "\n5::", "\n2::"),
            r"movies\.dat: movie 2 is described twice, in rows 1 and 2",
        ),
        (replaced(ml_1m, "users.dat", "\n2::", "\n1::"), r"users\.dat: user 1 is described twice"),
        (
            {**ml_latest(), "ratings.csv": "userId,movieId,rating,timestamp\n1,2,5,7\n1,5,1,7\n2,5,4,7\n"},
            "the valid split is empty: 3 ratings at 1 different times",
        ),
        ({**ml_latest(), "ratings.csv": "userId,movieId,rating,timestamp\n"}, r"ratings\.csv: there are no ratings"),
        ({**tail(), "ratings_test.csv": "UserID,MovieID,Rating,Timestamp\n"}, "the test split is empty"),
    ],
)
def test_wrong_downloads_are_refused_and_leave_nothing(tmp_path, files, message):
    raw = write(tmp_path / "raw", files)
    with pytest.raises(DataError, match=message):
        build_quietly(raw, tmp_path / "data")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").glob("*MovieLens*"))


def test_an_entry_that_the_layout_cannot_fill_is_refused(tmp_path):
    raw = write(tmp_path / "raw", ml_latest())
    with pytest.raises(ConfigError, match="layout ml-latest does not provide column 'gender'"):
        build_quietly(raw, tmp_path, dataset_id="MovieLens_1M")
    with pytest.raises(ConfigError, match="no likes_level with `source: item`"):
        build_quietly(raw, tmp_path, dataset_id="MovieLens_small", levels_on_items=True)
    with pytest.raises(ConfigError, match="Did you mean 'MovieLens_small'"):
        build_quietly(raw, tmp_path, dataset_id="MovieLens_smal")


def test_an_existing_dataset_is_kept_unless_asked(tmp_path):
    raw = write(tmp_path / "raw", ml_latest())
    build_quietly(raw, tmp_path)
    with pytest.raises(DataError, match="already holds a dataset"):
        build_quietly(raw, tmp_path)
    build_quietly(raw, tmp_path, overwrite=True)


def test_the_command_prints_facts_and_turns_errors_into_one_line(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("movielens_script", ROOT / "datasets/movielens.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    raw = write(tmp_path / "raw", ml_1m())
    script.main(["--raw", str(raw), "--data-root", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "MovieLens_1M: 30 items" in printed
    assert "floor_auc_user_item_mean: 0." in printed
    with pytest.raises(SystemExit) as caught:
        script.main(["--raw", str(tmp_path / "nowhere"), "--data-root", str(tmp_path)])
    assert caught.value.code == 2
    assert "nowhere does not exist: pass a folder or a zip file" in capsys.readouterr().err


def test_a_tail_with_all_columns_of_the_real_one(tmp_path):
    """Columns that are not read, with commas in quotes, change nothing; a seventh of each user's rows is valid."""
    files = tail()
    people = 'Director,"Tom Hanks,Tim Allen",81 minutes,"English,Français",G'
    head, *films = files["movies.csv"].splitlines()
    films = [re.sub(r'^(\d+,"[^"]*",\d+,[^,]*),', rf"\1,{people},", film) + ",https://example.org/1" for film in films]
    head = head.replace("Plot", "Director,Cast,Runtime,Languages,Certificate,Plot,Url")
    assert all(people in film for film in films)
    wider = {**files, "movies.csv": "\n".join([head, *films]) + "\n"}
    stores = [
        build_quietly(write(tmp_path / name, raw), tmp_path / f"{name}_data")
        for name, raw in (("narrow", files), ("wide", wider))
    ]
    assert stores[0].files == stores[1].files
    early, late = (files[f"ratings_{part}.csv"].count("\n") - 1 for part in ("validation", "test"))
    splits = {name: split.rows for name, split in stores[1].splits.items()}
    assert splits["test"] == late
    assert splits["train"] + splits["valid"] == early
    assert splits["valid"] / early == pytest.approx(0.15, abs=0.05)
    assert stores[1].items == MOVIES + 1


def test_a_zip_file_with_all_files_of_the_real_one(tmp_path):
    """In its own folder, with files that are not read beside those that are."""
    files = {**ml_latest(), "links.csv": "movieId,imdbId,tmdbId\n2,0114709,862\n", "README.txt": "Summary\n"}
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as archive:
        archive.writestr("ml-latest-small/", "")
        for name, content in files.items():
            archive.writestr(f"ml-latest-small/{name}", content)
    manifest = build_quietly(tmp_path / "ml-latest-small.zip", tmp_path)
    assert manifest.dataset_id == "MovieLens_small"
    assert sum(split.rows for split in manifest.splits.values()) == USERS * MOVIES
    assert manifest.items == MOVIES + 1


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """The tail with event features, and without: (log by user and item, dataset, dataset without)."""
    base = tmp_path_factory.mktemp("times")
    raw = write(base / "raw", tail())
    build_quietly(raw, base)
    assert build_quietly(raw, base, event_times=True).dataset_id == "MovieLens_times"
    log = {(user, (movie - 2) // 3 + 1): time for user, movie, _, time in make_log().rows()}
    return log, Store.open(base, "MovieLens_times"), Store.open(base, "MovieLens")


def test_event_times_say_when_each_film_of_a_history_was_rated(timed):
    log, store, _ = timed
    features = store.manifest.facts["event_features"]
    boundaries = features["event_age"]["boundaries"]
    ages = []
    for split in SPLITS:
        with SplitReader(store.split_path(split)) as reader:
            users, times = (reader.read(name, 0, reader.rows) for name in ("user_id", "timestamp"))
            targets = {name: reader.read(name, 0, reader.rows) for name in features}
            history = reader.read_jagged(0, reader.rows, events=list(features))
        for row, (user, now) in enumerate(zip(users, times, strict=True)):
            then = datetime.fromtimestamp(now, UTC)
            assert targets["event_weekday"][row] == then.weekday() + 1
            assert targets["event_hour"][row] == then.hour + 1
            assert targets["event_age"][row] == len(boundaries) + 2  # a code of its own
            for at in range(history.offsets[row], history.offsets[row + 1]):
                rated = log[user, history.values[at]]
                age = now - rated
                assert age > 0
                assert history.events["event_age"][at] == sum(age >= boundary for boundary in boundaries) + 1
                assert history.events["event_weekday"][at] == datetime.fromtimestamp(rated, UTC).weekday() + 1
                assert history.events["event_hour"][at] == datetime.fromtimestamp(rated, UTC).hour + 1
                if split == "train":
                    ages.append(age)
    expected = np.unique(np.quantile(ages, np.arange(1, 16) / 16, method="higher"))  # of train alone
    assert boundaries == expected[expected > min(ages)].tolist()
    assert len(boundaries) > 10


def test_event_times_change_nothing_else(timed):
    _, store, without = timed
    assert without.manifest.event_columns == []
    for split in SPLITS:
        with SplitReader(store.split_path(split)) as one, SplitReader(without.split_path(split)) as other:
            for a, b in zip(one.read_history(0, one.rows), other.read_history(0, other.rows), strict=True):
                np.testing.assert_array_equal(a, b)
            for name in other.columns:
                np.testing.assert_array_equal(one.read(name, 0, one.rows), other.read(name, 0, other.rows))


def test_event_times_need_their_columns(tmp_path):
    raw = write(tmp_path / "raw", tail())
    with pytest.raises(ConfigError, match=r"no column with `source: event`, which --event-times needs"):
        build_quietly(raw, tmp_path, dataset_id="MovieLens", event_times=True)
    with pytest.raises(ConfigError, match="does not provide column 'event_age'"):
        build_quietly(raw, tmp_path, dataset_id="MovieLens_times")
