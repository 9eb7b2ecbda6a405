"""The challenge data: every sample of the dataset equals the files, and every damaged file gives one clear error."""

import functools
import http.server
import runpy
import shutil
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_multimodal.data.recipes.microlens import challenge
from fuxictr_multimodal.data.recipes.microlens import files as microlens_files
from fuxictr_multimodal.data.recipes.microlens.challenge import build
from fuxictr_multimodal.data.recipes.parquet_input import Lists, ParquetInput
from fuxictr_multimodal.data.store import SplitReader, Store, read_item_table
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers import challenge_files as files

PUBLISHED, LEVELS = "MicroLens_1M_x1", "MicroLens_1M_x1_levels"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return files.write_challenge(tmp_path_factory.mktemp("challenge"))


@pytest.fixture(scope="module")
def make(repository, tmp_path_factory):
    def run(raw, dataset_id=PUBLISHED, data_root=None, **arguments):
        data_root = data_root or tmp_path_factory.mktemp("stores")
        arguments = {"any_size": True, "progress": False, **arguments}
        build(raw=raw, dataset_id=dataset_id, config_dir=repository / "config", data_root=data_root, **arguments)
        return Store.open(data_root, dataset_id)

    return run


@pytest.fixture(scope="module")
def store(raw, make):
    return make(raw)


def read_split(store, split):
    with SplitReader(store.split_path(split)) as reader:
        columns = {name: reader.read(name, 0, reader.rows) for name in reader.columns}
        return columns, *reader.read_history(0, reader.rows)


def padded(values, offsets, width=64):
    rows = [np.r_[np.zeros(width - (end - start), int), values[start:end]] for start, end in pairwise(offsets)]
    return np.array(rows)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_row_of_the_dataset_is_that_of_the_files(raw, store, split):
    given = files.load(raw / f"MicroLens_1M_x1/{split}.parquet")
    columns, values, offsets = read_split(store, split)
    assert (padded(values, offsets) == given.pop("item_seq")).all()
    given.setdefault("ID", np.arange(len(given["item_id"])))
    assert set(columns) == set(given)
    assert ("label" in columns) == (split != "test")
    for name, expected in given.items():
        assert (columns[name] == expected).all(), name


def test_item_table_is_the_files(raw, store):
    given = files.load(raw / "MicroLens_1M_x1/item_info.parquet")
    table = read_item_table(store.dir)
    assert table["item_emb_d128"].dtype == np.float32
    for name in ("item_id", "item_tags"):
        assert (table[name] == given[name]).all()
    assert (table["item_emb_d128"] == given["item_emb_d128"].astype(np.float32)).all()
    assert not any(values[0].any() for values in table.values())


def test_metadata_and_feature_map(store):
    manifest = store.manifest
    assert {name: split.rows for name, split in manifest.splits.items()} == files.ROWS
    assert manifest.splits["test"].positives is None
    assert manifest.facts == {"users_of_valid_in_train": 0, "users_of_test_in_train": 0}
    assert set(manifest.sources) == {"train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"}
    sizes = {column["name"]: column.get("vocab_size") for column in manifest.feature_cols}
    assert (sizes["item_id"], sizes["item_tags"], sizes["likes_level"]) == (files.ITEMS, 11_740, 11)


def test_levels_variant_puts_levels_on_every_item(raw, make, tmp_path):
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    path = copy / "MicroLens_1M_x1/valid.parquet"
    before = files.load(path)["likes_level"][7]
    files.spoil(path, "likes_level", 7, (before + 1) % 11)
    store = make(copy, LEVELS)
    given = files.load(raw / "item_feature.parquet", "item_id", "likes_level", "views_level")
    table = read_item_table(store.dir)
    for name in ("likes_level", "views_level"):
        assert (table[name][given["item_id"]] == given[name]).all()
        assert name not in read_split(store, "train")[0]
    assert store.manifest.facts["rows_whose_likes_level_is_not_the_items"] == 1
    assert store.manifest.facts["rows_whose_views_level_is_not_the_items"] == 0


def test_more_embeddings(raw, make, store):
    keys = ["bert", "clip", "v1", "v2", "v3", "e4"]
    table = read_item_table(make(raw, "MicroLens_1M_x1_embeddings", embeddings=keys).dir)
    for key in keys:
        embedding = microlens_files.EMBEDDINGS[key]
        given = files.load(raw / embedding.file, "item_id", embedding.column)
        assert (table[embedding.column][given["item_id"]] == given[embedding.column].astype(np.float32)).all()
        assert not table[embedding.column][0].any()
    assert set(read_item_table(store.dir)) == {"item_id", "item_tags", "item_emb_d128"}
    with pytest.raises(ConfigError, match="lists no column 'txt_emb_BERT' for --embeddings bert"):
        make(raw, embeddings=["bert"])


