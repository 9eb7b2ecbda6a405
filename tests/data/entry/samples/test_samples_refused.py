"""Samples that are wrong, or that do not fit their entry, get one line, and nothing is left on disk."""

import polars as pl
import pytest

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.ready_samples import entry_of, make_items, make_rows, make_users
from tests.helpers.sequence_csv import dataset_entry, frame_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history_col": "click"}, r"train.parquet: column 'click' is missing. Did you mean 'clicks'"),
        ({"item_data": "nowhere.parquet"}, r"item_data: nowhere.parquet does not exist"),
        ({"user_col": "id"}, r"users.parquet: column 'id' is missing"),
        ({"item_col": "item"}, r"item_col 'item' must be an active column of type categorical"),
        ({"negatives": {"ratio": 2}}, r"`negatives` means nothing for samples that are ready"),
        ({"history_col": ["clicks", "clicks"]}, r"history_col names a column twice"),
        ({"valid_data": None}, r"there is no `valid_data`, by which training selects"),
        ({"split": {"by": "user"}}, r"`split` cuts `train_data` into pieces"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(shop, change, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build_entry(entry_of(shop, **change))
    assert not (shop / "data/Shop").exists()


@pytest.mark.parametrize("column", ["a text", {"name": {"a": 1}}, {"name": None}, ["name"], {"name": [["x"]]}])
def test_a_column_that_is_none_is_refused(shop, column):
    with pytest.raises(ConfigError, match="feature_cols: .* (has no name|cannot be the name of a column)"):
        build_entry(entry_of(shop, feature_cols=[*entry_of(shop)["feature_cols"], column]))


def test_damaged_rows_of_samples_without_items_are_named(tmp_path):
    """These are read for the first time when vocabularies are learnt."""
    for number, split in enumerate(("train", "valid", "test")):
        frame_of(3000, seed=number).write_parquet(tmp_path / f"{split}.parquet")
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    # The pages of the first column.
    content[4:1000] = b"\xff" * 996
    (tmp_path / "train.parquet").write_bytes(content)
    entry = dataset_entry(tmp_path, "Shop", tmp_path / "data")["Shop"]
    entry |= {"dataset_id": "Shop", "data_format": "parquet"}
    files = {f"{split}_data": str(tmp_path / f"{split}.parquet") for split in ("train", "valid", "test")}
    with pytest.raises(DataError, match="train.parquet cannot be read"):
        build_entry(entry | files)
    assert not (tmp_path / "data/Shop").exists()


def test_columns_that_are_no_list_are_refused(shop):
    with pytest.raises(ConfigError, match="feature_cols must be a list of columns, not 64"):
        build_entry(entry_of(shop, feature_cols=64))


def test_contradictions_in_a_table_with_a_column_named_row_are_named(shop):
    users = make_users().with_columns(row=pl.lit(1))
    pl.concat([users, users[:1].with_columns(city=pl.lit("elsewhere"))]).write_parquet(shop / "users.parquet")
    columns = [*entry_of(shop)["feature_cols"], {"name": "row", "dtype": "int", "type": "numeric", "source": "user"}]
    with pytest.raises(DataError, match="occurs more than once with different values of 'city', again in row 10"):
        build_entry(entry_of(shop, feature_cols=columns))


@pytest.mark.parametrize("text", ['["item 1", "item 2"]', "[]", "['item 1'\n 'item 2']"])
def test_lists_in_brackets_are_no_ids(shop, text):
    frame = make_rows(0, 200).with_columns(pl.col("clicks").list.eval(pl.element().fill_null("")).list.join("^"))
    clicks = frame["clicks"].to_list()
    clicks[7] = text
    frame.with_columns(clicks=pl.Series(clicks)).write_csv(shop / "train.csv")
    with pytest.raises(DataError, match=r"train.csv: column 'clicks', row 7 .*: write the ids with \^ between them"):
        build_entry(entry_of(shop, train_data=str(shop / "train.csv")))


def test_tables_that_share_no_id_or_few(shop, capsys):
    users = make_users()
    build_entry(entry_of(shop))
    # User 1 has no row.
    train = make_rows(0, 200)["user_id"].drop_nulls()
    absent = train.filter(~train.is_in(users["user_id"].implode())).n_unique()
    assert absent == 1
    note = f"users.parquet lacks 1 of {train.n_unique()} users of the training samples: their features are missing"
    assert note in capsys.readouterr().out
    users.with_columns(user_id=pl.int_range(len(users))).write_parquet(shop / "users.parquet")
    with pytest.raises(DataError, match=r"no user_id of \S*train.parquet is in \S*users.parquet: ids must have"):
        build_entry(entry_of(shop), overwrite=True)
    make_users().write_parquet(shop / "users.parquet")
    make_items().with_columns(item_id=pl.int_range(30)).write_parquet(shop / "items.parquet")
    with pytest.raises(DataError, match=r"no item_id of \S*train.parquet is in \S*items.parquet: ids must have"):
        build_entry(entry_of(shop), overwrite=True)


def test_wrong_values_are_named(shop):
    frame = make_rows(0, 200)
    frame.with_columns(item_id=pl.when(pl.int_range(200) == 7).then(None).otherwise("item_id")).write_parquet(
        shop / "train.parquet"
    )
    with pytest.raises(DataError, match=r"train.parquet: column 'item_id', row 7 .*: the sample has no item"):
        build_entry(entry_of(shop))
    frame.with_columns(label=pl.col("label") * 2).write_parquet(shop / "train.parquet")
    with pytest.raises(DataError, match=r"column 'label': value 2.0 is not a label"):
        build_entry(entry_of(shop))
    frame.write_parquet(shop / "train.parquet")
    items = make_items()
    pl.concat([items, items[:2]]).write_parquet(shop / "items.parquet")
    build_entry(entry_of(shop))
    pl.concat([items, items[:1].with_columns(brand=pl.lit("x"))]).write_parquet(shop / "items.parquet")
    with pytest.raises(DataError, match=r"item_id 'item \d+' occurs more than once with different values of 'brand'"):
        build_entry(entry_of(shop), overwrite=True)
    items.with_columns(vector=pl.when(pl.int_range(30) == 5).then(pl.lit([1.0])).otherwise("vector")).write_parquet(
        shop / "items.parquet"
    )
    with pytest.raises(DataError, match=r"items.parquet: column 'vector', row 5: a vector of 1 numbers, but 5 are"):
        build_entry(entry_of(shop), overwrite=True)
