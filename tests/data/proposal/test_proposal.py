"""From files to an entry and experiments: roles of files and columns, what is written, and what is refused."""

import numpy as np
import polars as pl
import pytest
import yaml

from fuxictr_multimodal.config.expids import list_expids, load_config, load_dataset_config
from fuxictr_multimodal.config.packaged import packaged
from fuxictr_multimodal.data.proposal.column_roles import find_roles
from fuxictr_multimodal.data.proposal.lines import Noted, block
from fuxictr_multimodal.data.proposal.tables import look_at
from fuxictr_multimodal.data.proposal.write import propose
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from tests.helpers import shop


@pytest.fixture
def files(tmp_path):
    """Write tables as csv or parquet files, by name, and return their paths."""

    def write(**frames):
        paths = []
        for name, frame in frames.items():
            name = name.replace("__", ".")
            path = tmp_path / (name if "." in name else f"{name}.parquet")
            frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
            paths.append(str(path))
        return paths

    return write


@pytest.fixture
def proposed(tmp_path):
    def run(paths, **options):
        found = propose(paths, dataset_id="Shop", config_dir=tmp_path / "config", **options)
        return found, load_dataset_config(tmp_path / "config", "Shop")

    return run


def columns_of(entry):
    return {column["name"]: column for column in entry["feature_cols"]}


def test_a_log_with_items_and_users(files, proposed, tmp_path):
    paths = files(log=shop.log(600), items=shop.items(), users__csv=shop.users())
    found, entry = proposed(paths)
    assert entry["interactions"] == {
        "file": paths[0], "user": "user_id", "item": "item_id", "time": "timestamp", "time_unit": "s",
        "label": "click", "positive": "> 0",
    }  # fmt: skip
    assert (entry["item_data"], entry["user_data"]) == (paths[1], paths[2])
    assert (entry["item_col"], entry["group_id"], entry["split"]["by"]) == ("item_id", "user_id", "time")
    # How long an event took is known of history events, not yet of the target.
    assert [column["name"] for column in entry["event_cols"]] == ["age", "weekday", "hour", "dwell_time"]
    columns = columns_of(entry)
    assert columns["categories"] == {
        "name": "categories", "active": True, "dtype": "str", "type": "sequence", "source": "item",
    }  # fmt: skip
    assert (columns["vector"]["type"], columns["vector"]["pretrain_dim"]) == ("embedding", shop.WIDTH)
    assert columns["price"]["category_processor"] == "quantile_bucket"
    assert columns["country"] == {
        "name": "country", "active": True, "dtype": "str", "type": "categorical", "source": "user",
    }  # fmt: skip
    # An age of the user and the age of an event are two features.
    assert columns["user_age"]["preprocess"] == "copy_from(age)"
    # What says nothing is off.
    assert [name for name, column in columns.items() if not column["active"]] == ["joined", "warehouse"]
    assert "dwell_time" not in columns
    assert "title" not in columns
    text = found.files[0].read_text()
    assert "# - {name: title, active: True, dtype: str, type: text" in text
    assert f"user: user_id  # {shop.USERS} distinct texts; in users.csv too" in text
    assert found.checks == []

    assert list_expids(tmp_path / "config") == ["DCNv2_Shop", "DIN_Shop", "QIN_Shop", "Trees_Shop"]
    params = load_config(tmp_path / "config", "QIN_Shop")
    assert (params["model"], params["embedding_dim"]) == ("QIN", 8)
    # To be tried by the user, with what there is.
    assert "event_features" not in params
    assert "    # event_features: all  # age, weekday, hour, dwell_time of the target" in found.files[1].read_text()
    assert params["metrics"] == ["AUC", "gAUC", "logloss"]


