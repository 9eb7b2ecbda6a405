"""Text encoders from elsewhere: configurations, tokenizers and weights that lie, modules that would be imported."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.torture.hostile.exports import ONE, _safetensors
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.weights import Payload
from tests.torture.hostile.worlds import edit_json

FOLDER = Path("encoder")
ENCODE = ("embed", "--config", "config/embedding", "--expid", "E", "--stage", "encode", "--input", "texts.csv",
          "--output", "v.parquet")  # fmt: skip


def _written(content: dict[str, Any]) -> None:
    Path("config/embedding/e.yaml").write_text(yaml.safe_dump({"Base": {"seed": 1}, "E": content}), encoding="utf-8")


PLAIN: dict[str, Any] = {
    "preset": "nano",
    "data_root": ".",
    "model_root": "./checkpoints/embedding",
    "data": {"sentences": {"format": "lines", "paths": ["a.txt", "b.txt"], "languages": ["en", "es"]},
             "held": {"format": "lines", "paths": ["c.txt", "d.txt"], "languages": ["en", "es"]}},
    "tokenizer": {"sources": ["sentences"], "method": "bpe", "vocabulary_size": 300},
    "evaluation": {"sources": ["held"]},
    "pairs": {
        "rates": {"sentences": 1.0}, "steps": 2, "batch_size": 4, "max_length": 16,
        "optimiser": {"learning_rate": 1.0e-3, "warmup_steps": 1},
    },
}  # fmt: skip


def folder(change: Callable[[Place], object]) -> Callable[[Place], Sequence[str]]:
    """Change a trained encoder's folder, and encode with it."""

    def write(place: Place) -> Sequence[str]:
        change(place)
        _written(PLAIN)
        return (*ENCODE, "--published", str(FOLDER))

    return write


def config(key: str, value: Any) -> Callable[[Place], object]:
    return lambda place: edit_json(FOLDER / "config.json", lambda found: found.update({key: value}))


def file(name: str, content: bytes | Callable[[Place], bytes]) -> Callable[[Place], object]:
    return lambda place: (FOLDER / name).write_bytes(content(place) if callable(content) else content)


def _tokenizer(change: Callable[[Any], object]) -> Callable[[Place], object]:
    return lambda place: edit_json(FOLDER / "tokenizer.json", change)


def experiment(change: Callable[[dict[str, Any], Place], object]) -> Callable[[Place], Sequence[str]]:
    """Settings of an encoder that is trained."""

    def write(place: Place) -> Sequence[str]:
        for name in ("a.txt", "b.txt"):
            Path(name).write_text("a red car\nthe blue sea\n" * 20, encoding="utf-8")
        for name in ("c.txt", "d.txt"):
            Path(name).write_text("an old house\na green tree\n", encoding="utf-8")
        content = json.loads(json.dumps(PLAIN))
        change(content, place)
        _written(content)
        return ("embed", "--config", "config/embedding", "--expid", "E")

    return write


def _elsewhere(place: Place) -> Sequence[str]:
    _written(PLAIN)
    return ("embed", "--config", "config/embedding", "--expid", "../x")


def _foreign_modules(place: Place) -> None:
    """A folder whose list of modules names code."""
    (FOLDER / "evil.py").write_text(place.code, encoding="utf-8")
    (FOLDER / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Model"}]), encoding="utf-8"
    )


CASES: list[Case] = with_name(
    "encoders",
    [
        *(
            Case(
                f"a configuration with {key} {str(value)[:20]}",
                folder(config(key, value)),
                "encoder|E|config",
                world="encoder",
            )
            for key, value in (
                ("layers", 10**9),
                ("hidden", 10**7),
                ("vocabulary_size", 10**12),
                ("heads", 0),
                ("max_length", "x"),
                ("positions", "__import__"),
                ("dropout", float("nan")),
                ("hidden", -16),
            )
        ),
        Case(
            "a configuration of 200,000 brackets",
            folder(file("config.json", b"[" * 200_000)),
            "config.json",
            world="encoder",
        ),
        Case(
            "a pickle as weights",
            folder(file("model.safetensors", lambda p: pickle.dumps(Payload(p)))),
            "safetensors",
            world="encoder",
        ),
        Case(
            "weights of another shape",
            folder(file("model.safetensors", _safetensors({"x": ONE}, b"\0" * 32))),
            "safetensors",
            world="encoder",
        ),
        Case(
            "a tokenizer of 200,000 brackets",
            folder(file("tokenizer.json", b"[" * 200_000)),
            "tokenizer",
            world="encoder",
        ),
        Case("a tokenizer of garbage", folder(file("tokenizer.json", b"\xff" * 100)), "tokenizer", world="encoder"),
        Case(
            "a tokenizer with a number beyond the weights",
            folder(_tokenizer(lambda t: t["model"]["vocab"].update({"a": 4_000_000_000}))),
            "tokenizer|E",
            world="encoder",
        ),
        Case(
            "a tokenizer without its special tokens",
            folder(_tokenizer(lambda t: t.update(added_tokens=[]))),
            "",
            accepted="the special tokens are in the vocabulary, and their numbers are checked",
            world="encoder",
        ),
        Case("modules that name code", folder(_foreign_modules), "E|sentence|module", world="encoder"),
        Case(
            "an expid ../x",
            _elsewhere,
            "expid",
            world="encoder",
        ),
        Case(
            "a preset that is unknown",
            experiment(lambda e, p: e.update(preset="__import__")),
            "preset",
            world="encoder",
        ),
        Case(
            "a method of the tokenizer that is unknown",
            experiment(lambda e, p: e["tokenizer"].update(method=p.code)),
            "method",
            world="encoder",
        ),
        Case(
            "a vocabulary of 10^12",
            experiment(lambda e, p: e["tokenizer"].update(vocabulary_size=10**12)),
            "vocabulary_size",
            world="encoder",
        ),
        Case(
            "a start from outside",
            experiment(lambda e, p: e.update(start_from="../../outside/pairs")),
            "start_from|outside",
            world="encoder",
        ),
        Case(
            "a precision of Python", experiment(lambda e, p: e.update(precision=p.code)), "precision", world="encoder"
        ),
        Case(
            "a stage of Python",
            experiment(lambda e, p: e.update({p.code: {"steps": 1}})),
            "unknown key",
            world="encoder",
        ),
    ],
)
