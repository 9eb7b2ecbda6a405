"""Every benchmark explains itself and is in the architecture; the smallest one runs and ends in its JSON object."""

import doctest
import importlib
import json
import logging
import os
import runpy
import sys
from pathlib import Path

import pytest

from tests.helpers.typed_command import type_command

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_every_benchmark_is_in_the_readme_of_its_folder():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FOLDER.glob("*.py") if f"| `{path.name}` |" not in text] == []


def test_examples_of_startup(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert doctest.testmod(importlib.import_module("startup")) == (0, 1)


# FuxiCTR's gAUC divides its rows among half of the cores: a machine of one core has none for it.
def on_two_cores() -> None:
    os.cpu_count = lambda: 2


def test_metrics_end_in_one_json_object(tmp_path):
    command = [str(FOLDER / "metrics.py"), "--rows", "400", "--groups", "20", "--repeats", "1"]
    done = type_command(command, folder=tmp_path, before=on_two_cores)
    assert done.status == 0, done.errors
    result = json.loads(done.out.splitlines()[-1])
    wanted = {"name", "machine", "shapes", "rows_per_s", "ceiling", "ceiling_fraction", "ratio_to_plain", "check"}
    assert wanted <= result.keys()
    assert max(figures["difference"] for figures in result["metrics"].values()) <= 1e-12


def test_checks_end_in_one_json_object(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    sizes = ["--rows", "3000", "--items", "60", "--batch-size", "32", "--embedding-dim", "4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["checks.py", *sizes])
    importlib.import_module("checks").main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < result["open_s"]["recorded"] < result["open_s"]["verified"]
    assert 0 < result["epoch_s"]["checks"] < result["epoch_s"]["reading"]
    assert 0 < result["percent_of_training"] < result["percent_of_reading"]


def test_documents_that_are_their_own_translation_are_found(monkeypatch, capsys, tmp_path):
    words = [f"{a}{b}{c}{a}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]
    lines = [" ".join(words[(7 * row + 31 * place) % len(words)] for place in range(8)) for row in range(60)]
    for side in ("left", "right"):
        (tmp_path / f"{side}.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(FOLDER))
    paths = [str(tmp_path / f"{side}.txt") for side in ("left", "right")]
    sizes = ["--format", "lines", "--tokens", "40", "80", "--documents", "5", "--paragraph", "2"]
    monkeypatch.setattr(sys, "argv", ["embedding_documents.py", "--paths", *paths, *sizes])
    importlib.import_module("embedding_documents").main()
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["tfidf"]
    for of_length in scores.values():
        assert of_length["cosine of a document and its translation"] == pytest.approx(1)
        assert of_length["cosine of different documents"] < 0.9
        for name in ("document finds translation", "paragraph finds document", "translated paragraph finds document"):
            assert of_length[name] == 100


def test_a_benchmark_needs_one_timed_step(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["score.py", "--repeats", "0"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / "score.py"), run_name="__main__")
    assert end.value.code == 2
    assert "--repeats: 0 is below 1" in capsys.readouterr().err


def test_a_census_without_a_trained_model_has_no_rate(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    census = importlib.import_module("zoo_models")
    monkeypatch.setattr(sys, "argv", ["zoo_models.py"])
    monkeypatch.setattr(logging.getLogger(), "setLevel", lambda level: None)
    monkeypatch.setattr(
        census, "base_params", lambda args: dict.fromkeys(("dataset_id", "batch_size", "embedding_dim", "max_len"))
    )
    monkeypatch.setattr(
        census, "try_model", lambda name, params, zoo_root: census.Outcome(name, "batch", reason="broken")
    )
    census.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows_per_s"] is None