def test_samples_with_histories_and_their_times(files, proposed):
    ready = shop.samples(600)
    paths = files(train=ready[:400], valid=ready[400:500], test=ready[500:], items=shop.items())
    found, entry = proposed(paths)
    assert [entry[f"{split}_data"] for split in ("train", "valid", "test")] == paths[:3]
    assert (entry["history_col"], entry["item_data"]) == ("click_history", paths[3])
    assert entry["event_cols"][0] == {"name": "age", "bins": 16, "history": "click_times", "target": "timestamp"}
    assert columns_of(entry)["timestamp"]["type"] == "meta"
    assert entry["label_col"] == {"name": "click", "dtype": "float"}
    assert found.checks == ["the newest item of click_history must be the last one"]


def test_one_file_of_samples_is_split_by_time(files, proposed):
    _, entry = proposed(files(impressions=shop.samples(300)))
    assert entry["split"] == {"by": "time", "time": "timestamp", "valid": 0.1, "test": 0.1}
    assert "item_data" not in entry


def test_a_log_of_positives_and_one_with_kinds_of_events(files, proposed):
    log = shop.log(300)
    _, entry = proposed(files(positives=log.filter(click=1).drop("click")))
    assert entry["negatives"] == {"ratio": 3, "by": "uniform", "seed": 1}
    assert "label" not in entry["interactions"]

    found, entry = proposed(files(kinds=shop.log(600, kinds=True)), overwrite=True)
    log = entry["interactions"]
    assert (log["behaviour"], log["target_behaviour"], sorted(log["behaviours"])) == (
        "action",
        "buy",
        ["buy", "cart", "view"],
    )
    assert any("action is taken for the kind of event" in check for check in found.checks)


def test_kinds_of_events_that_tell_the_label_are_all_samples(files, proposed):
    log = shop.log(600)
    kind = pl.when(pl.col("click") == 0).then(pl.lit("view")).when(pl.col("device") == "phone").then(pl.lit("buy"))
    _, entry = proposed(files(kinds=log.with_columns(action=kind.otherwise(pl.lit("click")))))
    assert "target_behaviour" not in entry["interactions"]
    assert sorted(entry["interactions"]["behaviours"]) == ["buy", "click"]


def test_the_nameless_index_of_pandas_is_neither_feature_nor_key(files, proposed):
    def indexed(frame, numbers):
        return frame.with_columns(pl.Series("__index_level_0__", numbers))

    # In the log the numbers come again, as after a `concat`: a key of the other files would look like that.
    paths = files(
        log=indexed(shop.log(600), [row % 50 for row in range(600)]),
        items=indexed(shop.items(), range(shop.ITEMS)),
        users=indexed(shop.users(), range(shop.USERS)),
    )
    found, entry = proposed(paths)
    assert (entry["interactions"]["user"], entry["item_col"], entry["user_data"]) == ("user_id", "item_id", paths[2])
    assert "__index_level_0__" not in columns_of(entry)
    lines = [line for line in found.files[0].read_text().splitlines() if "__index_level_0__" in line]
    assert len(lines) == 3
    assert all(line.lstrip().startswith("# - {") for line in lines)
    assert all(line.endswith("the index of pandas, no feature") for line in lines)
    assert found.checks == []


def test_the_index_of_pandas_is_no_label(files, proposed):
    log = shop.log(600).rename({"click": "outcome_flag"}).with_row_index("__index_level_0__")
    log = log.with_columns(pl.col("__index_level_0__").cast(pl.Int64) % 2)
    _, entry = proposed(files(log=log))
    assert entry["interactions"]["label"] == "outcome_flag"


def test_weights_of_samples_are_no_feature(files, proposed):
    _, entry = proposed(files(impressions=shop.samples(300).with_columns(weight=pl.col("click") + 0.5)))
    assert entry["weight_col"] == "weight"
    assert "weight" not in columns_of(entry)


