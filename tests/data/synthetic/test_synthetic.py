"""Synthetic data: the same bytes from the same spec, a rule that can be recomputed, and the dataset built from it."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.entry.build import open_or_build
from fuxictr_multimodal.data.store import SplitReader, Store, read_item_table
from fuxictr_multimodal.data.synthetic import (
    SyntheticSpec,
    blocks,
    build_synthetic,
    click_probability,
    make_world,
    rows,
)
from fuxictr_multimodal.data.synthetic.dataset import GENERATOR_VERSION
from fuxictr_multimodal.data.synthetic.rule import expected_auc, expected_logloss, level_codes, match_strength
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.typed_command import type_command

SPEC = SyntheticSpec(rows=3000, valid_rows=1500, test_rows=1001, items=300, seed=5)
EXPECTED_SUMS = {"label": 1164, "item_id": 447944, "history": 4595096, "tags": 10776, "embedding": 4499.455}


@pytest.fixture(scope="module")
def world():
    return make_world(SPEC)


@pytest.fixture(scope="module")
def columns(repository):
    entry = load_dataset_config(repository / "config", "Synthetic_test")
    return {"feature_cols": entry["feature_cols"], "label_col": entry["label_col"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory, columns):
    root = tmp_path_factory.mktemp("synthetic")
    build_synthetic(SPEC, dataset_id="Known", data_root=root, progress=False, **columns)
    return Store.open(root, "Known")


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 users, so that a few rows make several blocks."""
    monkeypatch.setattr(rows, "USERS_PER_BLOCK", 64)


def arrays(block):
    rest = {"label": block.label, "values": block.history_values, "p": block.probability}
    return {**block.columns, **rest, "lengths": np.diff(block.history_offsets)}


def joined(parts):
    parts = [arrays(part) for part in parts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read(store, split):
    with SplitReader(store.split_path(split)) as reader:
        data = {name: reader.read(name, 0, reader.rows) for name in reader.columns}
        return data, *reader.read_history(0, reader.rows)


def tree(path):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.rglob("*")) if f.is_file()}


def test_same_spec_same_bytes_and_another_seed_others(tmp_path, store, columns):
    build_synthetic(SPEC, dataset_id="Known", data_root=tmp_path, progress=False, **columns)
    assert tree(tmp_path / "Known") == tree(store.dir)
    build_synthetic(
        SPEC.model_copy(update={"seed": 6}), dataset_id="Other", data_root=tmp_path, progress=False, **columns
    )
    assert tree(tmp_path / "Other")["train.h5"] != tree(store.dir)["train.h5"]


def test_bytes_of_this_generator_version(world):
    # Fails when a change gives other data: then raise GENERATOR_VERSION and replace these sums.
    assert GENERATOR_VERSION == 1
    drawn = joined(blocks(SPEC, world, "train"))
    found = {
        "label": int(drawn["label"].sum()),
        "item_id": int(drawn["item_id"].sum()),
        "history": int(drawn["values"].sum()),
        "tags": int(world.tags.sum()),
        "embedding": round(float(np.abs(world.embedding, dtype=np.float64).sum()), 3),
    }
    assert found == EXPECTED_SUMS


