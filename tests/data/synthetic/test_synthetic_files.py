"""Synthetic raw files: schemas of the release, padding on the left, samples of the dataset, recipes that read them."""

import csv
import hashlib
import runpy

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.recipes.microlens.challenge import build
from fuxictr_multimodal.data.recipes.microlens.raw_files import read_release
from fuxictr_multimodal.data.store import SplitReader, Store
from fuxictr_multimodal.data.synthetic import SyntheticSpec, blocks, make_world, rows
from fuxictr_multimodal.data.synthetic.challenge_files import release_spec, user_histories, write_challenge_files
from fuxictr_multimodal.data.synthetic.raw_release import write_raw_release
from fuxictr_multimodal.data.synthetic.texts import make_titles, word
from fuxictr_multimodal.errors import ConfigError, DataError

SPEC = SyntheticSpec(rows=900, valid_rows=300, test_rows=201, items=120, seed=2)
INTEGER, FLOAT = pl.Int64, pl.Float64
ROWS = {
    "user_id": INTEGER,
    "item_seq": pl.Array(INTEGER, 64),
    **dict.fromkeys(["item_id", "likes_level", "views_level"], INTEGER),
}
SCHEMAS = {
    "MicroLens_1M_x1/train.parquet": {**ROWS, "label": INTEGER},
    "MicroLens_1M_x1/valid.parquet": {**ROWS, "label": INTEGER},
    "MicroLens_1M_x1/test.parquet": {"ID": INTEGER, **ROWS},
    "MicroLens_1M_x1/item_info.parquet": {
        "item_id": INTEGER, "item_tags": pl.Array(INTEGER, 5), "item_emb_d128": pl.Array(FLOAT, 128)
    },
    "item_feature.parquet": {
        "item_id": INTEGER, "item_title": pl.String, "item_tags": pl.List(INTEGER), "likes_level": INTEGER,
        "views_level": INTEGER, "txt_emb_BERT": pl.Array(pl.Float32, 768),
        "img_emb_CLIPRN50": pl.Array(pl.Float32, 1024),
    },
    "item_emb.parquet": {
        "item_id": INTEGER, **{f"item_emb_d128_{name}": pl.Array(FLOAT, 128) for name in ("v1", "v2", "v3", "e4")}
    },
    "item_seq.parquet": {"user_id": INTEGER, "item_seq": pl.List(INTEGER)},
}  # fmt: skip
COUNTS = dict(zip(SCHEMAS, (900, 300, 201, 121, 120, 120, 225 + 75 + 51), strict=True))


@pytest.fixture(scope="module")
def world():
    return make_world(SPEC)


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    out = tmp_path_factory.mktemp("files") / "challenge"
    write_challenge_files(SPEC, out, progress=False)
    return out


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("files") / "raw"
    write_raw_release(SPEC, out, progress=False)
    return out


def tree(path):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_and_rows_are_those_of_the_release(challenge, name):
    table = pl.read_parquet(challenge / name)
    assert dict(table.schema) == SCHEMAS[name]
    assert list(table.columns) == list(SCHEMAS[name])
    assert len(table) == COUNTS[name]
    assert not sum(table.null_count().row(0))


def test_no_other_file_is_written(challenge):
    assert {str(p.relative_to(challenge)) for p in challenge.rglob("*") if p.is_file()} == set(SCHEMAS)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_rows_are_those_of_the_store_padded_on_the_left(challenge, world, split):
    table = pl.read_parquet(challenge / f"MicroLens_1M_x1/{split}.parquet")
    (block,) = blocks(SPEC, world, split)
    for name, values in block.columns.items():
        np.testing.assert_array_equal(table[name].to_numpy(), values)
    for row, padded in enumerate(table["item_seq"].to_list()):
        real = block.history_values[block.history_offsets[row] : block.history_offsets[row + 1]].tolist()
        assert padded == [0] * (64 - len(real)) + real
    if split == "test":
        assert table["ID"].to_list() == list(range(201))
    else:
        np.testing.assert_array_equal(table["label"].to_numpy(), block.label)