def test_ratings_become_positive_from_four_fifths_on(files, proposed):
    rng = np.random.default_rng(0)
    ratings = pl.DataFrame({
        "userId": rng.integers(1, 30, 400), "movieId": rng.integers(1, 50, 400),
        "rating": rng.choice([0.5, 1, 2, 3, 3.5, 4, 4.5, 5], 400),
        "timestamp": 964_982_703 + rng.integers(0, 10**8, 400),
    })  # fmt: skip
    movies = pl.DataFrame({"movieId": range(1, 61), "genres": ["Action|Drama", "Drama", "Comedy"] * 20})
    found, entry = proposed(files(ratings__csv=ratings, movies__csv=movies))
    assert entry["data_format"] == "csv"
    log = entry["interactions"]
    assert (log["user"], log["item"], log["label"], log["positive"]) == ("userId", "movieId", "rating", ">= 4")
    assert (entry["item_col"], entry["group_id"]) == ("movieId", "userId")
    assert columns_of(entry)["genres"]["splitter"] == "|"
    assert found.checks == ["events with rating >= 4 are taken as positive"]


def test_plain_features_without_items(files, proposed, tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({
        "clk": rng.integers(0, 2, 300), "I1": rng.normal(size=300), "I2": np.exp(rng.normal(0, 3, 300)),
        "C1": rng.choice(["a", "b"], 300), "hour": rng.integers(0, 24, 300),
    })  # fmt: skip
    found, entry = proposed(files(data=frame))
    assert entry["split"]["by"] == "order"
    assert entry["group_id"] is None
    assert {name: column["type"] for name, column in columns_of(entry).items()} == {
        "I1": "numeric", "I2": "categorical", "C1": "categorical", "hour": "categorical",
    }  # fmt: skip
    assert columns_of(entry)["I1"]["normalizer"] == "StandardScaler"
    assert found.checks == ["the last rows become test: they should be the newest, or in random order"]
    assert list_expids(tmp_path / "config") == ["QIN_Shop"]
    assert load_config(tmp_path / "config", "QIN_Shop")["metrics"] == ["AUC", "logloss"]


def test_labels_that_are_written_as_texts(files, proposed):
    log = shop.log(300).with_columns(click=pl.Series(["True", "False"] * 150))
    _, entry = proposed(files(log__csv=log))
    assert entry["interactions"]["positive"] == "== True"
    ready = shop.samples(90).select("user_id", "device", click=pl.Series(["yes", "no"] * 45) == "yes")
    with pytest.raises(ConfigError, match="the label 'click' is written as texts: write it as 0 and 1"):
        proposed(files(train__csv=ready, valid__csv=ready), overwrite=True)


def test_outcomes_of_an_event_are_no_features_of_it(files, proposed):
    log = shop.log(300).with_columns(like=pl.Series([0, 1] * 150), share_count=pl.Series(range(300)))
    found, entry = proposed(files(log=log))
    assert not columns_of(entry)["like"]["active"]
    assert columns_of(entry)["share_count"]["active"]  # of the past, as counts are
    assert "it looks like an outcome of the event, which would be the answer" in found.files[0].read_text()


def test_uncertain_guesses_are_said(files, proposed):
    log = shop.log(300).with_columns(like=pl.Series([0, 1] * 150), ts2=pl.col("timestamp") + 5)
    found, _ = proposed(files(log=log))
    assert any(check.startswith("click is taken for the label; so could be like") for check in found.checks)
    assert any("is taken for the time" in check and "so could be ts2" in check for check in found.checks)
    text = found.files[0].read_text()
    assert "label: click  # check: 0 and 1" in text


def test_the_user_has_the_last_word(files, proposed):
    log = shop.log(300).rename({"user_id": "who", "item_id": "what"}).with_columns(other=pl.Series([0, 1] * 150))
    _, entry = proposed(files(log=log), named={"user": "who", "item": "what", "label": "other", "time": "timestamp"})
    assert (entry["interactions"]["user"], entry["interactions"]["item"]) == ("who", "what")
    assert entry["label_col"]["name"] == "other"
    assert not columns_of(entry)["click"]["active"]


def test_nothing_is_overwritten_and_one_base_is_enough(files, proposed, tmp_path):
    paths = files(log=shop.log(300))
    (tmp_path / "config/model_config").mkdir(parents=True)
    base = (packaged("config") / "model_config/base.yaml").read_text()
    (tmp_path / "config/model_config/base.yaml").write_text(base)
    found, _ = proposed(paths)
    assert "Base" not in yaml.safe_load(found.files[1].read_text())
    before = found.files[0].read_bytes()
    with pytest.raises(ConfigError, match=r"dataset_config/Shop\.yaml exists: .* replace it with --overwrite"):
        proposed(paths)
    proposed(paths, overwrite=True)
    assert found.files[0].read_bytes() == before
    (tmp_path / "config/model_config/mine.yaml").write_text("QIN_Cart: {model: QIN, dataset_id: Shop}")
    with pytest.raises(ConfigError, match="has 'QIN_Cart' in another file"):
        propose(paths, dataset_id="Cart", config_dir=tmp_path / "config")
    assert not (tmp_path / "config/dataset_config/Cart.yaml").exists()


def test_a_folder_with_single_files_is_left_alone(files, proposed, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/model_config.yaml").write_text("Base: {}")
    with pytest.raises(ConfigError, match=r"has its entries in model_config\.yaml: move that file to"):
        proposed(files(log=shop.log(300)))


RATINGS = pl.DataFrame(
    {
        "user_id": [f"u{n % 20}" for n in range(90)],
        "item_id": [f"i{n % 30}" for n in range(90)],
        "timestamp": range(1_700_000_000, 1_700_000_090),
        "rating": [n % 5 + 1 for n in range(90)],
    }
)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"log": shop.log(90), "items": shop.items().rename({"item_id": "id"})}, "rename 'id' to 'item_id', whose"),
        ({"a": shop.log(90), "b": shop.log(80)}, "share no column of ids"),
        ({"train": shop.log(90), "test": shop.log(90)}, "no validation samples, by which training selects"),
        ({"valid": shop.log(90), "test": shop.log(90)}, "no file is named train"),
        ({"data": pl.DataFrame({"x": [1.5, 2.5], "y2": [3, 4]})}, "no column of 0 and 1 looks like the label"),
        ({"log": shop.log(0)}, "has no rows"),
        (
            {"log": RATINGS.drop("user_id")},
            "no column of user ids, as a log needs it, and the label 'rating' is not 0 and 1, .* with --user,",
        ),
        ({"log": RATINGS.drop("item_id")}, "no column of item ids, as a log needs it, .* name the column with --item,"),
        (
            {"log__csv": RATINGS.with_columns(pl.Series("item_id", [float(n % 9) for n in range(90)]))},
            "log.csv: the ids in column 'item_id' are written with a point, such as 0.0: write them as whole numbers",
        ),
        ({"x": RATINGS.select(pl.col("user_id").alias("1e3"), **{"": pl.Series([0, 1] * 45)})}, "the column ''"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_understood(files, proposed, tmp_path, frames, message):
    with pytest.raises(InputError, match=message):
        proposed(files(**frames))
    assert not (tmp_path / "config").exists()


def test_decimals_are_numbers(files, proposed):
    decimals = RATINGS.with_columns(
        pl.col("rating").cast(pl.Decimal(10, 2)), price=pl.col("rating").cast(pl.Decimal(20, 4))
    )
    _, entry = proposed(files(log=decimals))
    assert entry["interactions"]["positive"] == ">= 4"
    assert columns_of(entry)["price"]["dtype"] == "float"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("%d/%m/%Y %H:%M", "looks like dates; write them as 2026-01-31 12:30:00"),
        ("%d.%m.%y %H:%M:%S", "looks like dates; write them as 2026-01-31 12:30:00"),
        ("%a %b %d %H:%M:%S %Y", "looks like dates; write them as 2026-01-31 12:30:00"),
        ("%d %B %Y", "looks like dates; write them as 2026-01-31 12:30:00"),
        ("%Y-%m-%d %H:%M:%S", "looks like dates; store them as datetimes"),
    ],
)
def test_dates_as_texts_are_no_lists(files, proposed, form, said):
    dated = RATINGS.with_columns(timestamp=pl.from_epoch(1_700_000_000 + pl.int_range(90) * 100_000).dt.strftime(form))
    found, entry = proposed(files(log=dated))
    column = columns_of(entry)["timestamp"]
    assert (column["active"], column["type"]) == (False, "categorical")
    assert f"# check: {said}\n" in found.files[0].read_text()
    assert f"timestamp {said}, so that it is taken for the time" in found.checks