def test_a_block_depends_on_no_other_and_a_short_split_is_a_prefix(world, small_blocks):
    parts = list(blocks(SPEC, world, "train"))
    assert [len(part.label) for part in parts] == [256] * 11 + [184]
    alone = rows._make_block(SPEC, world, "train", 7)
    short = joined(blocks(SPEC.model_copy(update={"rows": 1030}), world, "train"))
    whole = joined(parts)
    for name, values in arrays(alone).items():
        np.testing.assert_array_equal(values, arrays(parts[7])[name])
    for name, values in short.items():
        np.testing.assert_array_equal(values, whole[name][: len(values)])
    # A change of one split's size leaves the rows of another as they are, but for the user ids.
    for spec in (SPEC, SPEC.model_copy(update={"rows": 10})):
        valid = joined(blocks(spec, world, "valid"))
        assert valid.pop("user_id")[0] == 1 + -(-spec.rows // 4)
        for name, values in joined(blocks(SPEC, world, "valid")).items():
            if name != "user_id":
                np.testing.assert_array_equal(values, valid[name])


def test_the_rule_written_in_plain_loops(world):
    block = next(blocks(SPEC.model_copy(update={"rows": 200}), world, "train"))
    cosine = [[0.0] * 8] + [
        [2**0.5 * np.cos(np.pi * k * (level - 0.5) / 10) for k in range(1, 9)] for level in range(1, 11)
    ]
    for row in range(200):
        target = world.content[block.columns["item_id"][row]].astype(np.float64)
        likes, views = (cosine[block.columns[name][row]] for name in ("likes_level", "views_level"))
        total = 0.0
        for item in block.history_values[block.history_offsets[row] : block.history_offsets[row + 1]]:
            similarity = float(sum(a * b for a, b in zip(world.content[item], target, strict=True)))
            total += max(similarity - 0.6, 0.0) / (1 / 1.16 - 0.6)
        match = 1 - np.exp(-total)
        c = target * 4
        cross = sum(likes[k] * c[k] + views[k] * c[k + 8] for k in range(8)) / 4
        logit = -2.9 + 3.5 * match + 1.0 * (2 * match - 1) * likes[0] + 2.0 * cross
        assert block.probability[row] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_level_codes_are_orthonormal_over_the_levels():
    codes = level_codes(np.arange(1, 11))
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(codes.T @ codes / 10, np.eye(8), atol=1e-12)
    assert not level_codes(np.array([0])).any()


def test_only_the_few_items_of_the_targets_interest_match(world):
    spec = SPEC.model_copy(update={"rows": 20_000, "items": 3000})
    big = make_world(spec)
    block = next(blocks(spec, big, "train"))
    target, offsets = block.columns["item_id"], block.history_offsets
    index = np.repeat(np.arange(len(target)), np.diff(offsets))
    similarity = np.einsum("nc,nc->n", big.content[block.history_values], big.content[target[index]])
    matching = np.bincount(index, weights=similarity > 0.6, minlength=len(target))
    strength = match_strength(big, target, block.history_values, offsets)
    assert ((strength > 0) == (matching > 0)).all()
    assert 0.3 < (matching > 0).mean() < 0.6
    # Where there is a match, it is a small part of a history, however long that is.
    length = np.diff(offsets)
    long = (length > 20) & (matching > 0)
    assert (matching[long] / length[long]).mean() < 0.2


def test_the_store_holds_the_generated_rows_and_its_facts_are_recomputed(store, world):
    facts, every = store.manifest.facts, []
    for split in ("train", "valid", "test"):
        data, values, offsets = read(store, split)
        drawn = joined(blocks(SPEC, world, split))
        for name in ("user_id", "item_id", "likes_level", "views_level", "label"):
            np.testing.assert_array_equal(data[name], drawn[name])
        np.testing.assert_array_equal(values, drawn["values"])
        p = click_probability(world, data["item_id"], data["likes_level"], data["views_level"], values, offsets)
        np.testing.assert_array_equal(p, drawn["p"])
        if split != "train":
            every.append(p)
            assert facts["bayes_auc"][split] == pytest.approx(roc_auc_score(data["label"], p), abs=1e-6)
    assert facts["bayes_auc"]["expected"] == pytest.approx(expected_auc(np.concatenate(every)), abs=1e-6)
    assert store.manifest.recipe["generator"] == "synthetic"
    assert store.manifest.recipe["seed"] == 5


def test_item_table(store, world):
    items = read_item_table(store.dir / "item.h5")
    np.testing.assert_array_equal(items["item_id"], np.arange(301))
    np.testing.assert_array_equal(items["item_tags"], world.tags)
    np.testing.assert_array_equal(items["item_emb_d128"], world.embedding)
    assert items["item_emb_d128"].dtype == np.float32
    assert not items["item_emb_d128"][0].any()
    assert not items["item_tags"][0].any()
    # Left-padded: once a tag has come, no empty slot follows.
    filled = items["item_tags"] > 0
    assert (np.diff(filled.astype(int), axis=1) >= 0).all()
    # The content can be read off the embedding.
    linear = np.c_[world.content[1:], np.ones(300)]
    directions = np.linalg.lstsq(linear, world.embedding[1:], rcond=None)[0]
    seen = np.linalg.lstsq(directions.T, world.embedding[1:].T, rcond=None)[0].T[:, :-1]
    assert ((seen - world.content[1:]) ** 2).sum(1).mean() < 0.05


def test_splits_look_like_the_real_ones(store):
    users = {}
    for split in ("train", "valid", "test"):
        data, _, offsets = read(store, split)
        users[split] = set(data["user_id"].tolist())
        facts = store.manifest.splits[split]
        assert 0.80 <= facts.padding_share <= 0.90
        assert 0.20 <= data["label"].mean() <= 0.45
        assert np.diff(offsets).max() <= 64
        assert set(np.unique(data["likes_level"])) <= set(range(11))
    assert not users["train"] & users["valid"]
    assert not users["train"] & users["test"]
    assert not users["valid"] & users["test"]
    assert len(users["train"]) == 750


def test_labels_are_calibrated_and_the_best_auc_is_in_reach():
    spec = SyntheticSpec(rows=120_000, valid_rows=1, test_rows=1, items=3000, seed=3)
    drawn = joined(blocks(spec, make_world(spec), "train"))
    assert 0.25 <= drawn["label"].mean() <= 0.35
    edges = np.quantile(drawn["p"], np.linspace(0, 1, 21))
    bins = np.clip(np.searchsorted(edges, drawn["p"], side="right") - 1, 0, 19)
    count = np.bincount(bins)
    p = np.bincount(bins, weights=drawn["p"]) / count
    clicked = np.bincount(bins, weights=drawn["label"]) / count
    assert (np.abs(clicked - p) < 4 * np.sqrt(p * (1 - p) / count) + 1e-3).all()
    auc = roc_auc_score(drawn["label"], drawn["p"])
    assert 0.85 < auc < 0.92
    assert auc == pytest.approx(expected_auc(drawn["p"]), abs=0.004)
    levels = np.bincount(drawn["likes_level"], minlength=11) / len(drawn["p"])
    assert 0 < levels[0] < 0.05
    assert levels[1:].min() > 0.05
    assert 0.3 < np.corrcoef(drawn["likes_level"], drawn["views_level"])[0, 1] < 0.7


def test_expected_auc_counts_pairs_of_different_rows():
    p = np.array([0.2, 0.5, 0.5, 0.9, 0.1])
    wins = pairs = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                wins += weight * ((p[i] > p[j]) + (p[i] == p[j]) / 2)
    assert expected_auc(p) == pytest.approx(wins / pairs, rel=1e-12)
    assert expected_logloss(np.array([0.5, 0.5])) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows must be a whole number from 1 to 2147483647, found 0"),
        ({"rows": "many"}, "rows must be a whole number .*, found 'many'"),
        ({"rows": True}, "rows must be a whole number .*, found True"),
        ({"items": 19}, "items must be a whole number from 20 to"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"mean_history": 65}, "mean_history must not exceed max_len"),
        ({"mean_history": float("nan")}, "mean_history must be a number from 1 to"),
        ({"interests": 200}, "interests must be at most half of items"),
        ({"itmes": 3}, "unknown key 'itmes'. Did you mean 'items'"),
        ({"items": None}, "does not set `items`; write for example items: 3000"),
    ],
)
def test_a_bad_spec_names_its_key(change, message):
    block = {"rows": 10, "valid_rows": 10, "test_rows": 10, "items": 300, **change}
    with pytest.raises(ConfigError, match=message):
        SyntheticSpec.from_dict(block, where="dataset 'X'")