def test_item_files_agree_with_each_other(challenge, world):
    info = pl.read_parquet(challenge / "MicroLens_1M_x1/item_info.parquet")
    feature = pl.read_parquet(challenge / "item_feature.parquet")
    assert info["item_id"].to_list() == list(range(121))
    assert feature["item_id"].to_list() == list(range(1, 121))
    assert info["item_tags"].to_list()[0] == [0] * 5
    assert not any(info["item_emb_d128"].to_list()[0])
    for padded, short in zip(info["item_tags"].to_list()[1:], feature["item_tags"].to_list(), strict=True):
        assert padded == [0] * (5 - len(short)) + short
        assert len(set(short)) == len(short)
    np.testing.assert_array_equal(feature["likes_level"].to_numpy(), world.base_levels[1:, 0])
    assert feature["item_title"].to_list() == make_titles(SPEC, world)[1:]
    # Every embedding has vectors of the same length and says what the content is, some with more noise.
    columns = {name: feature[name].to_numpy() for name in ("txt_emb_BERT", "img_emb_CLIPRN50")}
    emb = pl.read_parquet(challenge / "item_emb.parquet")
    columns |= {name: emb[name].to_numpy() for name in emb.columns[1:]}
    for vectors in columns.values():
        assert 1.2 < np.linalg.norm(vectors, axis=1).mean() < 2.5
        centred = vectors - vectors.mean(0)
        content = world.content[1:] - world.content[1:].mean(0)
        assert np.corrcoef((centred @ centred.T).ravel(), (content @ content.T).ravel())[0, 1] > 0.8


def test_sequences_hold_each_users_history_once(challenge, world):
    table = pl.read_parquet(challenge / "item_seq.parquet")
    assert table["user_id"].to_list() == list(range(1, 352))
    rows_of = pl.concat(
        [
            pl.read_parquet(challenge / f"MicroLens_1M_x1/{split}.parquet").select("user_id", "item_seq")
            for split in ("train", "valid", "test")
        ]
    ).unique("user_id", keep="first", maintain_order=True)
    for sequence, padded in zip(table["item_seq"].to_list(), rows_of["item_seq"].to_list(), strict=True):
        assert sequence == [item for item in padded if item]


def test_several_blocks_and_the_same_bytes_again(tmp_path, challenge, monkeypatch):
    write_challenge_files(SPEC, tmp_path / "again", progress=False)
    assert tree(tmp_path / "again") == tree(challenge)
    monkeypatch.setattr(rows, "USERS_PER_BLOCK", 32)
    write_challenge_files(SPEC, tmp_path / "again", overwrite=True, progress=False)
    parts = list(blocks(SPEC, make_world(SPEC), "test"))
    assert len(parts) > 1
    test = pl.read_parquet(tmp_path / "again/MicroLens_1M_x1/test.parquet")
    assert test["ID"].to_list() == list(range(201))
    assert test["item_id"].to_list() == np.concatenate([part.columns["item_id"] for part in parts]).tolist()
    users = [
        user_histories(part)[0]
        for split in ("train", "valid", "test")
        for part in blocks(SPEC, make_world(SPEC), split)
    ]
    assert pl.read_parquet(tmp_path / "again/item_seq.parquet")["user_id"].to_list() == np.concatenate(users).tolist()


def test_the_challenges_recipe_builds_a_store_of_the_files(tmp_path, challenge, world, repository):
    build(
        raw=challenge, dataset_id="MicroLens_1M_x1", config_dir=repository / "config", data_root=tmp_path,
        any_size=True, progress=False,
    )  # fmt: skip
    store = Store.open(tmp_path, "MicroLens_1M_x1")
    (block,) = blocks(SPEC, world, "train")
    with SplitReader(store.split_path("train")) as reader:
        values, _ = reader.read_history(0, reader.rows)
        np.testing.assert_array_equal(reader.read("label", 0, reader.rows), block.label)
    np.testing.assert_array_equal(values, block.history_values)
    assert store.manifest.facts["users_of_test_in_train"] == 0


