"""Readers of every format, their complaints, and the contamination filter with its counts."""

import gzip
import json

import numpy as np
import polars as pl
import pytest

from bilingual_embedding.cleaning import Counts, clean, key, keys
from bilingual_embedding.readers import SourceSettings, read_source
from bilingual_embedding.texts import Pairs, ScoredPairs, Source
from fuxictr_multimodal.errors import ConfigError, DataError


def read(folder, form, paths, languages=("en", "de")):
    settings = SourceSettings(format=form, paths=tuple(paths), languages=tuple(languages[: len(paths)]))
    return read_source("mine", settings, folder)


def test_lines_plain_and_gzip(tmp_path):
    (tmp_path / "a.en").write_text("one\n two \n", encoding="utf-8")
    with gzip.open(tmp_path / "a.de.gz", "wt", encoding="utf-8") as file:
        file.write("eins\nzwei\n")
    source = read(tmp_path, "lines", ["a.en", "a.de.gz"])
    assert source.pairs == Pairs(["one", "two"], ["eins", "zwei"])
    assert source.texts == {"en": ["one", "two"], "de": ["eins", "zwei"]}
    assert read(tmp_path, "lines", ["a.en"]).pairs is None


def test_sts_of_one_language_and_across_two(tmp_path):
    (tmp_path / "en.csv").write_text('"A, b",c,2.5\nd,e,5.0\n', encoding="utf-8")
    (tmp_path / "de.csv").write_text("F,g,2.5\nh,i,5.0\n", encoding="utf-8")
    one = read(tmp_path, "sts_csv", ["en.csv"])
    assert (one.scored.left, one.scored.right, one.scored.score.tolist()) == (["A, b", "d"], ["c", "e"], [0.5, 1.0])
    assert one.pairs is None
    two = read(tmp_path, "sts_csv", ["en.csv", "de.csv"])
    assert list(zip(two.scored.left, two.scored.right, strict=True)) == [
        ("A, b", "g"), ("d", "i"), ("c", "F"), ("e", "h"),
    ]  # fmt: skip
    assert list(zip(two.pairs.left, two.pairs.right, strict=True)) == [
        ("A, b", "F"), ("d", "h"), ("c", "g"), ("e", "i"),
    ]  # fmt: skip
    (tmp_path / "de.csv").write_text("F,g,2.5\nh,i,4.0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"de\.csv, row 2: score 4\.0 differs from 5\.0"):
        read(tmp_path, "sts_csv", ["en.csv", "de.csv"])


def test_bible_chapters_are_texts_and_verses_are_pairs(tmp_path):
    for name, words in (("en", ["a", "b", "c"]), ("de", ["x", "y", "z"])):
        books = [{"book": "one", "chapters": [words[:2], words[2:]]}]
        (tmp_path / f"{name}.json").write_text("\ufeff" + json.dumps(books), encoding="utf-8")
    source = read(tmp_path, "bible_json", ["en.json", "de.json"])
    assert source.texts == {"en": ["a b", "c"], "de": ["x y", "z"]}
    assert source.pairs == Pairs(["a", "b", "c"], ["x", "y", "z"])


def test_some_books(tmp_path):
    books = [{"book": str(i), "chapters": [[f"verse {i}"]]} for i in range(5)]
    (tmp_path / "en.json").write_text(json.dumps(books), encoding="utf-8")
    settings = SourceSettings(format="bible_json", paths=("en.json",), languages=("en",), books=(1, 3))
    assert read_source("mine", settings, tmp_path).texts == {"en": ["verse 1", "verse 2"]}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_own_tables(tmp_path, suffix):
    def write(frame):
        file = tmp_path / f"t.{suffix}"
        frame.write_ndjson(file) if suffix == "jsonl" else frame.write_parquet(file)
        return read(tmp_path, "table", [file.name])

    assert write(pl.DataFrame({"text": ["a", " b "]})).texts == {"en": ["a", "b"]}
    assert write(pl.DataFrame({"left": ["a"], "right": ["b"]})).pairs == Pairs(["a"], ["b"])
    scored = write(pl.DataFrame({"left": ["a"], "right": ["b"], "score": [0.25]})).scored
    assert scored.score.tolist() == [0.25]
    triplets = write(pl.DataFrame({"left": ["a"], "right": ["b"], "negative": [["c", "d"]]})).pairs
    assert triplets.negatives == [["c", "d"]]
    assert write(pl.DataFrame({"left": ["a"], "right": ["b"], "negative": ["c"]})).pairs.negatives == [["c"]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"words": ["a"]}, r"t\.jsonl has columns words; expected `text`"),
        ({"text": ["a", None]}, r"t\.jsonl, row 2: column 'text' is empty"),
        ({"text": [1, 2]}, "column 'text' holds Int64, expected text"),
        ({"left": ["a", "b"], "right": ["c", "d"], "score": [0.5, 3.0]}, r"row 2: score 3\.0 is not a number from 0"),
        ({"left": ["a", "b"], "right": ["c", "d"], "negative": [["e"], ["f", "g"]]}, "row 2: negative"),
    ],
)
def test_bad_tables_are_named(tmp_path, frame, message):
    pl.DataFrame(frame).write_ndjson(tmp_path / "t.jsonl")
    with pytest.raises(DataError, match=message):
        read(tmp_path, "table", ["t.jsonl"])


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ConfigError, match="'line' is unknown. Did you mean 'lines'?"):
        read(tmp_path, "line", ["a"])
    with pytest.raises(DataError, match=r"a\.txt does not exist; set data_root"):
        read(tmp_path, "lines", ["a.txt"])
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"a\.txt has 1 lines and .*b\.txt has 2: they are not aligned"):
        read(tmp_path, "lines", ["a.txt", "b.txt"])
    (tmp_path / "a.csv").write_text("x,y,1\nx,y,seven\n")
    with pytest.raises(DataError, match=r"a\.csv, row 2: expected sentence1,sentence2,score"):
        read(tmp_path, "sts_csv", ["a.csv"])
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path, "bible_json", ["a.json"])
    with pytest.raises(ConfigError, match="'mine' has no scored pairs"):
        read(tmp_path, "lines", ["a.txt"]).need_scored()