def test_a_missing_key_and_a_wrong_block_are_named():
    with pytest.raises(ConfigError, match=r"dataset 'X' does not set `items`; write for example items: 3000"):
        SyntheticSpec.from_dict({"rows": 10, "valid_rows": 10, "test_rows": 10}, where="dataset 'X'")
    with pytest.raises(ConfigError, match="dataset 'X' must be a mapping of settings"):
        SyntheticSpec.from_dict([1], where="dataset 'X'")


def test_columns_that_are_not_generated_are_refused(tmp_path, columns):
    wrong = [*columns["feature_cols"], {"name": "item_tag", "dtype": "int", "type": "categorical", "source": "item"}]
    with pytest.raises(ConfigError, match=r"column 'item_tag' is not generated. Did you mean 'item_tags'"):
        build_synthetic(
            SPEC, dataset_id="X", data_root=tmp_path, feature_cols=wrong, label_col=columns["label_col"], progress=False
        )
    assert not list(tmp_path.iterdir())


def test_fewer_columns_are_fine(tmp_path, columns):
    fewer = [c for c in columns["feature_cols"] if c["name"] in ("likes_level", "item_id", "item_emb_d128")]
    manifest = build_synthetic(
        SPEC, dataset_id="X", data_root=tmp_path, feature_cols=fewer, label_col=columns["label_col"], progress=False
    )
    assert manifest.group_id is None
    assert [column.name for column in manifest.item_columns] == ["item_id", "item_emb_d128"]