def test_the_raw_release_reads_back(raw, world):
    release = read_release(raw)
    assert release.has_times
    assert release.repeated == 0
    (block,) = blocks(SPEC, world, "train")
    user, values, offsets = user_histories(block)
    lists = dict(release.pairs.group_by("user", maintain_order=True).agg("item").iter_rows())
    clicked = {}
    for who, item, label in zip(
        block.columns["user_id"].tolist(), block.columns["item_id"].tolist(), block.label, strict=True
    ):
        clicked.setdefault(who, []).extend([item] if label else [])
    for row, who in enumerate(user.tolist()):
        did = list(dict.fromkeys([*values[offsets[row] : offsets[row + 1]].tolist(), *clicked[who]]))
        assert lists.get(who) == (did if len(did) >= 5 else None)
    lines = (raw / "MicroLens-synthetic_pairs.tsv").read_text().splitlines()
    assert {int(line.split("\t")[0]): [int(i) for i in line.split("\t")[1].split(" ")] for line in lines} == lists
    with (raw / "MicroLens-synthetic_titles.csv").open(newline="") as file:
        assert [row["title"] for row in csv.DictReader(file)] == make_titles(SPEC, world)[1:]
    known = release.num_items
    assert (release.views[1:] >= 0).all()
    assert (release.likes[1:] <= release.views[1:]).mean() > 0.9
    assert np.corrcoef(np.log1p(release.views[1:]), np.log(world.popularity[1:known]))[0, 1] > 0.5
    same = {}
    for item in range(1, known):
        same.setdefault(world.cluster[item], set()).add(release.categories[item])
    assert all(len(names) == 1 for names in same.values())


def test_raw_release_has_the_same_bytes_again(tmp_path, raw):
    write_raw_release(SPEC, tmp_path, progress=False)
    assert tree(tmp_path) == tree(raw)


def test_files_that_are_there_stay(challenge, raw):
    before = tree(challenge), tree(raw)
    with pytest.raises(DataError, match=r"item_info\.parquet already exists.*--overwrite"):
        write_challenge_files(SPEC, challenge, progress=False)
    with pytest.raises(DataError, match=r"pairs\.csv already exists"):
        write_raw_release(SPEC, raw, progress=False)
    assert (tree(challenge), tree(raw)) == before


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").touch()
    for write in (write_challenge_files, write_raw_release):
        with pytest.raises(DataError, match=r"the folder .*out.* cannot be created \(.*\): choose another one"):
            write(SPEC, tmp_path / "out")


def test_another_width_of_histories_has_no_place_in_the_challenges_form(tmp_path):
    spec = SyntheticSpec(rows=9, valid_rows=9, test_rows=9, items=20, max_len=32)
    with pytest.raises(ConfigError, match="max_len must be 64"):
        write_challenge_files(spec, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_counts_of_the_release_unless_given():
    spec = release_spec({"rows": 5, "seed": 3})
    assert (spec.rows, spec.valid_rows, spec.test_rows, spec.items, spec.seed) == (5, 10_000, 379_142, 91_717, 3)
    assert spec.num_tags == 11_739


def test_words_differ():
    assert len({word(number) for number in range(30_000)}) == 30_000


def test_the_command_writes_both_forms(tmp_path, repository, capsys):
    main = runpy.run_path(str(repository / "datasets/synthetic.py"))["main"]
    sizes = "--rows 900 --valid-rows 300 --test-rows 201 --items 120 --seed 2".split()
    for form, files in (("microlens_1m", 7), ("microlens_raw", 5)):
        main(["--format", form, "--out", str(tmp_path / form), *sizes])
        written = capsys.readouterr().out.split()
        assert sorted(written) == sorted(str(p) for p in (tmp_path / form).rglob("*") if p.is_file())
        assert len(written) == files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "microlens_1m"], "--format microlens_1m needs --out"),
        (
            ["--format", "microlens_raw", "--out", "x", "--dataset-id", "y"],
            "--format microlens_raw has no --dataset-id",
        ),
        ([], "--format store needs --dataset-id"),
        (["--format", "microlens_1m", "--out", "x", "--items", "3"], "items must be a whole number from 20"),
    ],
)
def test_the_command_says_what_is_missing(repository, capsys, arguments, message):
    main = runpy.run_path(str(repository / "datasets/synthetic.py"))["main"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