def test_filter_drops_what_is_evaluated_and_doubles_and_counts():
    forbidden = keys(["A man sings.", "¡Hola!", "..."])
    assert forbidden == {"a man sings", "hola"}
    source = Source(
        "s",
        {"en": ["A MAN sings", "a dog", "A dog!", " ", "a cat"]},
        Pairs(["a dog", "a dog", "a dog", "x"], ["ein Hund", "ein Hund.", "Hund", "hola"]),
        ScoredPairs(["a", "b"], ["a man sings", "c"], np.array([0.5, 0.7], dtype=np.float32)),
    )
    found, counts = clean(source, forbidden)
    assert found.texts == {"en": ["a dog", "a cat"]}
    assert found.pairs == Pairs(["a dog", "a dog"], ["ein Hund", "Hund"])
    assert (found.scored.left, found.scored.score.tolist()) == (["b"], [pytest.approx(0.7)])
    assert counts["texts.en"] == Counts(read=5, empty=1, contaminated=1, duplicates=1, kept=2)
    assert counts["pairs"] == Counts(read=4, contaminated=1, duplicates=1, kept=2)


def test_filter_checks_hard_negatives_too():
    source = Source("s", {}, Pairs(["a", "b"], ["c", "d"], [["secret", "e"], ["f", "g"]]))
    found, counts = clean(source, {"secret"})
    assert found.pairs == Pairs(["b"], ["d"], [["f", "g"]])
    assert counts["pairs"].contaminated == 1


def test_captions_of_a_test_set_are_found_and_dropped(tmp_path):
    """Compressed lines against a scored test set of each language: capitals and punctuation hide nothing."""
    captions = {
        "en": ["A girl styles her hair.", "Men play soccer", "A dog runs.", "Nobody is here.", "A boy  sings"],
        "de": ["Ein Mädchen.", "Männer spielen", "Ein Hund läuft!", "Niemand da.", "Ein Junge singt"],
    }
    (tmp_path / "multi30k").mkdir()
    for language, lines in captions.items():
        with gzip.open(tmp_path / f"multi30k/train.{language}.gz", "wt", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
    tests = {
        "en": '"a girl, styles her hair","She sings",2.5\nA cat sits.,A DOG RUNS,1.0\nNo one,None,0.0\n',
        "de": "EIN HUND LÄUFT,Ein Hund läuft.,5.0\nEine Katze,Ein Tier,3.0\n",
    }
    settings = SourceSettings(
        format="lines", paths=("multi30k/train.en.gz", "multi30k/train.de.gz"), languages=("en", "de")
    )
    source = read_source("multi30k", settings, tmp_path)
    for language, hits, kept in (("en", 2, [1, 3, 4]), ("de", 1, [0, 1, 3, 4])):
        (tmp_path / f"stsb-{language}-test.csv").write_text(tests[language], encoding="utf-8")
        test = read(tmp_path, "sts_csv", [f"stsb-{language}-test.csv"], (language,))
        found = keys(source.texts[language])
        hit = [key(a) in found or key(b) in found for a, b in zip(test.scored.left, test.scored.right, strict=True)]
        assert sum(hit) == hits
        cleaned, counts = clean(source, keys(test.texts[language]))
        assert cleaned.pairs == Pairs(*([captions[side][row] for row in kept] for side in ("en", "de")))
        assert counts["pairs"] == Counts(read=5, contaminated=5 - len(kept), kept=len(kept))
