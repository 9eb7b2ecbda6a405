"""Targets of raw data: downloads of MovieLens and MicroLens, sources of a text encoder, its tokenizer and weights."""

from __future__ import annotations

import importlib.util
import io
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.torture.fuzz.byte_mutator import mutated
from tests.torture.fuzz.harness import ROOT, Target
from tests.torture.fuzz.row_targets import shrink_file
from tests.torture.fuzz.seeds import Written, of_json

Call = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def _folder_call(work: Path, plain: Mapping[str, bytes], read: Callable[[Path], Any]) -> Call:
    """One file of a folder is damaged, then the folder is read."""
    folder = work / "plain"
    for name, content in plain.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    odd = work / "odd"
    shutil.copytree(folder, odd)
    others = list(plain.values())

    def make(rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice(sorted(plain))
        return name, mutated(plain[name], others, rng)

    def call(given: tuple[str, bytes]) -> None:
        name, content = given
        (odd / name).write_bytes(content)
        try:
            read(odd)
        finally:
            (odd / name).write_bytes(plain[name])

    name = next(iter(plain))
    call((name, plain[name]))
    return make, call


def _movielens_files(layout: str) -> dict[str, bytes]:
    found = importlib.util.spec_from_file_location("movielens_files", ROOT / "tests/data/recipes/test_movielens.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    files = module.LAYOUTS[layout]()
    return {name: text.encode("latin-1" if name.endswith(".dat") else "utf-8") for name, text in files.items()}


def _movielens(layout: str) -> Callable[[Path], Call]:
    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.data.recipes.movielens_raw import read_raw

        return _folder_call(work, _movielens_files(layout), read_raw)

    return prepare


def _movielens_zip(work: Path) -> Call:
    """The archive itself, and files in it."""
    from fuxictr_multimodal.data.recipes.movielens_raw import read_raw

    files = _movielens_files("MovieLens_1M")
    write = Written(work, ".zip")

    def packed(files: Mapping[str, bytes], how: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as archive:
            for name, content in files.items():
                archive.writestr(f"ml-1m/{name}", content)
        return buffer.getvalue()

    archives = [packed(files, zipfile.ZIP_STORED), packed(files, zipfile.ZIP_DEFLATED)]

    def make(rng: random.Random) -> bytes:
        return mutated(rng.choice(archives), archives, rng)

    def call(content: bytes) -> None:
        read_raw(write(content))

    call(archives[1])
    return make, call


def _release(work: Path) -> Call:
    from fuxictr_multimodal.data.recipes.microlens.raw_files import read_release
    from tests.helpers.raw_release import write_release

    plain = {}
    for times in (False, True):
        made = write_release(work / f"made{times}", times=times)
        plain[times] = {path.name: path.read_bytes() for path in sorted(made.iterdir())}
    calls = [_folder_call(work / str(times), plain[times], read_release) for times in plain]

    def make(rng: random.Random) -> tuple[int, Any]:
        number = rng.randrange(2)
        return number, calls[number][0](rng)

    return make, lambda given: calls[given[0]][1](given[1])


def _challenge(work: Path) -> Call:
    """The challenge's parquet files, to a dataset."""
    from fuxictr_multimodal.data.recipes.microlens.challenge import build
    from tests.helpers.challenge_files import write_challenge

    made = write_challenge(work / "made", rows={"train": 60, "valid": 20, "test": 20})
    plain = {str(path.relative_to(made)): path.read_bytes() for path in sorted(made.rglob("*.parquet"))}

    def read(folder: Path) -> None:
        root = work / "data"
        try:
            build(
                raw=folder, dataset_id="MicroLens_1M_x1", config_dir=ROOT / "config", data_root=root, any_size=True,
                progress=False,
            )  # fmt: skip
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return _folder_call(work, plain, read)


TEXTS = {
    "lines": (("a.txt", "one\ntwo words\nthree\n"), ("b.txt", "eins\nzwei Worte\ndrei\n")),
    "sts_csv": (("a.csv", 'one,"two, three",4.5\nfour,five,0\n'), ("b.csv", "eins,zwei,4.5\nvier,fünf,0\n")),
    "bible_json": (
        ("a.json", '[{"abbrev": "gn", "chapters": [["In the beginning", "God"], ["x"]]}]'),
        ("b.json", '[{"abbrev": "gn", "chapters": [["Am Anfang", "Gott"], ["y"]]}]'),
    ),
    "table": (
        ("t.jsonl", '{"left": "a", "right": "b", "score": 0.5}\n{"left": "c", "right": "d", "score": 1}\n'),
        ("t.jsonl", '{"left": "a", "right": "b", "negative": ["x"]}\n{"left": "c", "right": "d", "negative": ["z"]}'),
        ("t.csv", "text\na\nb c\n"),
        ("t.tsv", "left\tright\tscore\na\tb\t0.5\nc\td\t1\n"),
    ),
}  # fmt: skip


def _sources(work: Path) -> Call:
    """Sources of texts, plain and gzip, and tables to encode."""
    import gzip

    import polars as pl

    from bilingual_embedding.data.readers import SourceSettings, read_source
    from bilingual_embedding.data.user_tables import read_frame

    contents: list[tuple[str, str, bytes, bytes]] = []
    for form, files in TEXTS.items():
        for place, (name, text) in enumerate(files):
            other = files[1 - place][1].encode() if form != "table" else b""
            contents.append((form, name, text.encode(), other))
            contents.append((form, f"{name}.gz", gzip.compress(text.encode(), mtime=0), other))
    buffer = io.BytesIO()
    pl.DataFrame({"text": ["a", "b"], "id": [1, 2]}).write_parquet(buffer)
    contents.append(("table", "t.parquet", buffer.getvalue(), b""))
    every = [content for _, _, content, _ in contents]

    def make(rng: random.Random) -> tuple[str, str, bytes, bytes]:
        form, name, content, other = rng.choice(contents)
        return form, name, mutated(content, every, rng), other

    def call(given: tuple[str, str, bytes, bytes]) -> None:
        form, name, content, other = given
        (work / name).write_bytes(content)
        paths, languages = [name], ["en"]
        if form != "table":
            (work / f"other-{name.removesuffix('.gz')}").write_bytes(other)
            paths, languages = [name, f"other-{name.removesuffix('.gz')}"], ["en", "de"]
        settings = SourceSettings.model_validate({"format": form, "paths": paths, "languages": languages})
        try:
            read_source("source", settings, work)
        finally:
            if form == "table":
                read_frame(work / name, text_columns=["text", "left"])

    for plain in contents:
        call(plain)
    return make, call


def _encoder(name: str) -> Callable[[Path], Call]:
    """A text encoder's folder with one damaged file, from its loading to a vector."""

    def prepare(work: Path) -> Call:
        import torch

        from bilingual_embedding.model.checkpoint import load_encoder, save_encoder
        from bilingual_embedding.model.encoder import Encoder
        from bilingual_embedding.model.presets import EncoderConfig
        from bilingual_embedding.model.tokenizer import BilingualTokenizer
        from bilingual_embedding.vectors.encoding import encode_texts

        torch.manual_seed(0)
        texts = ["b", "a longer text than the others", "a"]
        tokenizer = BilingualTokenizer.train({"en": texts * 3}, vocabulary_size=270)
        config = EncoderConfig(
            vocabulary_size=tokenizer.vocabulary_size, hidden=8, inner=8, layers=1, heads=2, max_length=16
        )
        folder = work / "encoder"
        save_encoder(folder, Encoder(config), tokenizer)
        content = (folder / name).read_bytes()

        def call(content: bytes) -> None:
            (folder / name).write_bytes(content)
            encoder, read = load_encoder(folder)
            assert len(encode_texts(encoder, read, texts).vectors) == len(texts)

        import json

        call(content)
        if name.endswith(".json"):
            return of_json([json.loads(content)]), call
        return (lambda rng: mutated(content, [content], rng)), call

    return prepare


def _titles(work: Path) -> Call:
    """Titles of items for explanations, as csv, tsv and parquet."""
    from fuxictr_multimodal.explain.attention import read_titles

    csv = b'item_id,title\n1,"a, b"\n2,c\n3,\xc3\xa9\n'
    tsv = csv.replace(b",", b"\t")
    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame({"item_id": [1, 2], "title": ["a", "b"]}).write_parquet(buffer)
    contents = {".csv": csv, ".tsv": tsv, ".parquet": buffer.getvalue()}
    writes = {suffix: Written(work, suffix) for suffix in contents}

    def make(rng: random.Random) -> tuple[str, bytes]:
        suffix = rng.choice(sorted(contents))
        return suffix, mutated(contents[suffix], [*contents.values()], rng)

    def call(given: tuple[str, bytes]) -> None:
        read_titles(writes[given[0]](given[1]))

    for plain in contents.items():
        call(plain)
    return make, call


TARGETS = (
    Target("movielens dat", 8_000, _movielens("MovieLens_1M"), shrink_file),
    Target("movielens csv", 8_000, _movielens("MovieLens_small"), shrink_file),
    Target("movielens tail", 5_000, _movielens("MovieLens"), shrink_file),
    Target("movielens zip", 8_000, _movielens_zip),
    Target("microlens raw", 5_000, _release),
    Target("microlens challenge", 300, _challenge, shrink_file),
    Target("text sources", 25_000, _sources),
    Target("titles", 5_000, _titles, shrink_file),
    Target("encoder config.json", 1_000, _encoder("config.json")),
    Target("encoder tokenizer.json", 800, _encoder("tokenizer.json")),
    Target("encoder model.safetensors", 800, _encoder("model.safetensors")),
)
