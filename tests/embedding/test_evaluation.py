"""Scores on answers known by construction, and their lexical baselines."""

import numpy as np
import pytest

from bilingual_embedding.data.readers import SourceSettings, read_source
from bilingual_embedding.data.texts import Pairs, ScoredPairs, Source
from bilingual_embedding.evaluation import scores as evaluation
from bilingual_embedding.evaluation.scores import evaluate, lexical_baselines, sts_score, translation_accuracy


def angles(texts):
    """A text is an angle in degrees: the cosine of two texts is known."""
    radians = np.radians([float(text.split()[-1]) for text in texts])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_sts_is_the_rank_correlation():
    right = ["10", "80", "40", "20"]
    score = np.array([1.0, 0.0, 0.5, 0.6], dtype=np.float32)
    assert sts_score(ScoredPairs(["0"] * 4, right, score), angles) == pytest.approx(100)
    assert sts_score(ScoredPairs(["0"] * 4, right, 1 - score), angles) == pytest.approx(-100)


def test_translation_accuracy_has_two_directions():
    # Both left texts are nearest to the first right one; each right text is nearest to its own.
    assert translation_accuracy(Pairs(["0", "30"], ["10", "70"]), angles) == (50.0, 100.0)


def test_equal_translations_count_as_found():
    assert translation_accuracy(Pairs(["0", "0", "50"], ["1", "1", "51"]), angles) == (100.0, 100.0)


def test_a_constant_encoder_finds_nothing():
    def constant(texts):
        return angles(["0"] * len(texts))

    assert translation_accuracy(Pairs(list("abcd"), list("efgh")), constant) == (25.0, 25.0)


def test_names_of_scores():
    pairs = Source("t", {"en": [], "de": []}, Pairs(["0", "30"], ["10", "70"]))
    scored = Source("s", {}, scored=ScoredPairs(["0", "0"], ["9", "30"], np.array([1, 0], dtype=np.float32)))
    assert evaluate([pairs, scored], angles) == {"t en->de": 50.0, "t de->en": 100.0, "s": pytest.approx(100.0)}


def test_floor_sees_letters_and_nothing_else():
    pairs = Source("t", {"en": [], "de": []}, Pairs(["hello world", "zebra"], ["hello worlds", "xxqq"]))
    assert lexical_baselines([pairs]) == {"t en->de": 50.0, "t de->en": 50.0}


def undefined(texts):
    return np.full((len(texts), 2), np.nan, dtype=np.float32)


def scored(left, right, score):
    return Source("s", {}, scored=ScoredPairs(left, right, np.array(score, dtype=np.float32)))


@pytest.mark.parametrize(
    ("source", "embed", "why"),
    [
        (scored(["0", "0"], ["9", "30"], [1, 1]), angles, "all 2 human scores are equal"),
        (scored(["0"], ["9"], [1]), angles, "a rank correlation needs two pairs or more, found 1"),
        (scored([], [], []), angles, "a rank correlation needs two pairs or more, found 0"),
        (scored(["0", "10"], ["0", "10"], [1, 0]), angles, "all 2 cosines are equal"),
        (scored(["0", "0"], ["9", "30"], [1, np.nan]), angles, "the human scores are not all finite numbers"),
        (scored(["0", "0"], ["9", "30"], [1, 0]), undefined, "the encoder's vectors are not all finite numbers"),
    ],
)
def test_a_correlation_that_is_not_defined_has_no_value(source, embed, why, caplog):
    assert evaluate([source], embed if source.scored.left else lambda texts: np.zeros((0, 2))) == {"s": None}
    assert caplog.messages == [f"s: no value: {why}"]


def test_an_accuracy_that_is_not_defined_has_no_value(caplog):
    names = {"t en->de": None, "t de->en": None}
    assert evaluate([Source("t", {"en": [], "de": []}, Pairs(["0"], ["9"]))], undefined) == names
    assert evaluate([Source("t", {"en": [], "de": []}, Pairs([], []))], lambda texts: np.zeros((0, 2))) == names
    assert caplog.messages == [
        "t: no value: the encoder's vectors are not all finite numbers",
        "t: no value: there are no pairs",
    ]


def test_a_floor_that_is_not_defined_has_no_value(caplog):
    sources = [
        scored(["a b", "c d"], ["a b", "x y"], [1, 1]),
        Source("t", {"en": [], "de": []}, Pairs([" "], [""])),
        Source("u", {"en": [], "de": []}, Pairs([], [])),
    ]
    baselines = lexical_baselines(sources)
    assert baselines == dict.fromkeys(["s", "t en->de", "t de->en", "u en->de", "u de->en"])
    assert caplog.messages == [
        "baseline of s: no value: all 2 human scores are equal",
        "baseline of t: no value: there is no text",
        "baseline of u: no value: there is no text",
    ]


def test_one_undefined_score_leaves_the_others(caplog):
    pairs = Source("t", {"en": [], "de": []}, Pairs(["0", "30"], ["10", "70"]))
    found = evaluate([scored(["0"], ["9"], [1]), pairs], angles)
    assert found == {"s": None, "t en->de": 50.0, "t de->en": 100.0}
    assert len(caplog.messages) == 1


def test_nearest_texts_are_the_same_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    left = generator.integers(0, 360, 50)
    pairs = Pairs([f"l {x}" for x in left], [f"r {x}" for x in left + generator.integers(-9, 9, 50)])
    whole = translation_accuracy(pairs, angles)
    monkeypatch.setattr(evaluation, "BLOCK", 7)
    assert translation_accuracy(pairs, angles) == whole
    assert all(0 < share < 100 for share in whole)


def test_baselines_of_files_in_the_public_layouts(tmp_path):
    """Scored pairs whose order letters tell, worse across languages; translations that share names, or swap them."""
    rows = {
        "en": [
            ("a Berlin tower", right, score) for right, score in (("a Berlin tower", 5), ("Berlin", 3), ("zz qq", 0))
        ],
        "de": [
            ("ein Berlin Haus", right, score) for right, score in (("ein Berlin Haus", 5), ("Berlin", 3), ("xx", 0))
        ],
    }
    for language, lines in rows.items():
        text = "".join(f'"{left}",{right},{score}\n' for left, right, score in lines)
        (tmp_path / f"stsb-{language}-test.csv").write_text(text, encoding="utf-8")
    lines = {"eng": ["Tom sleeps", "Maria eats", "Rome", "Paris"], "deu": ["Tom xyz", "Maria xyz", "Paris", "Rome"]}
    for name, texts in lines.items():
        (tmp_path / f"tatoeba.deu-eng.{name}").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    def source(name, form, paths, languages):
        return read_source(name, SourceSettings(format=form, paths=paths, languages=languages), tmp_path)

    sources = [source(x, "sts_csv", (f"stsb-{x}-test.csv",), (x,)) for x in ("en", "de")]
    sources += [source("en_de", "sts_csv", ("stsb-en-test.csv", "stsb-de-test.csv"), ("en", "de"))]
    sources += [source("tatoeba", "lines", ("tatoeba.deu-eng.eng", "tatoeba.deu-eng.deu"), ("en", "deu"))]
    baselines = lexical_baselines(sources)
    assert baselines.pop("en_de") == pytest.approx(49.2366, abs=1e-3)
    assert baselines == pytest.approx({"en": 100, "de": 100, "tatoeba en->deu": 50, "tatoeba deu->en": 50})
