"""The bilingual tokenizer: round trips, special ids, words, both trainers, fertility, kind errors."""

import copy
import json

import numpy as np
import pytest

from bilingual_embedding.model.tokenizer import METHODS, SMALLEST_VOCABULARY, SPECIAL_TOKENS, BilingualTokenizer
from bilingual_embedding.model.tokens import TokenTable, batches_by_length
from fuxictr_multimodal.errors import ConfigError, DataError

ENGLISH = [f"the red house number {i} is near the river" for i in range(200)]
GERMAN = [f"das rote Haus Nummer {i} steht nahe am Fluß" for i in range(200)]
CORPUS = {"en": ENGLISH, "de": GERMAN}


@pytest.fixture(scope="module", params=METHODS)
def tokenizer(request):
    return BilingualTokenizer.train(CORPUS, vocabulary_size=400, method=request.param)


@pytest.mark.parametrize("text", ["Größe 42, naïve!", "¿Qué? ñandú", "日本 🙂 \t x", ""])
def test_every_text_comes_back(tokenizer, text):
    table = tokenizer.encode([text], max_length=100)
    assert tokenizer.decode(table.row(0)) == text.strip()


def test_frame_and_cut(tokenizer):
    short, long = (tokenizer.encode(["the red house " * 20], max_length=m).row(0) for m in (5, 1000))
    assert short[0] == 1
    assert short[-1] == 2
    assert len(short) == 5
    assert np.array_equal(short[:-1], long[:4])


def test_words_span_their_tokens(tokenizer):
    table = tokenizer.encode(["unforeseeable rivers"], max_length=50)
    assert table.words[0] == table.words[-1] == -1
    assert set(table.words[1:-1]) == {0, 1}
    assert (np.diff(table.words[1:-1]) >= 0).all()


def test_names_of_special_tokens_in_a_text_are_ordinary_bytes(tokenizer, tmp_path):
    tokenizer.write(tmp_path)
    saved_and_copied = BilingualTokenizer.read(tmp_path), copy.deepcopy(tokenizer)
    for text in (*SPECIAL_TOKENS, "the <mask> of <pad><cls> zorro <sep>"):
        for one in (tokenizer, *saved_and_copied):
            ids = one.encode([text], max_length=100).row(0)
            assert ids.tolist().count(1) == ids.tolist().count(2) == 1
            assert min(ids[1:-1]) >= len(SPECIAL_TOKENS)
            assert one.decode(ids) == text
            assert one.fertility([text]) == (len(ids) - 2) / len(text.split())


def test_names_of_special_tokens_in_training_texts_are_ordinary_bytes(tokenizer):
    texts = ["the <mask> of <pad><cls> zorro <sep>"] * 50
    for method in METHODS:
        found = BilingualTokenizer.train({"en": texts}, vocabulary_size=300, method=method)
        assert [found.fast.token_to_id(name) for name in SPECIAL_TOKENS] == [0, 1, 2, 3]
        ids = found.encode(texts[:1], max_length=100).row(0)
        assert min(ids[1:-1]) >= len(SPECIAL_TOKENS)
        assert found.decode(ids) == texts[0]


def test_a_file_with_the_words_of_gpt2_still_loads(tokenizer, tmp_path):
    """The form that was written before words kept their marks: the same tokens for texts without marks."""
    tokenizer.write(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    old = BilingualTokenizer.read(tmp_path)
    texts = [*GERMAN, "it's 12,5 €, they'll  see\t<mask>", "日本 🙂"]
    for field in ("ids", "words", "offsets"):
        ours, theirs = (getattr(one.encode(texts, max_length=64), field) for one in (tokenizer, old))
        assert np.array_equal(ours, theirs)
    assert old.decode(old.encode(["a <mask> b"], max_length=64).row(0)) == "a <mask> b"


@pytest.mark.parametrize(
    "word", ["दिन", "வணக்கம்", "বাংলা", "สวัสดี", "كُتِبَ", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u0323\u0302x"]
)
def test_a_word_keeps_its_marks(word):
    found = BilingualTokenizer.train({"hi": [f"{word} {word}"] * 20}, vocabulary_size=400)
    table = found.encode([f"{word} x {word}!"], max_length=100)
    assert set(table.words) == {-1, 0, 1, 2, 3}
    assert len(found.encode([word], max_length=100).row(0)) == 3  # and so it can become one token


def test_white_space_around_a_text_does_not_count_in_front(tokenizer):
    assert np.array_equal(
        tokenizer.encode(["  the house"], max_length=9).ids, tokenizer.encode(["the house"], max_length=9).ids
    )


def test_file_round_trip(tokenizer, tmp_path):
    tokenizer.write(tmp_path)
    again = BilingualTokenizer.read(tmp_path)
    assert np.array_equal(again.encode(GERMAN, max_length=64).ids, tokenizer.encode(GERMAN, max_length=64).ids)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def test_parity_evens_out_the_languages():
    """With nine English texts for each German one, plain BPE favours English; parity brings both closer."""
    lopsided = {"en": [f"{a} {b}" for a in ENGLISH for b in ENGLISH[:9]], "de": GERMAN}
    gaps = {}
    for method in METHODS:
        found = BilingualTokenizer.train(lopsided, vocabulary_size=300, method=method, aligned_texts_by_language=CORPUS)
        gaps[method] = abs(found.fertility(GERMAN) - found.fertility(ENGLISH))
    assert gaps["parity"] <= gaps["bpe"]


def test_training_is_reproducible_and_lowers_case_on_request():
    one, two = (BilingualTokenizer.train(CORPUS, vocabulary_size=350, lower=True) for _ in range(2))
    assert one.fast.to_str() == two.fast.to_str()
    assert np.array_equal(one.encode(["HAUS"], max_length=9).ids, one.encode(["haus"], max_length=9).ids)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match=str(SMALLEST_VOCABULARY)):
        BilingualTokenizer.train(CORPUS, vocabulary_size=100)
    with pytest.raises(ConfigError, match="'wordpiece' is unknown; choose from bpe, parity"):
        BilingualTokenizer.train(CORPUS, vocabulary_size=400, method="wordpiece")
    with pytest.raises(DataError, match="no text"):
        BilingualTokenizer.train({"en": []}, vocabulary_size=400)
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        BilingualTokenizer.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer file"):
        BilingualTokenizer.read(tmp_path)


def test_take_and_windows_of_a_table():
    table = TokenTable.from_lists([[1, 7, 8, 2], [1, 2], [1, 9, 2]])
    taken = table.take([2, 0, 2])
    assert [taken.row(i).tolist() for i in range(3)] == [[1, 9, 2], [1, 7, 8, 2], [1, 9, 2]]
    pieces = table.windows(3)
    assert [pieces.row(i).tolist() for i in range(4)] == [[1, 7, 2], [1, 8, 2], [1, 2], [1, 9, 2]]
    assert pieces.words.tolist()[:3] == [0, 1, 3]
    assert len(table.take([])) == 0


def test_batches_hold_each_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 50, 300)
    batches = list(batches_by_length(lengths, max_tokens=100))
    assert sorted(np.concatenate(batches)) == list(range(300))
    assert all(lengths[b].sum() <= 100 for b in batches)
    assert list(batches_by_length(np.zeros(0, dtype=np.int64), max_tokens=5)) == []