def test_lists_in_brackets_are_no_lists_yet(files, proposed):
    listed = RATINGS.with_columns(tags=pl.Series(["['a', 'b']", "['b']", "[]"] * 30))
    found, entry = proposed(files(log__csv=listed))
    assert not columns_of(entry)["tags"]["active"]
    assert "# check: lists in brackets; write the values with ^ between them\n" in found.files[0].read_text()


def test_columns_that_an_entry_cannot_name_are_left_out(files, proposed, tmp_path):
    odd = RATINGS.with_columns(
        **{"1e3": pl.lit("a"), "": pl.Series(["b", "c"] * 45), "1.5E-2": pl.Series(["b", "c"] * 45)}
    )
    found, entry = proposed(files(log=odd))
    assert set(columns_of(entry)) == {"user_id", "item_id"}
    assert found.files[0].read_text().count("the name cannot be that of a column: rename it in the file") == 3


def test_names_that_are_wrong(files, proposed):
    paths = files(log=shop.log(90))
    with pytest.raises(ConfigError, match="has no column 'clik' for --label. Did you mean 'click'?"):
        proposed(paths, named={"label": "clik"})
    with pytest.raises(ConfigError, match="a file is named twice"):
        proposed(paths * 2)
    with pytest.raises(DataError, match="nothing.parquet does not exist"):
        proposed(["nothing.parquet"])


