"""Columns of texts with an encoder of their own: aligned, encoded once, and every mistake is one sentence."""

import json
import logging
import re
import shutil
import sys
import threading

import numpy as np
import polars as pl
import pytest
import torch

from bilingual_embedding.model.checkpoint import load_encoder, save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.vectors import encoding, named
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.data.entry.build import build_entry, open_or_build
from fuxictr_multimodal.data.recipes.text_features import reduce_width, unit_length
from fuxictr_multimodal.data.store import read_item_table
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.serving.runtime import Ranker, Request
from tests.helpers import shop, static_model, trained_shop

EXPID, WIDTH = "BiEncoder_nano", 32


def save_run(folder, *, seed, stage="multitask"):
    """A run folder with an encoder in one of its stages."""
    torch.manual_seed(seed)
    titles = shop.items()["title"].to_list()
    tokenizer = BilingualTokenizer.train({"en": titles}, vocabulary_size=300)
    model = Encoder.from_preset("nano", vocabulary_size=tokenizer.vocabulary_size)
    save_encoder(folder / stage, model, tokenizer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    save_run(root / EXPID, seed=1, stage="pairs")
    save_run(root / EXPID, seed=2)
    return root


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A working folder with runs of encoders and raw files; names of encoders are looked up from there."""
    shutil.copytree(trained, tmp_path / "checkpoints/embedding")
    shop.write(tmp_path / "raw", events=300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def column(name="title", encoder=EXPID, **changes):
    keys = {"name": name, "dtype": "str", "type": "text", "source": "item", "encoder": encoder, **changes}
    return {key: value for key, value in keys.items() if value is not None}


def entry(*columns, **changes):
    return {
        "dataset_id": "Shop",
        "data_root": "data",
        "data_format": "parquet",
        "interactions": {
            "file": "raw/log.parquet", "user": "user_id", "item": "item_id", "time": "timestamp", "label": "click",
        },
        "item_data": "raw/items.parquet",
        "max_len": 4,
        "feature_cols": [
            {"name": "user_id", "dtype": "str", "type": "meta"},
            {"name": "item_id", "dtype": "str", "type": "categorical", "source": "item"},
            *columns,
        ],
        "label_col": {"name": "label", "dtype": "float"},
        **changes,
    }  # fmt: skip


def retitle(place, change):
    """Change titles; rows of the file are those of its items."""
    frame = pl.read_parquet(place / "raw/items.parquet")
    titles = frame["title"].to_list()
    change(titles)
    frame.with_columns(title=pl.Series(titles, dtype=pl.String)).write_parquet(place / "raw/items.parquet")


def titles_by_item(place, store):
    """Title of each row of the item table, None for padding."""
    frame = pl.read_parquet(place / "raw/items.parquet")
    by_id = dict(frame.select("item_id", "title").iter_rows())
    return [by_id.get(item) for item in store.ids("item_id").ids.to_list()]


@pytest.fixture
def encoded(monkeypatch):
    """Texts that our encoder is given, one list a call."""
    calls = []

    def spied(encoder, tokenizer, texts, **arguments):
        calls.append(list(texts))
        return encode_texts(encoder, tokenizer, texts, **arguments)

    monkeypatch.setattr(encoding, "encode_texts", spied)
    return calls


def test_each_item_has_the_vector_of_its_own_title(place, capsys):
    retitle(place, lambda titles: titles.__setitem__(slice(3), [None, " \u200b", "  a red thing "]))
    store = build_entry(entry(column()))
    found = read_item_table(store.dir)["title"]
    titles = titles_by_item(place, store)
    assert found.shape == (shop.ITEMS + 1, WIDTH)
    encoder, tokenizer = load_encoder(place / f"checkpoints/embedding/{EXPID}/multitask")
    for title, vector in zip(titles, found, strict=True):
        alone = np.zeros(WIDTH)
        if title is not None and title.strip("\u200b "):
            alone = encode_texts(encoder, tokenizer, [title.strip()]).vectors[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    facts = store.manifest.facts["vectors"]["title"]
    assert (facts["encoder"], facts["kind"], facts["folder"]) == (EXPID, "run", "multitask")
    assert (facts["width"], facts["texts"], facts["items_without_vector"]) == (WIDTH, 118, 3)
    assert facts["fingerprint"] == named.find_local(EXPID).fingerprint
    out = capsys.readouterr().out
    assert "title: encoded 118 of 118 texts\n" in out
    assert "title: 2 of 120 items have no vector; theirs is zero" in out


@pytest.mark.parametrize("dim", [8, 48])
def test_another_width_is_reduced_or_padded_and_the_length_stays_one(place, dim):
    store = build_entry(entry(column(pretrain_dim=dim)))
    found = read_item_table(store.dir)["title"][1:]
    encoder, tokenizer = load_encoder(place / f"checkpoints/embedding/{EXPID}/multitask")
    own = encode_texts(encoder, tokenizer, titles_by_item(place, store)[1:]).vectors
    wanted = unit_length(reduce_width(own, dim)[0]) if dim < WIDTH else np.pad(own, ((0, 0), (0, dim - WIDTH)))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    facts = store.manifest.facts["vectors"]["title"]
    assert (facts["width"], facts["given_width"], "variance_kept" in facts) == (dim, WIDTH, dim < WIDTH)


def test_only_texts_that_changed_are_encoded_again(place, encoded, capsys):
    first = build_entry(entry(column()))
    before = read_item_table(first.dir)["title"]
    retitle(place, lambda titles: titles.__setitem__(7, "a new blue thing"))
    capsys.readouterr()
    second = build_entry(entry(column()), overwrite=True)
    assert [len(texts) for texts in encoded] == [120, 1]
    assert encoded[1] == ["a new blue thing"]
    assert "title: encoded 1 of 120 texts, the others were cached" in capsys.readouterr().out
    after = read_item_table(second.dir)["title"]
    row = second.ids("item_id").ids.to_list().index("sku-0007")
    np.testing.assert_array_equal(np.delete(after, row, axis=0), np.delete(before, row, axis=0))
    assert not np.allclose(after[row], before[row])


def test_equal_texts_are_encoded_once(place, encoded):
    retitle(place, lambda titles: titles.__setitem__(slice(None), ["one", "two"] * 60))
    build_entry(entry(column()))
    assert [sorted(texts) for texts in encoded] == [["one", "two"]]


@pytest.mark.parametrize("damage", ["cut", "bits", "other", "vectors"])
def test_a_damaged_cache_is_not_believed(place, encoded, caplog, damage):
    wanted = read_item_table(build_entry(entry(column())).dir)["title"]
    (file,) = (place / "data/.text_vectors").glob("*/vectors.npz")
    content = bytearray(file.read_bytes())
    if damage == "vectors":
        with np.load(file) as arrays:
            kept = dict(arrays)
        np.savez(file, **{**kept, "vectors": kept["vectors"][::-1]})
    elif damage == "bits":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[:-100] if damage == "cut" else b"no archive")
    with caplog.at_level(logging.WARNING):
        store = build_entry(entry(column()), overwrite=True)
    assert [record.message.count("is damaged") for record in caplog.records] == [1]
    np.testing.assert_allclose(read_item_table(store.dir)["title"], wanted, atol=1e-6)
    assert [len(texts) for texts in encoded] == [120, 120]
    build_entry(entry(column()), overwrite=True)
    assert len(encoded) == 2


def test_two_builds_at_once_keep_the_texts_of_both(place, encoded):
    def build(number):
        frame = pl.read_parquet("raw/items.parquet").with_columns(title=pl.col("title") + f" of shop {number}")
        frame.write_parquet(f"raw/items{number}.parquet")
        build_entry({**entry(column()), "dataset_id": f"Shop{number}", "item_data": f"raw/items{number}.parquet"})

    threads = [threading.Thread(target=build, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoded.clear()
    for number in (1, 2):
        again = {**entry(column()), "dataset_id": f"Again{number}", "item_data": f"raw/items{number}.parquet"}
        build_entry(again)
    assert encoded == []


def test_a_cache_that_cannot_be_written_is_a_warning(place, caplog):
    (place / "data").mkdir()
    (place / "data/.text_vectors").write_text("in the way")
    store = build_entry(entry(column()))
    assert read_item_table(store.dir)["title"].any()
    assert "cannot be written" in caplog.text


def test_two_encoders_side_by_side_read_one_column(place, encoded):
    copied = {"preprocess": "copy_from(title)"}
    store = build_entry(
        entry(column(encoder=None), column("meaning", **copied), column("small", pretrain_dim=4, **copied))
    )
    table = read_item_table(store.dir)
    assert [table[name].shape[1] for name in ("title", "meaning", "small")] == [64, WIDTH, 4]
    assert len(encoded) == 1
    methods = {name: facts["method"] for name, facts in store.manifest.facts["vectors"].items()}
    assert methods == {"title": "tfidf_svd", "meaning": "encoder", "small": "encoder"}
    alone = read_item_table(build_entry({**entry(column(encoder="tfidf")), "dataset_id": "Alone"}).dir)
    np.testing.assert_array_equal(table["title"], alone["title"])


def test_samples_that_are_ready_have_text_columns_too(place):
    ready = {f"{split}_data": f"raw/{split}.parquet" for split in ("train", "valid", "test")}
    given = {**entry(column()), **ready, "history_col": "click_history", "label_col": {"name": "click"}}
    del given["interactions"]
    given["label_col"] |= {"dtype": "float"}
    store = build_entry(given)
    encoder, tokenizer = load_encoder(place / f"checkpoints/embedding/{EXPID}/multitask")
    found = read_item_table(store.dir)["title"][1:]
    own = encode_texts(encoder, tokenizer, titles_by_item(place, store)[1:]).vectors
    np.testing.assert_allclose(found, own, atol=1e-5)


def test_what_a_name_stands_for(place):
    run = place / f"checkpoints/embedding/{EXPID}"
    by_expid = named.find_encoder(EXPID)
    assert by_expid.place.endswith(f"{EXPID}/multitask")
    assert named.find_encoder(str(run)).fingerprint == by_expid.fingerprint
    assert named.find_encoder(str(run / "multitask")) == named.NamedEncoder(
        "run", str(run / "multitask"), None, by_expid.fingerprint
    )
    assert named.find_encoder(str(run / "pairs")).fingerprint != by_expid.fingerprint
    # The place does not matter, nor do notes about the model; the weights do.
    shutil.copytree(run, place / "copy")
    (place / "copy/multitask/README.md").write_text("a note")
    assert named.find_encoder("copy").fingerprint == by_expid.fingerprint
    save_run(place / "copy", seed=3)
    assert named.find_encoder("copy").fingerprint != by_expid.fingerprint


def test_models_of_sentence_transformers_by_folder_and_by_name(place, monkeypatch):
    model = static_model.save(place / "published", "A very red old thing number")
    by_folder = build_entry(entry(column(encoder="./published")))
    found = read_item_table(by_folder.dir)["title"]
    own = model.encode(titles_by_item(place, by_folder)[1:], normalize_embeddings=True)
    np.testing.assert_allclose(found[1:], own, atol=1e-5)
    facts = by_folder.manifest.facts["vectors"]["title"]
    assert (facts["kind"], facts["folder"], facts["width"]) == ("sentence-transformers", "published", 200)

    # What Hugging Face's library keeps of a model that it fetched.
    revision, kept = "0123456789" * 4, place / "hub/models--sentence-transformers--tiny"
    shutil.copytree(place / "published", kept / f"snapshots/{revision}")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text(revision)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(place / "hub"))
    by_name = build_entry({**entry(column(encoder="tiny")), "dataset_id": "Named"})
    np.testing.assert_array_equal(read_item_table(by_name.dir)["title"], found)
    facts = by_name.manifest.facts["vectors"]["title"]
    assert (facts["encoder"], facts["revision"], "folder" in facts) == ("tiny", revision, False)
    # A model of that name is not on this machine: nothing is compared, nor fetched.
    assert open_or_build({**entry(column(encoder="tiny")), "dataset_id": "Named"}) == by_name


@pytest.mark.slow
def test_a_model_of_texts_is_trained_and_exported(place):
    columns = [column(encoder=None), column("meaning", preprocess="copy_from(title)", pretrain_dim=8)]
    trained_on = trained_shop.train(place / "trained", more_columns=columns)
    report = json.loads(next((place / "trained/checkpoints").rglob("*.report.json")).read_text())
    assert report["status"] == "completed"
    # The export compares its scores with those of the trained model.
    found = export(config_dir=trained_on.config, expid=trained_on.expid, out=place / "exported")
    scores = Ranker(found.out).score(Request(**trained_shop.REQUEST)).scores
    assert len(set(scores.tolist())) == 3


def test_an_unknown_encoder_is_refused_before_files_are_read(place):
    wrong = entry(column(encoder="BiEncoder_nan"), item_data="gone.parquet")
    with pytest.raises(ConfigError) as error:
        build_entry(wrong)
    assert str(error.value).startswith(
        "dataset 'Shop': column 'title': encoder 'BiEncoder_nan' is not `tfidf`, not a trained run in "
        "checkpoints/embedding, not a folder, and not a model that sentence-transformers finds ("
    )
    assert str(error.value).endswith("Did you mean 'BiEncoder_nano'?")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("./gone", r"it is written as a path"),
        ("raw", r"the folder raw contains no trained stage and no model of sentence-transformers"),
        ("begun", r"the folder checkpoints/embedding/begun contains no trained stage"),
        (7, r"column 'title': encoder 7 is no name of an encoder"),
        ("", r"column 'title': encoder '' is no name of an encoder"),
    ],
)
def test_what_is_no_encoder_is_named(place, encoder, message):
    (place / "checkpoints/embedding/begun/mlm").mkdir(parents=True)
    with pytest.raises(ConfigError, match=message):
        build_entry(entry(column(encoder=encoder)))


def test_encoders_are_for_texts_of_items(place):
    with pytest.raises(ConfigError, match="encoder is for a column of type text with `source: item`"):
        build_entry(entry(column(type="embedding")))


def test_damaged_weights_are_named(place):
    file = place / f"checkpoints/embedding/{EXPID}/multitask/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"column 'title': .*model\.safetensors cannot be read"):
        build_entry(entry(column()))
    assert not (place / "data/Shop").exists()


def test_items_without_any_text_are_refused(place):
    retitle(place, lambda titles: titles.__setitem__(slice(None), [None, "  "] * 60))
    with pytest.raises(DataError, match="column 'title': no item has a text"):
        build_entry(entry(column()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.rename({"title": "titel"}), r"column 'title' is missing. Did you mean 'titel'"),
        (lambda items: items.with_columns(title="categories"), r"column 'title' is declared as str, but holds List"),
        (
            lambda items: pl.concat([items, items.head(1).with_columns(title=pl.lit("another"))]),
            r"item_id 'sku-0000' occurs more than once with different values of 'title', again in row 120",
        ),
        (
            lambda items: items.with_columns(item_id=pl.col("item_id").str.replace("sku", "x")),
            r"no item_id of raw/log.parquet is in raw/items.parquet: ids must have one form in both",
        ),
    ],
)
def test_wrong_tables_of_texts_are_named(place, change, message):
    change(pl.read_parquet("raw/items.parquet")).write_parquet("raw/items.parquet")
    with pytest.raises(DataError, match=message):
        build_entry(entry(column()))
    assert not (place / "data/.text_vectors").exists()


def test_an_encoder_that_was_trained_again_is_a_warning(place, caplog):
    """The dataset keeps its vectors, on which finished runs were trained."""
    store = open_or_build(entry(column()))
    assert open_or_build(entry(column())) == store
    save_run(place / f"checkpoints/embedding/{EXPID}", seed=5)
    assert open_or_build(entry(column())) == store
    assert re.search(r"the encoder of column 'title' has other weights .*--overwrite", caplog.text)
    # A dataset without its encoder stands for itself, as on another machine.
    shutil.rmtree(place / "checkpoints")
    assert open_or_build(entry(column())) == store


def test_an_encoder_that_is_written_while_it_is_used_is_refused(place, monkeypatch):
    """Its vectors would lie in the cache under the name of the other weights."""
    folder = place / f"checkpoints/embedding/{EXPID}"
    load = named.load_encoder
    monkeypatch.setattr(named, "load_encoder", lambda path: (save_run(folder, seed=5), load(path))[1])
    with pytest.raises(DataError, match="was written while it was about to be used: build again"):
        build_entry(entry(column()))
    assert not list((place / "data").rglob("vectors.npz"))


def test_missing_packages_are_named(place, monkeypatch):
    store = open_or_build(entry(column()))
    # Those alone that fail to load again: a module that loads twice is two modules for later tests.
    for name in ("vectors.named", "model.checkpoint", "model.tokenizer"):
        monkeypatch.delitem(sys.modules, f"bilingual_embedding.{name}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"needs tokenizers: pip install 'fuxictr-multimodal\[embedding\]'"):
        build_entry(entry(column()), overwrite=True)
    # What is built already needs them no more.
    assert open_or_build(entry(column())) == store
