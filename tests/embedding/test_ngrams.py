"""The channel of n-grams: cut as scikit-learn cuts them, TF-IDF at its start, the same by every way to the encoder."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from bilingual_embedding.model.checkpoint import load_encoder, save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.ngrams import LONGEST_PIECE, NgramChannel, NgramHasher
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.presets import EncoderConfig
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.training.gradient_cache import backward_through
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.errors import ConfigError, DataError

TEXTS = [
    "A red house in Köln, 1984", "ein rotes Haus", "x", "", "the red HOUSE again and again", "x y", "Haus 1984",
]  # fmt: skip
MANY = 1 << 20  # so many buckets that these n-grams do not collide
CONFIG = EncoderConfig(
    vocabulary_size=400, hidden=16, inner=8, layers=1, heads=2, dropout=0.0, ngram_buckets=97, ngram_width=8
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = BilingualTokenizer.train({"en": TEXTS * 3}, vocabulary_size=300)
    encoder = Encoder(dataclasses.replace(CONFIG, vocabulary_size=tokenizer.vocabulary_size)).eval()
    return encoder, tokenizer.for_encoder(encoder.config)


def rows(ngrams):
    return [ngrams.values[a:b] for a, b in zip(ngrams.offsets, ngrams.offsets[1:], strict=False)]


def test_texts_are_cut_as_scikit_learn_cuts_them():
    analyse = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).build_analyzer()
    hasher = NgramHasher(MANY)
    for text, row in zip(TEXTS, rows(hasher.hash(TEXTS, max_words=99)), strict=True):
        grams = analyse(text)
        assert len(row) == len(grams)
        assert len(set(row.tolist())) == len(set(grams))
        alone = [hasher.hash([text], max_words=99).values.tolist()]
        assert sorted(alone[0]) == sorted(row.tolist())


def test_long_texts_and_words_are_cut():
    hasher = NgramHasher(50)
    one, two = (hasher.hash([text], max_words=2).values for text in ("big red house", "big red"))
    np.testing.assert_array_equal(one, two)
    two_pieces = " ".join(["z" * LONGEST_PIECE] * 2)
    for text, pieces in (("z" * 10_000, 2), ("z" * (2 * LONGEST_PIECE), 9)):
        np.testing.assert_array_equal(
            hasher.hash([text], max_words=pieces).values, hasher.hash([two_pieces], max_words=9).values
        )


def test_ngrams_without_a_vector_do_not_drown_the_gradients_of_other_texts():
    channel = NgramChannel(4, 8)
    with torch.no_grad():
        channel.table.weight[0] = 0
    vectors = channel(torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    vectors.sum().backward()
    assert channel.table.weight.grad.norm() < 1000


def test_the_channel_starts_as_tfidf():
    """At full width cosines are those of scikit-learn's own TF-IDF, which counts n-grams instead of hashing them."""
    hasher = NgramHasher(MANY)
    texts = [text for text in TEXTS if text] + ["something else altogether"]
    channel = NgramChannel(MANY, len(texts))
    ngrams = hasher.hash(texts, max_words=99)
    channel.start_as_tfidf(ngrams, seed=0)
    found = channel(torch.from_numpy(ngrams.values).long(), torch.from_numpy(ngrams.offsets[:-1]))
    cosines = (found @ found.T).detach().numpy()
    table = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    expected = (table @ table.T).toarray()
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_a_text_is_its_mean_of_tokens_beside_its_ngrams(model):
    encoder, tokenizer = model
    table = tokenizer.encode(TEXTS, max_length=64)
    vectors = encoder.embed(Packed.from_table(table))
    assert vectors.shape == (len(TEXTS), encoder.config.width) == (len(TEXTS), 24)
    without = dataclasses.replace(encoder.config, ngram_buckets=0, ngram_width=0)
    alone = Encoder(without).eval()
    alone.load_state_dict(encoder.state_dict(), strict=False)
    mean = torch.nn.functional.normalize(alone.embed(Packed.from_table(table)), dim=-1)
    torch.testing.assert_close(vectors[:, :16], mean)
    weights = encoder.ngrams.table.weight
    for row, grams in enumerate(rows(table.ngrams)):
        total = weights[torch.from_numpy(grams).long()].sum(0)
        torch.testing.assert_close(vectors[row, 16:], torch.nn.functional.normalize(total, dim=0), atol=1e-6, rtol=1e-5)


def test_order_company_and_batches_larger_than_memory_change_nothing(model):
    encoder, tokenizer = model
    together = encode_texts(encoder, tokenizer, TEXTS).vectors
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(encode_texts(encoder, tokenizer, [text]).vectors[0], together[row], atol=1e-6)
    table = tokenizer.encode(TEXTS, max_length=64)
    gradients = []
    for max_tokens in (10_000, 12):
        encoder.zero_grad()
        backward_through(encoder.train(), table, lambda v: (v[:3] @ v[3:6].T).square().sum(), max_tokens=max_tokens)
        gradients.append([p.grad.clone() for name, p in encoder.named_parameters() if "pooler" not in name])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_folder_gives_the_same_vectors_everywhere(model, tmp_path):
    encoder, tokenizer = model
    save_encoder(tmp_path, encoder, tokenizer)
    expected = encode_texts(encoder, tokenizer, TEXTS).vectors
    loaded, its_tokenizer = load_encoder(tmp_path)
    np.testing.assert_array_equal(encode_texts(loaded, its_tokenizer, TEXTS).vectors, expected)
    copied = copy.deepcopy(its_tokenizer)
    np.testing.assert_array_equal(encode_texts(loaded, copied, TEXTS).vectors, expected)
    from bilingual_embedding.sentence_transformers_module import open_model

    library = open_model(tmp_path, device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS, batch_size=2, show_progress_bar=False), expected, atol=1e-6)
    assert library.get_embedding_dimension() == encoder.config.width


def test_a_batch_without_ngrams_is_named(model):
    encoder, tokenizer = model
    plain = BilingualTokenizer(tokenizer.fast)
    with pytest.raises(DataError, match="reads n-grams, but the texts have none"):
        encode_texts(encoder, plain, TEXTS)


def test_sizes_go_together():
    encoder = Encoder(CONFIG)
    assert sum(p.numel() for p in encoder.parameters()) == CONFIG.parameters
    with pytest.raises(ConfigError, match="both be 0 or both be above 0"):
        dataclasses.replace(CONFIG, ngram_width=0)