def test_lists_instead_of_arrays_and_batches_give_the_same_bytes(raw, make, store, tmp_path, monkeypatch):
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    path = copy / "MicroLens_1M_x1/train.parquet"
    table = pq.read_table(path)
    lists = pa.array(table["item_seq"].to_pylist(), pa.large_list(pa.int32()))
    pq.write_table(table.set_column(table.column_names.index("item_seq"), "item_seq", lists), path)
    decode = ParquetInput.batches
    monkeypatch.setattr(ParquetInput, "batches", lambda self, rows=71: decode(self, rows))
    other = make(copy)
    assert other.manifest.files == store.manifest.files
    assert other.manifest.sources["train.parquet"] != store.manifest.sources["train.parquet"]


def test_folders_of_parts_give_the_same_bytes(raw, make, store, tmp_path):
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    for name in ("train.parquet", "item_info.parquet"):
        path = copy / "MicroLens_1M_x1" / name
        table = pq.read_table(path)
        path.unlink()
        path.mkdir()
        pq.write_table(table.slice(50), path / "part-00001.parquet")
        pq.write_table(table.slice(0, 50), path / "part-00000.parquet")
        (path / "_SUCCESS").touch()
    other = make(copy)
    assert other.manifest.files == store.manifest.files
    assert {"train.parquet/part-00000.parquet", "train.parquet/part-00001.parquet"} <= other.manifest.sources.keys()
    with pytest.raises(DataError, match=r"train\.parquet has .* rows, the release has 3,600,000"):
        make(copy, any_size=False)


INNER = "MicroLens_1M_x1/"
SPOILT = {
    "missing file": (lambda d: (d / INNER / "valid.parquet").unlink(), ["lacks valid.parquet"]),
    "missing column": (
        lambda d: files.drop(d / INNER / "train.parquet", "views_level"),
        ["train.parquet", "'views_level' is missing"],
    ),
    "wrong type": (
        lambda d: (files.drop(p := d / INNER / "train.parquet", "label"), files.add(p, "label", np.full(300, 0.5))),
        ["train.parquet", "'label' holds double, expected int"],
    ),
    "right-padded": (
        lambda d: files.spoil(d / INNER / "valid.parquet", "item_seq", 11, (63, 0)),
        ["valid.parquet: row 11, column 'item_seq': slot 63 is 0"],
    ),
    "target beyond the table": (
        lambda d: files.spoil(d / INNER / "train.parquet", "item_id", 123, files.ITEMS),
        ["train.parquet: row 123, column 'item_id': value 40 is not in 1 to 39"],
    ),
    "padding as target": (
        lambda d: files.spoil(d / INNER / "train.parquet", "item_id", 5, 0),
        ["train.parquet: row 5, column 'item_id': value 0"],
    ),
    "history beyond the table": (
        lambda d: files.spoil(d / INNER / "test.parquet", "item_seq", 31, (40, 99_999)),
        ["test.parquet: column 'item_seq': row 31: the history holds item 99999"],
    ),
    "negative history": (
        lambda d: files.spoil(d / INNER / "test.parquet", "item_seq", 31, (40, -3)),
        ["test.parquet: column 'item_seq': row 31: the history holds item -3"],
    ),
    "level out of range": (
        lambda d: files.spoil(d / INNER / "valid.parquet", "likes_level", 3, 11),
        ["valid.parquet: row 3, column 'likes_level': value 11"],
    ),
    "row 0 not zero": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_emb_d128", 0, (4, 0.5)),
        ["item_info.parquet: row 0, column 'item_emb_d128' at (4,): item 0 is padding, but its value is 0.5"],
    ),
    "tag of row 0": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_tags", 0, (4, 3)),
        ["item_info.parquet: row 0, column 'item_tags' at (4,): item 0 is padding, but its value is 3"],
    ),
    "NaN embedding": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_emb_d128", 17, (9, float("nan"))),
        ["item_info.parquet: row 17, column 'item_emb_d128' at (9,): value nan is not a finite float32"],
    ),
    "embedding too large for float32": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_emb_d128", 17, (9, 1e300)),
        ["item_info.parquet: row 17, column 'item_emb_d128' at (9,): value 1e+300"],
    ),
    "tag beyond the vocabulary": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_tags", 2, (4, 11_740)),
        ["item_info.parquet: row 2, column 'item_tags' at (4,): value 11740"],
    ),
    "item twice": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_id", 20, 19),
        ["item_info.parquet: row 20, column 'item_id': 19 is already in row 19"],
    ),
    "item missing": (
        lambda d: files.spoil(d / INNER / "item_info.parquet", "item_id", 39, 40),
        ["item_info.parquet: row 39, column 'item_id': value 40 is not in 0 to 39"],
    ),
    "missing value": (
        lambda d: files.spoil(d / INNER / "train.parquet", "user_id", 200, None),
        ["train.parquet: row 200, column 'user_id': the value is missing"],
    ),
    "missing element": (
        lambda d: files.spoil(d / INNER / "train.parquet", "item_seq", 150, (60, None)),
        ["train.parquet: row 150, column 'item_seq': a value is missing"],
    ),
    "truncated download": (
        lambda d: files.cut(d / INNER / "train.parquet"),
        ["train.parquet: damaged, truncated or not a parquet file"],
    ),
    "empty file": (
        lambda d: (d / INNER / "test.parquet").write_bytes(b""),
        ["test.parquet: damaged, truncated or not a parquet file"],
    ),
    "damaged page": (
        lambda d: _overwrite(d / INNER / "train.parquet"),
        ["train.parquet"],
    ),
    "test with labels": (
        lambda d: files.add(d / INNER / "test.parquet", "label", np.zeros(80, np.int64)),
        ["test.parquet: column 'label' is in the test file"],
    ),
    "duplicate ID": (
        lambda d: files.spoil(d / INNER / "test.parquet", "ID", 44, 12),
        ["test.parquet: row 44, column 'ID': 12 is already in row 12"],
    ),
    "label 2": (
        lambda d: files.spoil(d / INNER / "train.parquet", "label", 99, 2),
        ["train.parquet: row 99, column 'label': value 2"],
    ),
    "short array": (
        lambda d: _short(d / INNER / "valid.parquet"),
        ["valid.parquet: row 8, column 'item_seq': there are 63 values, expected 64"],
    ),
}