def run_command(repository, *arguments):
    return type_command([str(repository / "datasets/synthetic.py"), *map(str, arguments)], folder=repository)


def test_the_command_builds_a_smaller_one_and_refuses_to_replace_it(tmp_path, repository):
    arguments = ["--dataset-id", "Synthetic_test", "--data-root", tmp_path, "--rows", 500, "--seed", 9]
    done = run_command(repository, *arguments)
    assert done.status == 0, done.errors
    assert "train" in done.out
    manifest = json.loads((tmp_path / "Synthetic_test/manifest.json").read_text())
    assert manifest["splits"]["train"]["rows"] == 500
    assert manifest["splits"]["valid"]["rows"] == 1000
    assert manifest["recipe"]["seed"] == 9
    again = run_command(repository, *arguments)
    assert again.status == 2
    assert again.errors.startswith("error: ")
    assert "Traceback" not in again.errors


def test_the_command_names_what_is_wrong(tmp_path, repository):
    for arguments, message in [
        (["--dataset-id", "Synthetic_tset"], "Did you mean 'Synthetic_test'"),
        (["--dataset-id", "MicroLens_1M_x1"], "the entry has no such block"),
        (["--dataset-id", "Synthetic_test", "--rows", 0], "rows must be a whole number from 1"),
    ]:
        done = run_command(repository, *arguments, "--data-root", tmp_path)
        assert done.status == 2
        assert message in done.errors


@pytest.fixture
def entry(store, columns):
    """Parameters of a run on the dataset of `store`."""
    block = {"rows": 3000, "valid_rows": 1500, "test_rows": 1001, "items": 300, "seed": 5}
    return {"data_root": str(store.dir.parent), "dataset_id": "Known", "synthetic": block, **columns}


def test_a_dataset_of_the_same_spec_is_opened(store, entry):
    assert open_or_build(entry) == store
    spelt_out = {**entry["synthetic"], "rows_per_user": 4, "mean_history": 9.6, "tags": 0}
    assert open_or_build({**entry, "synthetic": spelt_out}) == store
    assert open_or_build({**entry, "synthetic": None}) == store


@pytest.mark.parametrize(
    ("change", "told", "as_it_is"),
    [
        ({"rows": 40000}, "rows: 3000 there, 40000 configured", "--set synthetic.rows=3000"),
        ({"seed": 1}, "seed: 5 there, 1 configured", "--set synthetic.seed=5"),
        (
            {"items": 200, "mean_history": 5},
            r"items: 300 there, 200 configured, mean_history: 9\.6 there, 5 configured",
            r"--set synthetic.items=300 --set synthetic.mean_history=9\.6",
        ),
    ],
)
def test_a_dataset_of_another_spec_is_an_error(store, entry, change, told, as_it_is):
    before = {path: path.read_bytes() for path in store.dir.iterdir()}
    message = (
        rf"Known was generated by another `synthetic:` block \({told}\): remove the folder .*Known to generate it "
        rf"again, or .* --set data_root=FOLDER or under another dataset_id; {as_it_is} reads it as it is"
    )
    with pytest.raises(DataError, match=message):
        open_or_build({**entry, "synthetic": {**entry["synthetic"], **change}})
    assert {path: path.read_bytes() for path in before} == before


def test_the_other_spec_is_generated_in_another_folder(entry, tmp_path):
    block = {"rows": 200, "valid_rows": 400, "test_rows": 400, "items": 30}
    smaller = {**entry, "data_root": str(tmp_path / "new"), "synthetic": block}
    assert open_or_build(smaller).manifest.splits["train"].rows == 200
    assert open_or_build(smaller).manifest.splits["train"].rows == 200


def test_a_dataset_that_was_not_generated_is_not_taken_for_one(store, entry, tmp_path):
    shutil.copytree(store.dir, tmp_path / "Known")
    replace(store.manifest, recipe={"script": "datasets/movielens.py"}).write(tmp_path / "Known")
    with pytest.raises(
        DataError, match="Known is not a synthetic dataset, but its entry has a `synthetic:` block: remove"
    ):
        open_or_build({**entry, "data_root": str(tmp_path)})


def test_shipped_entries_are_valid(repository):
    for name, size in (("Synthetic_test", 4000), ("Synthetic_demo", 400_000), ("Synthetic_default", 3_600_000)):
        entry = load_dataset_config(repository / "config", name)
        spec = SyntheticSpec.from_dict(entry["synthetic"])
        assert spec.rows == size
        assert spec.max_len == entry["max_len"]
