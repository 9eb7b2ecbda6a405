"""Building a dataset: what is written, what is refused by name, and that nothing is left half-written."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from fuxictr_multimodal.data.store import Store, read_item_table, read_item_titles
from fuxictr_multimodal.data.store.builder import StoreExistsError
from fuxictr_multimodal.data.store.manifest import HistoryLength
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.store_build import FEATURE_COLS, ITEMS, LABEL_COL, build, builder, item_rows, piece, split_rows


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def edited(rows, **changes):
    """The rows with values replaced: `column=(row, value)`, or `column=array`."""
    columns = {name: values.copy() for name, values in rows[0].items()}
    for name, change in changes.items():
        if isinstance(change, tuple):
            row, value = change
            columns[name][row] = value
        else:
            columns[name] = change
    return columns, rows[1].copy(), rows[2].copy()


def append(data_root, split, pieces, **changes):
    """Append pieces to one split and leave without `finish`."""
    with builder(data_root, **changes) as building:
        building.write_items(item_rows())
        for rows in pieces:
            building.append(split, *rows)


def test_built_rows_come_back_in_the_dtypes_on_disk(tmp_path):
    rows = split_rows(40)
    manifest = build(tmp_path, splits={"train": rows, "valid": split_rows(10, 1)})
    store = Store.open(tmp_path, "tiny")
    assert store.manifest == manifest
    store.verify()
    with store.reader("train") as reader:
        assert {c.name: (c.dtype, c.role, c.shape) for c in reader.columns.values()} == {
            "label": ("uint8", "label", ()),
            "item_id": ("int32", "target", ()),
            "user_id": ("int64", "meta", ()),
            "time": ("int64", "meta", ()),
            "level": ("int32", "context", ()),
            "words": ("int32", "context", (3,)),
            "price": ("float32", "context", ()),
        }
        assert list(reader.columns.values()) == manifest.columns
        for name, values in rows[0].items():
            np.testing.assert_array_equal(reader.read(name, 0, 40), values.astype(reader.columns[name].dtype))
        values, offsets = reader.read_history(0, 40)
        np.testing.assert_array_equal(values, rows[1])
        np.testing.assert_array_equal(offsets, rows[2])
        assert (values.dtype, offsets.dtype) == (np.int32, np.int64)
    items = read_item_table(store.dir)
    assert items["item_id"].tolist() == list(range(ITEMS))
    np.testing.assert_array_equal(items["tags"], item_rows()["tags"])
    np.testing.assert_array_equal(items["emb"], item_rows()["emb"].astype(np.float32))
    assert [column.name for column in manifest.item_columns] == ["item_id", "tags", "emb"]


def test_metadata_is_exact(tmp_path, capsys):
    rows = split_rows(200)
    facts = build(tmp_path, splits={"train": rows, "valid": split_rows(10, 1)}).splits["train"]
    lengths = np.diff(rows[2])
    assert (facts.rows, facts.positives) == (200, int(rows[0]["label"].sum()))
    assert facts.users == len(np.unique(rows[0]["user_id"]))
    assert facts.items == len(np.unique(rows[0]["item_id"]))
    assert facts.history_length == HistoryLength(
        mean=lengths.mean(),
        p50=int(np.quantile(lengths, 0.5, method="inverted_cdf")),
        p95=int(np.quantile(lengths, 0.95, method="inverted_cdf")),
        max=int(lengths.max()),
    )
    assert facts.padding_share == pytest.approx(1 - lengths.mean() / 6, abs=1e-15)
    assert "train   200" in capsys.readouterr().out


def test_progress_goes_to_stderr(tmp_path, capsys):
    build(tmp_path, progress=True)
    printed = capsys.readouterr()
    assert "rows of tiny: 60.0 rows" in printed.err
    assert "rows of" not in printed.out


@pytest.mark.parametrize("rows_per_part", [8_000_000, 16])
def test_bytes_do_not_depend_on_the_pieces_or_on_when(tmp_path, rows_per_part):
    splits = {"train": split_rows(50), "valid": split_rows(10, 1)}
    first = build(tmp_path / "a", splits=splits, rows_per_part=rows_per_part)
    with builder(tmp_path / "b", rows_per_part=rows_per_part) as building:
        building.write_items(item_rows())
        for start, stop in [(0, 1), (1, 1), (1, 20), (20, 47), (47, 50)]:
            building.append("train", *piece(splits["train"], start, stop))
        building.append("valid", *splits["valid"])
        second = building.finish(split_method="by seed")
    assert files_of(tmp_path / "a" / "tiny") == files_of(tmp_path / "b" / "tiny")
    assert first.hash == second.hash
    assert set(first.files) | {"manifest.json"} == set(files_of(tmp_path / "a" / "tiny"))
    assert ("train/part-00003.h5" in first.files) == (rows_per_part == 16)


def test_test_split_may_lack_labels(tmp_path):
    unlabelled = split_rows(10, 2)
    del unlabelled[0]["label"]
    manifest = build(tmp_path, splits={"train": split_rows(9), "valid": split_rows(9, 1), "test": unlabelled})
    assert manifest.splits["test"].positives is None
    with Store.open(tmp_path, "tiny").reader("test") as reader:
        assert "label" not in reader.columns


def test_labels_of_a_split_are_given_always_or_never(tmp_path):
    labelled, unlabelled = split_rows(10, 2), split_rows(10, 2)
    del unlabelled[0]["label"]
    for pieces, message in [
        ([unlabelled, labelled], "is present, but earlier rows did not have it"),
        ([labelled, unlabelled], "is missing, but earlier rows had it"),
    ]:
        with pytest.raises(DataError, match=f"test.h5: column 'label' {message}"):
            append(tmp_path, "test", pieces)


ROWS = split_rows(12)
BAD_ROWS = {
    "missing column": (
        ({n: v for n, v in ROWS[0].items() if n != "level"}, *ROWS[1:]),
        r"train.h5: column 'level' is missing; found: label, item_id,",
    ),
    "unknown column": (edited(ROWS, levle=ROWS[0]["level"]), r"column 'levle' is not .* Did you mean 'level'\?"),
    "unequal columns": (
        edited(ROWS, level=np.zeros(11, int)),
        r"train.h5: column 'level' has 11 rows, but column 'label' has 12",
    ),
    "not an array": (edited(ROWS, level=3), r"column 'level' is 3, not an array"),
    "float ids": (edited(ROWS, level=np.zeros(12)), r"column 'level' holds float64, but must hold integers"),
    "text ids": (edited(ROWS, level=np.full(12, "a")), r"column 'level' holds <U1, but must hold integers"),
    "text users": (
        edited(ROWS, user_id=np.full(12, "a")),
        r"column 'user_id' holds <U1, but must hold integers .number text ids",
    ),
    "large users": (
        edited(ROWS, user_id=np.full(12, 2**63, np.uint64)),
        r"train.h5: row 0, column 'user_id': value 9223372036854775808 does not fit into int64",
    ),
    "text numbers": (edited(ROWS, price=np.full(12, "a")), r"column 'price' holds <U1, but must hold numbers"),
    "wrong width": (
        edited(ROWS, words=np.zeros((12, 4), int)),
        r"column 'words' has shape \(12, 4\), but must be \(rows, 3\)",
    ),
    "category beyond": (
        edited(ROWS, level=(3, 5)),
        r"train.h5: row 3, column 'level': value 5 is not in 0 to 4: its vocab_size is 5",
    ),
    "negative category": (edited(ROWS, level=(3, -1)), r"row 3, column 'level': value -1 is not in 0 to 4"),
    "token beyond": (edited(ROWS, words=((4, 2), 7)), r"row 4, column 'words' at \(2,\): value 7 is not in 0 to 6"),
    "NaN number": (edited(ROWS, price=(2, np.nan)), r"row 2, column 'price': value nan is not a finite float32"),
    "large number": (edited(ROWS, price=(2, 1e300)), r"row 2, column 'price': value 1e\+300 is not a finite float32"),
    "NaN label": (edited(ROWS, label=(5, np.nan)), r"train.h5: row 5, column 'label': value nan is not a label"),
    "label 2": (
        edited(ROWS, label=(5, 2)),
        r"train.h5: row 5, column 'label': value 2.0 is not a label: labels are 0 and 1",
    ),
    "target padding": (edited(ROWS, item_id=(1, 0)), r"row 1, column 'item_id': value 0 is not in 1 to 19: a target"),
    "target outside": (edited(ROWS, item_id=(1, 20)), r"row 1, column 'item_id': value 20 is not in 1 to 19"),
    "history outside": (
        (ROWS[0], np.where(np.arange(len(ROWS[1])) == ROWS[2][4], 20, ROWS[1]), ROWS[2]),
        r"train.h5: row 4: the history holds item 20; the item table has items 1 to 19",
    ),
    "history padding": (
        (ROWS[0], np.where(np.arange(len(ROWS[1])) == ROWS[2][4], 0, ROWS[1]), ROWS[2]),
        r"train.h5: row 4: the history holds item 0, which is padding: leave it out",
    ),
    "history too long": (
        (ROWS[0], np.ones(7, int), np.minimum(np.arange(13) * 7, 7)),
        r"train.h5: row 0: the history has 7 items, more than max_len 6: keep the newest 6",
    ),
    "history of floats": ((ROWS[0], ROWS[1] + 0.5, ROWS[2]), r"'history values' holds float64, but must hold integers"),
    "offsets too few": ((ROWS[0], ROWS[1], ROWS[2][:-1]), r"offsets have 12 entries, but 12 rows need 13"),
    "offsets short": ((ROWS[0], ROWS[1][:-1], ROWS[2]), r"offsets go from 0 to \d+, but there are \d+ history values"),
    "offsets fall": (
        (ROWS[0], ROWS[1], np.where(np.arange(13) == 3, -1, ROWS[2])),
        r"train.h5: row 2: history offsets decrease",
    ),
}
# A row with a history, for the rows that are edited above.
assert np.diff(ROWS[2])[4] > 0


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named_and_leave_nothing(tmp_path, case):
    rows, message = BAD_ROWS[case]
    with pytest.raises(DataError, match=message):
        build(tmp_path, splits={"train": rows})
    assert not list(tmp_path.iterdir())


def test_rows_are_counted_over_all_appends(tmp_path):
    with pytest.raises(DataError, match=r"train.h5: row 17, column 'level'"):
        append(tmp_path, "train", [ROWS, edited(ROWS, level=(5, 9))])


def bad_items(**changes):
    return {name: values for name, values in (item_rows() | changes).items() if values is not None}


def item_cell(name, row, value):
    values = item_rows()[name]
    values[row] = value
    return bad_items(**{name: values})


BAD_ITEMS = {
    "missing": (bad_items(tags=None), r"item.h5: column 'tags' is missing; found: emb"),
    "unknown": (bad_items(tag=np.zeros(ITEMS)), r"item.h5: column 'tag' is not .* Did you mean 'tags'\?"),
    "unequal": (bad_items(emb=np.zeros((3, 3))), r"item.h5: column 'emb' has 3 rows, but column 'tags' has 20"),
    "padding tags": (item_cell("tags", 0, 1), r"item.h5: row 0, column 'tags': \[1 1\] is not zero, but row 0 is padd"),
    "padding emb": (item_cell("emb", 0, 1), r"item.h5: row 0, column 'emb': \[1. 1. 1.\] is not zero"),
    "inf": (item_cell("emb", (4, 2), np.inf), r"item.h5: row 4, column 'emb' at \(2,\): value inf is not a finite"),
    "tag": (item_cell("tags", (4, 1), 9), r"item.h5: row 4, column 'tags' at \(1,\): value 9 is not in 0 to 8"),
    "flat": (bad_items(emb=np.zeros(ITEMS)), r"column 'emb' has shape \(20,\), but must be \(items, pretrain_dim\)"),
    "order": (bad_items(item_id=np.r_[0, np.arange(ITEMS - 1, 0, -1)]), r"row 1, .*: item 19 is not in its own row"),
    "empty": ({"tags": np.zeros((1, 2), int), "emb": np.zeros((1, 3))}, r"the item table has 1 rows"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_items_are_named_and_leave_nothing(tmp_path, case):
    columns, message = BAD_ITEMS[case]
    with pytest.raises(DataError, match=message), builder(tmp_path) as building:
        building.write_items(columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("emb", "pretrain_dim", 4, r"column 'emb' is 3 wide, but its pretrain_dim is declared as 4"),
        ("tags", "max_len", 3, r"column 'tags' is 2 wide, but its max_len is declared as 3"),
        ("item_id", "vocab_size", 21, r"'item_id' is declared with vocab_size 21, but the item table has 20 rows"),
    ],
)
def test_declared_widths_must_be_those_of_the_data(tmp_path, name, key, value, message):
    columns = [column | {key: value} if column["name"] == name else column for column in FEATURE_COLS]
    with pytest.raises(DataError, match=message):
        build(tmp_path, feature_cols=columns)


BAD_SPLITS = {
    "no valid": ({"train": split_rows(9)}, {}, r"valid.h5: the split is empty"),
    "empty test": (
        {"train": split_rows(9), "valid": split_rows(9, 1), "test": piece(split_rows(9, 2), 0, 0)},
        {},
        r"test.h5: the split is empty",
    ),
    "single class": (
        {"train": split_rows(9), "valid": edited(split_rows(9, 1), label=np.ones(9))},
        {},
        r"valid.h5: column 'label' is 1 in all 9 rows: AUC is undefined with a single class",
    ),
    "shared user": (
        {
            "train": split_rows(9),
            "valid": edited(split_rows(9, 1), user_id=(2, 77_777)),
            "test": edited(split_rows(9, 2), user_id=(4, 77_777)),
        },
        {"disjoint": ["user_id"]},
        r"column 'user_id': value 77777 occurs in splits 'valid' and 'test' \(1 such values\)",
    ),
    "time": (
        {"train": split_rows(9), "valid": edited(split_rows(9, 1), time=(3, 7))},
        {"ordered_by": "time"},
        r"column 'time': split 'train' reaches 8, but split 'valid' starts earlier, at 7: .* not in order of time",
    ),
    "time of a user": (
        {
            "train": edited(split_rows(3), user_id=np.array([1, 2, 1]), time=np.array([10, 50, 20])),
            "valid": edited(split_rows(3, 1), user_id=np.array([1, 2, 2]), time=np.array([21, 60, 40])),
        },
        {"ordered_by": "time", "ordered_within": "user_id"},
        r"split 'train' reaches 50 for user_id 2, but split 'valid' starts earlier, at 40",
    ),
    "no such column": (None, {"disjoint": ["user"]}, r"'user' is not a column of the splits. Did you mean 'user_id'\?"),
    "no meta column": (None, {"ordered_by": "level"}, r"ordered_by 'level' must be a meta column"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_splits_are_named_and_leave_nothing(tmp_path, case):
    splits, finish, message = BAD_SPLITS[case]
    with pytest.raises(DataError, match=message):
        build(tmp_path, splits=splits, finish=finish)
    assert not list(tmp_path.iterdir())


def test_kept_promises_pass(tmp_path):
    build(tmp_path, finish={"disjoint": ["user_id"], "ordered_by": "time", "ordered_within": "user_id"})
    build(tmp_path / "b", finish={"ordered_by": "time"})


def test_existing_dataset_is_kept_unless_overwrite_is_given(tmp_path):
    before = build(tmp_path)
    with pytest.raises(StoreExistsError, match=r"tiny already holds a dataset: give --overwrite"):
        build(tmp_path)
    assert Store.open(tmp_path, "tiny").manifest == before
    with pytest.raises(DataError, match="is empty"):
        build(tmp_path, splits={}, overwrite=True)
    assert Store.open(tmp_path, "tiny").manifest == before
    after = build(tmp_path, splits={"train": split_rows(9), "valid": split_rows(9, 1)}, overwrite=True)
    assert Store.open(tmp_path, "tiny").manifest == after
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", ".tiny.verified.json", "tiny"]


def test_foreign_files_are_never_replaced(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "raw.csv").write_text("1,2")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"tiny holds 'raw.csv', not a file of a dataset: move it away first"):
            build(tmp_path, overwrite=overwrite)
    assert (tmp_path / "tiny" / "raw.csv").read_text() == "1,2"


def test_an_unfinished_folder_is_replaced_only_on_request(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "train.h5").write_text("half")
    with pytest.raises(DataError, match=r"tiny exists but has no manifest.json .*: give --overwrite"):
        build(tmp_path)
    assert (tmp_path / "tiny" / "train.h5").read_text() == "half"
    manifest = build(tmp_path, overwrite=True)
    assert Store.open(tmp_path, "tiny").manifest == manifest


def test_interrupted_build_is_replaced_with_a_word(tmp_path, caplog):
    left = tmp_path / ".tiny.building"
    left.mkdir()
    (left / "train.h5").write_text("half")
    with caplog.at_level(logging.WARNING):
        build(tmp_path)
    assert "left over by an interrupted build" in caplog.text
    Store.open(tmp_path, "tiny").verify()


def test_build_killed_between_its_renames_is_undone(tmp_path):
    before = build(tmp_path)
    (tmp_path / "tiny").rename(tmp_path / ".tiny.replaced")
    with pytest.raises(StoreExistsError):
        build(tmp_path)
    assert Store.open(tmp_path, "tiny").manifest == before


def test_leaving_without_finish_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="ended without finish"):
        append(tmp_path, "train", [ROWS])
    assert not list(tmp_path.iterdir())


def test_any_exception_leaves_nothing(tmp_path):
    def pieces():
        yield ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(tmp_path, "train", pieces(), rows_per_part=4)
    assert not list(tmp_path.iterdir())


def test_sources_are_hashed_and_must_be_there(tmp_path):
    (tmp_path / "raw.tsv").write_bytes(b"abc")
    manifest = build(tmp_path, sources={"raw": tmp_path / "raw.tsv"})
    assert manifest.sources == {"raw": hashlib.sha256(b"abc").hexdigest()}
    with pytest.raises(DataError, match=r"source 'raw' does not exist: .*gone.tsv"):
        build(tmp_path, sources={"raw": tmp_path / "gone.tsv"}, overwrite=True)


def without(name):
    return [column for column in FEATURE_COLS if column["name"] != name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_id": "../evil"}, r"a dataset_id has letters, digits, _, . and - only"),
        ({"max_len": 0}, r"max_len must be an integer of at least 1, not 0"),
        ({"feature_cols": without("item_id")}, r"item_col 'item_id' must be an active column of type categorical"),
        ({"group_id": "user"}, r"group_id 'user' is not an active column of the splits. Did you mean 'user_id'\?"),
        ({"group_id": "tags"}, r"group_id 'tags' is not an active column of the splits"),
        ({"label_col": {"name": "level", "dtype": "float"}}, r"'level' is both the label and a feature"),
        ({"label_col": [LABEL_COL, LABEL_COL]}, r"label_col must be one column"),
        (
            {"feature_cols": [*FEATURE_COLS, {"name": "x", "dtype": "int", "type": "meta", "source": "item"}]},
            r"column 'x': a meta column travels with the row",
        ),
        (
            {"feature_cols": [*FEATURE_COLS, {"name": "x", "dtype": "int", "type": "sequence", "vocab_size": 3}]},
            r"column 'x': a sequence outside the item table needs max_len",
        ),
        (
            {"feature_cols": [*FEATURE_COLS, {"name": "x", "dtype": "list", "type": "embedding"}]},
            r"column 'x': an embedding outside the item table needs pretrain_dim",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        builder(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_dataset_without_groups(tmp_path):
    manifest = build(tmp_path, group_id=None)
    assert manifest.group_id is None
    assert manifest.splits["train"].users is None


def test_unknown_split(tmp_path):
    with pytest.raises(DataError, match=r"split 'validation' is unknown. Did you mean 'valid'\?"):
        build(tmp_path, splits={"validation": ROWS})


def test_titles_are_kept_with_the_items_and_hashed(tmp_path):
    titles = ["", *(f"Film {number} \u00e9" for number in range(1, ITEMS))]
    with builder(tmp_path) as building:
        building.write_items(item_rows(), titles=titles)
        for split, seed in (("train", 0), ("valid", 1)):
            building.append(split, *split_rows(10, seed))
        manifest = building.finish(split_method="by seed")
    assert "item_titles.json" in manifest.files
    assert read_item_titles(tmp_path / "tiny") == dict(enumerate(titles))


def test_titles_must_be_as_many_as_items(tmp_path):
    message = rf"item_titles.json: 2 titles for an item table of {ITEMS} rows"
    with pytest.raises(DataError, match=message), builder(tmp_path) as building:
        building.write_items(item_rows(), titles=["", "Heat"])
    assert not (tmp_path / "tiny").exists()
