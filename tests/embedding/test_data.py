"""Readers of every format, their complaints, and the contamination filter with its counts."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bilingual_embedding.data.cleaning import Counts, clean, key, keys
from bilingual_embedding.data.readers import SourceSettings, read_source
from bilingual_embedding.data.texts import Pairs, ScoredPairs, Source
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


FORMS = {
    "plain": lambda content: content,
    "mark": lambda content: b"\xef\xbb\xbf" + content,
    "crlf": lambda content: content.replace(b"\n", b"\r\n"),
    "cr": lambda content: content.replace(b"\n", b"\r"),
    "blank": lambda content: content + b"\n  \n\n",
    "gzip": gzip.compress,
    "all": lambda content: gzip.compress(b"\xef\xbb\xbf" + (content + b"\n \n").replace(b"\n", b"\r\n")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("reader", "name", "content"),
    [
        ("lines", "t.txt", "größer\nnext\n"),
        ("sts_csv", "t.csv", '"größer, or so",next,2.5\nx,y,5\n'),
        ("bible_json", "t.json", '[{"chapters": [["größer", "next"]]}]\n'),
        ("table", "t.jsonl", '{"text": "größer"}\n{"text": "next"}\n'),
        ("table", "t.csv", 'text,id\n"größer, or so",1\nnext,2\n'),
        ("table", "t.tsv", "text\tid\ngrößer\t1\nnext\t2\n"),
        ("table", "t.csv", '"left","right","score"\n1917,next,0.5\n'),
    ],
)
def test_text_files_as_people_have_them(tmp_path, reader, name, content, form):
    """A byte order mark, CRLF, CR, blank last lines, gzip, capitals in the suffix: the same texts."""
    expected = tmp_path / "expected" / name
    expected.parent.mkdir()
    expected.write_bytes(content.encode())
    suffix = Path(name).suffix.upper() + (".GZ" if form in ("gzip", "all") else "")
    (tmp_path / f"T{suffix}").write_bytes(FORMS[form](content.encode()))
    found, wanted = (
        read(folder, reader, [file]) for folder, file in ((tmp_path, f"T{suffix}"), (expected.parent, name))
    )
    assert next(iter(found.texts.values()))[0] in ("größer", "größer, or so", "größer next", "1917")
    assert (found.texts, found.pairs) == (wanted.texts, wanted.pairs)
    if wanted.scored is not None:
        assert (found.scored.left, found.scored.right) == (wanted.scored.left, wanted.scored.right)
        assert found.scored.score.tolist() == wanted.scored.score.tolist()


def test_a_blank_last_line_is_a_missing_text_where_the_other_file_has_one(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n")
    (tmp_path / "b.txt").write_text("eins\n\n")
    assert read(tmp_path, "lines", ["a.txt", "b.txt"]).pairs == Pairs(["one", "two"], ["eins", ""])
    (tmp_path / "b.txt").write_text("eins\n")
    with pytest.raises(DataError, match="2 lines and .* has 1: they are not aligned"):
        read(tmp_path, "lines", ["a.txt", "b.txt"])


@pytest.mark.parametrize(
    ("reader", "name"), [("lines", "t.txt"), ("sts_csv", "t.csv"), ("bible_json", "t.json"), ("table", "t.jsonl"),
                         ("table", "t.csv"), ("table", "t.tsv")],
)  # fmt: skip
def test_what_is_no_text_is_named(tmp_path, reader, name):
    file = tmp_path / name
    for content, message in (
        (b"ok,ok,1\nok\xe9,ok,1\n", r"line 2: byte 11 of the text \(0xe9\) is not UTF-8; save the file as UTF-8"),
        ("a,b,1\n".encode("utf-16"), r"line 1: byte 1 of the text \(0xff\) is not UTF-8"),
        (b"a,b,1\na\0b,c,1\n", "line 2: NUL character"),
        (gzip.compress(b"a,b,1\n" * 99)[:-20], "cannot be read: "),
        (gzip.compress(b"a,b,1\n" * 99)[:30] + b"rubbish" * 9, "cannot be read: "),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{re.escape(name)}[ ,]{{1,2}}{message}"):
            read(tmp_path, reader, [name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,id\na,1\nb, c,2\n", r"t\.csv, row 2: 3 fields for 2 columns; put quotes around texts"),
        ("t.csv", "", r"t\.csv is empty"),
        ("t.jsonl", "\n\n", r"t\.jsonl is empty"),
        ("t.jsonl", '{"text": "a"}\n{"text": \n', r"t\.jsonl, line 2: not JSON"),
        ("t.jsonl", '{"text": "a"}\n["b"]\n', r"t\.jsonl, line 2: expected an object"),
        (
            "t.jsonl",
            '{"text": "a"}\n{"text": NaN}\n',
            r"t\.jsonl, line 2: not JSON: NaN is not a JSON value, write null",
        ),
        ("t.csv", "text,id,text\na,1,b\n", r"t\.csv: column 'text' occurs 2 times"),
        ("t.csv", 'text,id\n"a,1\nb,2\n', r"t\.csv cannot be read: could not parse"),
        ("t.csv", 'text,"' + "i" * 140_000 + "\na,1\n", r"t\.csv: the first row cannot be read as column names"),
        ("t.parquet", "PAR1", r"t\.parquet cannot be read as parquet"),
        ("t.xlsx", "", r"expected a file named \.jsonl, .*\.tsv, or one of them with \.gz after it"),
    ],
)
def test_tables_that_are_none_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, "table", [name])


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


def test_half_a_character_in_json_is_left_out(tmp_path):
    (tmp_path / "en.json").write_text('[{"chapters": [["a \\ud83d", "b"]]}]')
    assert read(tmp_path, "bible_json", ["en.json"]).texts == {"en": ["a b"]}


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
    with pytest.raises(DataError, match="contains no text"):
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


# Pairs that differ in a mark alone.
DIFFERENT = [
    ("दिन", "दीन"), ("कल", "काला"), ("वह जाता है", "वह जाती है"), ("কি", "কী"), ("பல்", "பால்"), ("ไป", "ไป่"), ("ကို", "ကူ"),
    ("كَتَبَ", "كُتِبَ"), ("שָׁלוֹם", "שָׂלוֹם"), ("ກິນ", "ກີນ"), ("a\u0323\u0311", "a\u0323\u0310"), ("कि", "क"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_that_differ_in_a_mark_are_different(one, other):
    assert key(one) != key(other)
    texts = [one, other]
    source = Source("s", {"x": texts}, Pairs(texts, texts), ScoredPairs(texts, texts, np.zeros(2, dtype=np.float32)))
    _, counts = clean(source, set())
    assert {count.kept for count in counts.values()} == {2}
    _, counts = clean(source, keys([one]))
    assert {(count.contaminated, count.kept) for count in counts.values()} == {(1, 1)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Größe", "GRÖSSE"),
        ("naïve", "nai\u0308ve"),
        ("\u03aa\u0301x", "\u0390x"),  # a capital that has no composed form
        ("İstanbul", "istanbul"),
        ("क\u093c", "क़"),
        ("\ufb01ne \uff11\uff12", "fine 12"),
        ("Schiff\u00adfahrt", "Schifffahrt"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
        ("\ufeffred ❤\ufe0f", "Red ❤!"),
        ("snake_case", "snake case"),
    ],
)
def test_texts_that_look_the_same_are_the_same(one, other):
    assert key(one) == key(other)
    assert key(key(one)) == key(one)


def test_symbols_alone_are_no_text():
    assert {key(text) for text in ("...", "❤️", "👨‍👩", "_", " \u200b ")} == {""}


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
