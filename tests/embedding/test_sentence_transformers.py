"""A trained folder loads as `SentenceTransformer(path)`; losses agree with those of the library."""

import copy
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bilingual_embedding
from bilingual_embedding.evaluation.published import load_published
from bilingual_embedding.model.checkpoint import save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.training.losses import correlation_loss, pairs_loss, retrieval_loss
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.errors import ConfigError, DataError

TEXTS = ["a red house", "ein rotes Haus", "x", "a much longer text about nothing in particular, really"]


def library():
    # Its import takes seconds and, in some versions, warns.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return importlib.import_module("sentence_transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = BilingualTokenizer.train({"en": TEXTS * 3}, vocabulary_size=300)
    encoder = Encoder.from_preset("nano", vocabulary_size=tokenizer.vocabulary_size)
    path = tmp_path_factory.mktemp("model")
    save_encoder(path, encoder, tokenizer)
    return path, encoder, tokenizer


@pytest.fixture(scope="module")
def loaded(folder):
    return library().SentenceTransformer(str(folder[0]), device="cpu", trust_remote_code=True)


def test_folder_loads_and_encodes_the_same(folder, loaded):
    _, encoder, tokenizer = folder
    ours = encode_texts(encoder, tokenizer, TEXTS).vectors
    theirs = loaded.encode(TEXTS, show_progress_bar=False, batch_size=2)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_it_opens_without_trust_in_remote_code(folder, loaded):
    from bilingual_embedding.sentence_transformers_module import open_model

    np.testing.assert_array_equal(open_model(folder[0], device="cpu").encode(TEXTS), loaded.encode(TEXTS))


def test_names_of_special_tokens_are_ordinary_bytes(folder, loaded):
    text = "the <mask> of <pad><cls> zorro <sep>"
    ids = loaded.preprocess([text])["input_ids"][0].tolist()
    assert (ids[0], ids[-1], min(ids[1:-1]) > 3) == (1, 2, True)
    _, encoder, tokenizer = folder
    ours = encode_texts(encoder, tokenizer, [text]).vectors
    np.testing.assert_allclose(loaded.encode([text], show_progress_bar=False), ours, atol=1e-5)
    np.testing.assert_array_equal(copy.deepcopy(loaded).encode([text]), loaded.encode([text]))


def test_a_published_encoder_is_a_name_or_a_folder(folder, loaded, tmp_path, monkeypatch):
    vectors = loaded.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(load_published(str(folder[0]))([*TEXTS, TEXTS[0]]), [*vectors, vectors[0]], atol=1e-5)
    monkeypatch.setenv("HOME", str(folder[0].parent))
    np.testing.assert_allclose(load_published(f"~/{folder[0].name}")(TEXTS), vectors, atol=1e-5)
    with pytest.raises(ConfigError, match="cannot be read: "):
        load_published(str(tmp_path))
    with pytest.raises(ConfigError, match="is not on this machine and could not be fetched: "):
        load_published(str(tmp_path / "nothing"))


def test_saved_again_it_loads_again(loaded, tmp_path):
    loaded.save(str(tmp_path / "again"), create_model_card=False)
    again = library().SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(again.encode(TEXTS), loaded.encode(TEXTS))


def test_pairs_loss_is_twice_the_librarys(loaded):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    theirs = MultipleNegativesRankingLoss(
        loaded, scale=20.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    torch.manual_seed(0)
    left, right = torch.randn(8, 16), torch.randn(8, 16)
    library_value = float(theirs.compute_loss_from_embeddings([left, right], None))
    assert float(pairs_loss(left, right)) == pytest.approx(2 * library_value, rel=1e-6)


def test_losses_in_the_librarys_form(loaded):
    from bilingual_embedding.training.sentence_transformers_losses import CorrelationLoss, PairsLoss

    features = [loaded.preprocess(column) for column in (TEXTS[:3], TEXTS[1:], TEXTS[:3][::-1])]
    left, right, negative = (loaded(dict(column))["sentence_embedding"] for column in features)
    score = torch.tensor([0.1, 0.9, 0.4])
    torch.testing.assert_close(
        CorrelationLoss(loaded)([dict(f) for f in features[:2]], score), correlation_loss(left, right, score)
    )
    torch.testing.assert_close(PairsLoss(loaded)([dict(f) for f in features]), retrieval_loss(left, right, negative))
    PairsLoss(loaded)([dict(f) for f in features[:2]]).backward()


def test_a_name_that_is_no_folder_is_named(loaded):
    from bilingual_embedding.sentence_transformers_module import BilingualModule

    with pytest.raises(DataError, match="nobody/nothing is not a folder on this machine"):
        BilingualModule.load("nobody/nothing")


def test_published_models_are_missed_kindly(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"needs sentence-transformers: pip install fuxictr-multimodal\[embedding\]"):
        load_published("intfloat/multilingual-e5-base")


def test_only_two_files_need_it_at_import():
    files = Path(bilingual_embedding.__file__).parent.rglob("*.py")
    needing = [path.stem for path in files if "\nfrom sentence_transformers" in path.read_text(encoding="utf-8")]
    assert sorted(needing) == ["sentence_transformers_losses", "sentence_transformers_module"]