def test_a_csv_file_without_a_header(tmp_path, proposed):
    (tmp_path / "x.csv").write_text("1,5,0\n2,7,1\n")
    with pytest.raises(DataError, match="has no header: its first line must name the columns, found 1, 5, 0"):
        proposed([str(tmp_path / "x.csv")])


def test_large_files_are_sampled_from_all_over(tmp_path, monkeypatch):
    from fuxictr_multimodal.data.proposal import tables

    for name, value in {"WHOLE_ROWS": 100, "SAMPLE_ROWS": 200, "LIST_ROWS": 40, "WHOLE_BYTES": 1000}.items():
        monkeypatch.setattr(tables, name, value)
    ready = shop.samples(1000)
    ready.write_parquet(tmp_path / "x.parquet")
    found = look_at(str(tmp_path / "x.parquet"))
    assert (found.rows, found.whole) == (1000, False)
    times = found.columns["timestamp"]
    assert (times.examined, times.values.min(), times.values.max()) == (
        200, ready["timestamp"].min(), ready["timestamp"].max(),
    )  # fmt: skip
    assert found.columns["click_history"].examined == 40
    ready.select("user_id", "device", "click").write_csv(tmp_path / "x.csv")
    found = look_at(str(tmp_path / "x.csv"))
    assert 900 < found.rows < 1100
    assert found.seen.startswith("about ")
    assert find_roles([found], {"label": "click"}).label == "click"


def test_separators_of_csv_files(tmp_path, proposed):
    shop.log(90).write_csv(tmp_path / "log.csv", separator=";")
    _, entry = proposed([str(tmp_path / "log.csv")])
    assert entry["sep"] == ";"


def test_comments_and_odd_names_survive_yaml():
    value = {"a: b": Noted({"name": "x, y]", "to": 1e-5}, "it's #1\n of [all]"), "off": Noted(True, off=True)}
    text = block({"Shop": value})
    assert yaml.safe_load(text) == {"Shop": {"a: b": {"name": "x, y]", "to": 1e-5}}}
    assert text.count("\n") == 3