def _overwrite(path):
    content = bytearray(path.read_bytes())
    content[40:400] = bytes(360)
    path.write_bytes(content)


def _short(path):
    table = pq.read_table(path)
    rows = table["item_seq"].to_pylist()
    rows[8] = rows[8][1:]
    pq.write_table(table.set_column(table.column_names.index("item_seq"), "item_seq", pa.array(rows)), path)


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_file_is_one_error_that_names_it(raw, make, tmp_path, case):
    spoil, expected = SPOILT[case]
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    spoil(copy)
    with pytest.raises(DataError) as caught:
        make(copy, data_root=tmp_path / "data")
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").glob("[!.]*")) + list((tmp_path / "data").glob("*.building"))


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "expected"),
    [
        ("item_feature.parquet", 3, "likes_level", 12, "row 3, column 'likes_level': value 12 is not in 0 to 10"),
        ("item_feature.parquet", 3, "item_id", 0, "row 3, column 'item_id': value 0 is not in 1 to 39"),
    ],
)
def test_a_spoilt_feature_file(raw, make, tmp_path, file, row, column, value, expected):
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    files.spoil(copy / file, column, row, value)
    with pytest.raises(DataError, match="item_feature.parquet: " + expected):
        make(copy, LEVELS)


def test_incomplete_release_is_refused_by_its_counts(raw, make):
    with pytest.raises(DataError, match=r"train.parquet has 300 rows, the release has 3,600,000.*--any-size"):
        make(raw, any_size=False)


def test_counts_of_the_release_pass(raw, make, monkeypatch):
    counts = {f"{split}.parquet": rows for split, rows in files.ROWS.items()} | {"item_info.parquet": files.ITEMS}
    monkeypatch.setattr(challenge, "ROWS", counts)
    with pytest.raises(DataError, match="'item_id' is declared with vocab_size 91718, but the item table has 40 rows"):
        make(raw, any_size=False)


def test_names_in_upper_case(raw, make, store, tmp_path):
    for file in (raw / "MicroLens_1M_x1").iterdir():
        shutil.copy(file, tmp_path / file.name.upper())
    assert make(tmp_path).manifest.files == store.manifest.files


def test_a_file_instead_of_the_folder(raw, make):
    with pytest.raises(DataError, match=r"train\.parquet is a file, not a folder"):
        make(raw / "MicroLens_1M_x1/train.parquet")


def test_the_inner_folder_may_be_given(raw, make, store):
    assert make(raw / "MicroLens_1M_x1", LEVELS).manifest.splits == store.manifest.splits


def test_lists_of_any_length(tmp_path):
    files.save(tmp_path / "x.parquet", a=pa.array([[1, 2], [], [3]]))
    ((first, columns),) = ParquetInput(tmp_path / "x.parquet", {"a": Lists()}).batches()
    assert first == 0
    assert [part.tolist() for part in columns["a"]] == [[1, 2, 3], [0, 2, 2, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --raw DIR or --download"),
        (["--raw", "nowhere"], "nowhere does not exist"),
        (["--raw", ".", "--dataset-id", "MicroLens_1M_x2"], "Did you mean 'MicroLens_1M_x1'?"),
        (["--raw", ".", "--mirror", "http://x"], "--mirror needs --download"),
    ],
)
def test_command(repository, tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, repository / "datasets/microlens_1m.py", *arguments],
        cwd=tmp_path, env={"PYTHONPATH": str(repository)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_download_and_build_from_the_command(raw, store, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(repository / "datasets/microlens_1m.py"))["main"]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=raw)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        main(["--download", "--mirror", f"http://127.0.0.1:{server.server_address[1]}", "--any-size"])
        server.shutdown()
        thread.join()
    assert Store.open("data", PUBLISHED).manifest.files == store.manifest.files
    kept = tmp_path / "data/raw/MicroLens_1M_MMCTR"
    assert sorted(p.name for p in kept.rglob("*.parquet")) == sorted(store.manifest.sources)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["--download", "--any-size"])
    assert "already holds a dataset: give --overwrite" in capsys.readouterr().err
    main(["--raw", str(kept), "--any-size", "--overwrite"])
