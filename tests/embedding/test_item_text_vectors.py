"""From item texts to a dataset with the two commands of the README: vectors by `encode`, then `--embedding`."""

import json
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from bilingual_embedding.cli import run_embedding_main
from bilingual_embedding.model.checkpoint import save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.data.recipes.text_features import reduce_width
from fuxictr_multimodal.data.store import Store, read_item_table
from tests.helpers import static_model as static_model_files
from tests.helpers.raw_release import write_release
from tests.helpers.typed_command import type_command

ROOT = Path(__file__).resolve().parents[2]
TITLES = {2: "red robot (1999)", 30: "blue robot (2003)", 5: "", 7: "dark island", 11: 'a "summer", Paris', 300: "1917"}
WIDTH = 32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A run folder with an encoder in it, and the encoder."""
    torch.manual_seed(0)
    tokenizer = BilingualTokenizer.train({"en": [*TITLES.values()] * 3}, vocabulary_size=300)
    model = Encoder.from_preset("nano", vocabulary_size=tokenizer.vocabulary_size)
    root = tmp_path_factory.mktemp("encoders")
    save_encoder(root / "BiEncoder_nano" / "multitask", model, tokenizer)
    return root, model, tokenizer


@pytest.fixture(scope="module")
def static_model(tmp_path_factory):
    """A folder in the form of sentence-transformers: the mean of word vectors, wider than the dataset's column."""
    folder = tmp_path_factory.mktemp("published")
    return folder, static_model_files.save(folder, "red blue dark robot island summer Paris")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A download in the layout of ml-latest-small."""
    folder = tmp_path_factory.mktemp("raw")
    titles = pl.DataFrame({"movieId": list(TITLES), "title": list(TITLES.values()), "genres": ["Drama"] * len(TITLES)})
    titles.write_csv(folder / "movies.csv")
    rows = [(user, movie) for user in range(1, 13) for movie in TITLES]
    ratings = pl.DataFrame(rows, schema=["userId", "movieId"], orient="row").with_columns(
        rating=pl.Series(np.arange(len(rows)) % 3 + 2.5),
        timestamp=pl.Series(956_700_000 + np.random.default_rng(0).permutation(len(rows)) * 10),
    )
    ratings.write_csv(folder / "ratings.csv")
    return folder


def encode_command(root, *arguments):
    run_embedding_main(
        ["--config", str(ROOT / "config/embedding"), "--expid", "BiEncoder_nano", "--set", f"model_root={root}",
         "--stage", "encode", *map(str, arguments)]
    )  # fmt: skip


def build(raw, tmp_path, vectors):
    """The item table of the download with these vectors, and the metadata of its manifest about them."""
    main = runpy.run_path(str(ROOT / "datasets/movielens.py"))["main"]
    main(["--raw", str(raw), "--data-root", str(tmp_path / "data"), "--embedding", str(vectors)])
    store = Store.open(tmp_path / "data", "MovieLens_small")
    table = read_item_table(store.dir)["item_emb_d128"]
    assert table.shape == (len(TITLES) + 1, 128)
    return table, store.manifest.facts["item_emb_d128"]


def expected(embed):
    """Vectors of the films by id; the one without a title has zeros."""
    titles = [TITLES[movie] for movie in sorted(TITLES)]
    return np.where(np.array([[bool(title)] for title in titles]), embed(titles), 0)


def test_both_commands_as_typed(encoder, raw, tmp_path):
    def typed(script, *arguments):
        done = type_command([str(ROOT / script), *map(str, arguments)], folder=tmp_path)
        assert done.status == 0, done.errors
        return done.out

    root, *model = encoder
    printed = typed(
        "run_embedding.py", "--config", ROOT / "config/embedding", "--expid", "BiEncoder_nano", "--stage", "encode",
        "--set", f"model_root={root}", "--input", raw / "movies.csv", "--text-column", "title", "--id-column",
        "movieId", "--output", "v.parquet",
    )  # fmt: skip
    facts = json.loads(printed.splitlines()[-1])
    assert (facts["texts"], facts["items_without_text"], facts["width"]) == (len(TITLES), 1, WIDTH)
    assert pl.read_parquet(tmp_path / "v.parquet")["movieId"].to_list() == list(TITLES)
    printed = typed("datasets/movielens.py", "--raw", raw, "--embedding", "v.parquet")
    assert f"'given_width': {WIDTH}" in printed
    store = Store.open(tmp_path / "data", "MovieLens_small")
    table = read_item_table(store.dir)["item_emb_d128"][1:]
    np.testing.assert_allclose(
        table[:, :WIDTH], expected(lambda titles: encode_texts(*model, titles).vectors), atol=1e-5
    )
    assert not table[:, WIDTH:].any()
    assert store.manifest.facts["item_emb_d128"]["items_without_vector"] == 1


def test_an_item_table_fits_too(encoder, raw, tmp_path):
    root, *model = encoder
    vectors = tmp_path / "table.parquet"
    encode_command(root, "--input", raw / "movies.csv", "--text-column", "title", "--id-column", "movieId",
                   "--item-dim", "128", "--output", vectors)  # fmt: skip
    table, facts = build(raw, tmp_path, vectors)
    assert (facts["keys"], facts["items_without_vector"]) == (max(TITLES) + 1, 1)
    wanted = expected(lambda titles: encode_texts(*model, titles).vectors)
    np.testing.assert_allclose(table[1:], reduce_width(wanted, 128)[0], atol=1e-5)


def test_a_published_encoder_needs_no_experiment(static_model, raw, tmp_path):
    folder, model = static_model
    vectors = tmp_path / "v.parquet"
    run_embedding_main(
        ["--config", str(tmp_path / "none"), "--stage", "encode", "--published", str(folder), "--input",
         str(raw / "movies.csv"), "--text-column", "title", "--id-column", "movieId", "--output", str(vectors)]
    )  # fmt: skip
    table, facts = build(raw, tmp_path, vectors)
    assert (facts["given_width"], facts["items_without_vector"]) == (200, 1)
    wanted = expected(lambda titles: model.encode(titles, normalize_embeddings=True))
    np.testing.assert_allclose(table[1:], reduce_width(wanted, 128)[0], atol=1e-5)


def test_a_folder_of_ours_is_a_published_encoder_too(encoder, raw, tmp_path):
    root, *model = encoder
    vectors = tmp_path / "v.parquet"
    encode_command(root, "--published", root / "BiEncoder_nano" / "multitask", "--input", raw / "movies.csv",
                   "--text-column", "title", "--id-column", "movieId", "--output", vectors)  # fmt: skip
    rows = dict(pl.read_parquet(vectors).iter_rows())
    ours = encode_texts(*model, ["1917", "red robot (1999)"]).vectors
    np.testing.assert_allclose([rows[300], rows[2]], ours, atol=1e-5)
    assert not any(rows[5])


def test_a_folder_that_holds_no_encoder_is_named(raw, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("[")
    with pytest.raises(SystemExit, match="2"):
        encode_command(tmp_path, "--published", tmp_path / "broken", "--input", raw / "movies.csv", "--text-column",
                       "title", "--output", tmp_path / "v.parquet")  # fmt: skip
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: published encoder '{tmp_path / 'broken'}' cannot be read: ")


def test_vectors_without_ids_are_refused(encoder, raw, tmp_path, capsys):
    root, *_ = encoder
    vectors = tmp_path / "v.parquet"
    encode_command(root, "--input", raw / "movies.csv", "--text-column", "title", "--output", vectors)
    with pytest.raises(SystemExit, match="2"):
        build(raw, tmp_path, vectors)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "column 'row' holds row numbers, not item ids; encode the texts again with --id-column, or" in error
    assert not (tmp_path / "data").exists()


def test_titles_of_microlens(encoder, tmp_path):
    root, *model = encoder
    raw = write_release(tmp_path / "raw")
    titles = pl.read_csv(raw / "MicroLens-50k_titles.csv")
    vectors = tmp_path / "v.parquet"
    encode_command(root, "--input", raw / "MicroLens-50k_titles.csv", "--text-column", "title", "--id-column", "item",
                   "--output", vectors)  # fmt: skip
    main = runpy.run_path(str(ROOT / "datasets/microlens_raw.py"))["main"]
    main(["--raw", str(raw), "--data-root", str(tmp_path), "--embedding", str(vectors)])
    store = Store.open(tmp_path, "MicroLens_50k")
    found = read_item_table(store.dir)["item_emb_d128"][1:, :WIDTH]
    wanted = encode_texts(*model, titles["title"].to_list()).vectors[: len(found)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert store.manifest.facts["item_emb_d128"]["given_width"] == WIDTH
