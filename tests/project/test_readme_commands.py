"""Every command of the README's table and of docs/commands.md runs, in their order, in one folder, as a user types it.

What is typed is what the README says. Only what takes long or is not available here is made smaller or replaced: the
tables below say all of it, with the reason. A row or a command that they do not know fails.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from tests.data.recipes.test_movielens import ml_latest, tail, write
from tests.helpers.challenge_files import histories, write_challenge
from tests.helpers.planted_languages import write_planted
from tests.helpers.typed_command import ROOT, type_command

pytestmark = pytest.mark.slow

# What the README leaves open.
PLACEHOLDERS = {
    "<folder or zip>": "made_up/movielens",
    "<data>": "made_up/texts",
    "~/FuxiCTR": "made_up/FuxiCTR",
    "--expid ...": "--expid Own_demo",
}
# What is typed otherwise than the README says: pattern, what takes its place, why.
CHANGED = [
    (r"--gpu( -?\d+){2,}", "--gpu -1 -1", "there is no GPU"),
    (r"--gpu \d+", "--gpu -1", "there is no GPU"),
    (
        r"((?:run_comparison\.py|fxmm compare) .*)--gpu -1 -1",
        r"\1--gpu -1",
        "one run needs one slot",
    ),
    (r"--trials \d+", "--trials 1", "a trial is a process of seconds"),
    (r"--hours \d+", "--hours 0.2 --models MeanMLP --trials 1 --seeds 1", "a comparison takes what time it is given"),
    (r"--seeds (1,2,3|1-3)", "--seeds 1,2", "a seed is a process of seconds"),
    (
        r"(microlens_1m\.py .*--download)",
        r"\1 --mirror {server} --any-size",
        "the made-up files are few and served here",
    ),
    (r"(-m pytest\b.*)", r"\1 test_made_up.py", "these are the tests: one that is made up stands for them"),
]
# Options of a row that are typed in the place of others, not with them.
INSTEAD = {
    "--sparsity": ["--row"],
    "--blocks": ["--row"],
    "--scales": ["--row"],
}
# What must be there before a command, as the README or the Makefile say beside it.
BEFORE = {"make protocol": ["python datasets/movielens.py --raw made_up/ml-latest-small"]}

# The configuration of the folder, made small.
SMALL_RUN = {"epochs": 1, "early_stop_patience": 1, "embedding_dim": 4, "num_layers": 1}
SMALL_DATA = {"rows": 3000, "valid_rows": 600, "test_rows": 600, "items": 200}
SMALL_COMPARISONS = {
    "demo": {"expids": "QIN_demo, DIN_demo", "seeds": "1"},
    "MovieLens": {"expids": "QIN_MovieLens", "seeds": "1", "tuning": None, "baseline": None},
    "MicroLens_50k": {"expids": "QIN_best_MicroLens_50k", "seeds": "1", "tuning": None, "baseline": None},
    **{
        name: {"expids": "QIN_best_MicroLens_50k_vectors", "seeds": "1", "tuning": None, "baseline": None}
        for name in ("MicroLens_50k_vectors", "ablations_MicroLens_50k_vectors")
    },
    "ablations_MovieLens": {"expids": "QIN_best_MovieLens", "seeds": "1", "tuning": None, "baseline": None},
    "protocol_MovieLens": {"expids": "QIN_best_MovieLens", "seeds": "1", "tuning": None, "baseline": None},
    "protocol_MovieLens_small": {"expids": "QIN_MovieLens_small", "seeds": "1", "tuning": None, "baseline": None},
    "protocol_Synthetic_100k": {"expids": "QIN_Synthetic_100k", "seeds": "1", "tuning": None, "baseline": None},
}
OWN_MODEL = """
from fuxictr.pytorch.layers import LogisticRegression
from fuxictr.pytorch.models import BaseModel


class Own(BaseModel):
    def __init__(self, feature_map, model_id="Own", gpu=-1, learning_rate=1e-3, embedding_dim=4, **kwargs):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.lr = LogisticRegression(feature_map)
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        return {"y_pred": self.output_activation(self.lr(self.get_inputs(inputs)))}
"""
SMALL_STAGE = {"steps": 2, "batch_tokens": 512, "max_length": 32, "batch_size": 16}


def table_rows() -> list[tuple[str, str]]:
    """The rows of the README's table "What you type", then those of docs/commands.md: what to do, and what to type."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition("## What you type")[2], flags=re.MULTILINE)[0]
    rows = []
    for page in (section, (ROOT / "docs/commands.md").read_text(encoding="utf-8")):
        lines = [line for line in page.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert all(len(row) == 2 for row in cells), cells
        rows += cells[2:]
    return [(to, typed) for to, typed in rows]


def commands() -> list[tuple[str, list[str]]]:
    """What each row has one type: its code spans that are commands, and those that are options of the one before."""
    found, last = [], ""
    for to, typed in table_rows():
        lines = []
        for span in re.findall(r"`([^`]+)`", typed):
            if span.startswith(("python ", "fxmm ", "make ")):
                last = span
                lines.append(span)
            elif span.startswith("--"):
                lines.append(with_options(last, span))
            elif (ROOT / "config/tuner" / span).is_file():
                lines.append(with_options(lines.pop(), f"--config config/tuner/{span}"))
        found.append((to, lines))
    return found


def with_options(command: str, options: str) -> str:
    """The command with further options; one that is there already gets the new value.

    >>> with_options("python a.py --gpu 0 1 --out b", "--gpu -1")
    'python a.py --out b --gpu -1'
    """
    replaced = [word for word in options.split() if word.startswith("--")]
    for name in [*replaced, *INSTEAD.get(options, [])]:
        if name != "--set":
            command = re.sub(rf" {name}(?= |$)( (?!--)\S+)*", "", command)
    return f"{command} {options}"


def recipe(target: str) -> list[str]:
    """What make runs for a target; the environment that `install` makes is the one that the tests run in."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(\w+) [?:]?= (.*)$", makefile, flags=re.MULTILINE))
    body = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert body, f"the Makefile has no recipe of {target}"
    lines = [line.strip().removeprefix("@") for line in body[1].splitlines()]
    for _ in range(2):  # a variable may hold another
        lines = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], line) for line in lines if line[0] != "#"]
    return [re.sub(r"\S*/(python|fxmm) ", r"\1 ", line) for line in lines]


def change(path: Path, key: str, function: Any) -> None:
    """Write a YAML file again with every entry that has a key changed."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for entry in content.values():
        if isinstance(entry, dict) and key in entry:
            function(entry)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def write_config(folder: Path) -> None:
    """The repository's configuration, made small."""
    shutil.copytree(ROOT / "config", folder, ignore=shutil.ignore_patterns("*_tuner", "*_search"))
    for path in folder.glob("model_config/*.yaml"):
        change(path, "model", lambda entry: entry.update({k: v for k, v in SMALL_RUN.items() if k in entry}))
    for path in folder.glob("dataset_config/*.yaml"):
        change(path, "synthetic", lambda entry: entry["synthetic"].update(SMALL_DATA))
    for path in folder.glob("comparison/*.yaml"):
        assert path.stem in SMALL_COMPARISONS, f"{path} is new: say in SMALL_COMPARISONS how it is made small"
        content = {**yaml.safe_load(path.read_text(encoding="utf-8")), **SMALL_COMPARISONS[path.stem]}
        content = {key: value for key, value in content.items() if value is not None}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    for path in folder.glob("tuner/*_tuner.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kept = {
            key: values[:1] if isinstance(values, list) else values for key, values in content["tuner_space"].items()
        }
        path.write_text(yaml.safe_dump({**content, "tuner_space": kept}), encoding="utf-8")
    for path in folder.glob("embedding/*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in content.values():
            entry.update({key: value for key, value in (("preset", "nano"), ("precision", "float32")) if key in entry})
            if entry.get("tokenizer"):
                entry["tokenizer"]["vocabulary_size"] = 400
            for stage in filter(None, (entry.get(name) for name in ("mlm", "pairs", "multitask"))):
                for settings in (stage, *(stage.get("tasks") or {}).values()):
                    settings.update({key: value for key, value in SMALL_STAGE.items() if key in settings})
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    own = {"model": "Own", "dataset_id": "Synthetic_demo", "epochs": 1, "batch_size": 512, "learning_rate": 1.0e-3}
    own |= {"embedding_dim": 4, "embedding_regularizer": 0, "net_regularizer": 0}
    (folder / "model_config/own.yaml").write_text(yaml.safe_dump({"Own_demo": own}), encoding="utf-8")


def write_made_up(folder: Path) -> None:
    """Data in the layouts of the public ones, and a clone of FuxiCTR with a model of one's own."""
    write(folder / "movielens", tail())
    write(folder / "ml-latest-small", ml_latest())
    write_challenge(folder / "challenge")
    planted = write_planted(folder / "planted", rows=200, test_rows=60)
    texts = folder / "texts"
    for name in ("multi30k", "stsb_multi_mt", "tatoeba", "bible_en_es"):
        (texts / name).mkdir(parents=True)
    for language, side in (("en", "left"), ("de", "right"), ("es", "right")):
        for part in ("train", "test"):
            lines = (planted / f"{part}.{side}.txt").read_bytes()
            (texts / f"multi30k/{part}.{language}.gz").write_bytes(gzip.compress(lines))
    for language in ("en", "de", "es"):
        for part, name in (("train", "scored.csv"), ("dev", "test.csv"), ("test", "test.csv")):
            shutil.copy(planted / name, texts / f"stsb_multi_mt/stsb-{language}-{part}.csv")
    for pair in ("deu", "spa"):
        shutil.copy(planted / "test.left.txt", texts / f"tatoeba/tatoeba.{pair}-eng.eng")
        shutil.copy(planted / "test.right.txt", texts / f"tatoeba/tatoeba.{pair}-eng.{pair}")
    model = folder / "FuxiCTR/model_zoo/Own/src/Own.py"
    model.parent.mkdir(parents=True)
    model.write_text(OWN_MODEL, encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The repository's commands and configuration in their own folder, with data made up."""
    home = tmp_path_factory.mktemp("readme")
    for path in ROOT.glob("run_*.py"):
        shutil.copy(path, home)
    shutil.copytree(ROOT / "datasets", home / "datasets", ignore=shutil.ignore_patterns("__pycache__"))
    write_config(home / "config")
    write_made_up(home / "made_up")
    (home / "test_made_up.py").write_text("def test_nothing():\n    assert True\n", encoding="utf-8")
    (home / "ml-latest-small").symlink_to(home / "made_up/ml-latest-small")
    rng = np.random.default_rng(0)
    rows = {"likes_level": rng.integers(0, 11, 20), "views_level": rng.integers(0, 11, 20)}
    rows |= {"item_id": rng.integers(1, 200, 20), "item_seq": histories(rng, 20, 200)}
    pl.DataFrame(rows).write_parquet(home / "new.parquet")
    return home


@pytest.fixture(scope="module")
def server(folder) -> Iterator[str]:
    """The address of the made-up files of the challenge."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder / "made_up/challenge"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/"
        found.shutdown()
        thread.join()


def typed(line: str, server: str) -> list[str]:
    """What is typed for a line of the README or of a recipe: the commands that it stands for."""
    if line.startswith("make "):
        return [word for made in recipe(line.split()[1]) for word in typed(made, server)]
    for placeholder, there in PLACEHOLDERS.items():
        line = line.replace(placeholder, there)
    for pattern, instead, _ in CHANGED:
        line = re.sub(pattern, instead.replace("{server}", server), line)
    assert not re.search(r"<[\w ]+>|~|\.\.\.", line), f"{line!r} leaves something open: say it in PLACEHOLDERS"
    return [line]


def run(line: str, folder: Path) -> None:
    """Type one command; its status must be 0."""
    words = shlex.split(line)
    environment = {"OMP_NUM_THREADS": "1"}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if words[0] == "fxmm":
        words[:1] = ["python", str(ROOT / "fuxictr_multimodal/cli/main.py")]
    assert words.pop(0) == "python", f"{line!r} is no command that this test knows"
    if words[0] == "-m":
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
        status, out, errors = done.returncode, done.stdout, done.stderr
    else:
        done = type_command(words, folder=folder, environment=environment)
        status, out, errors = done.status, done.out, done.errors
    assert status == 0, f"{line}\nended with status {status}\n{out[-2000:]}\n{errors[-3000:]}"
    assert "Traceback" not in errors, f"{line}\n{errors[-3000:]}"


@pytest.mark.parametrize(("to", "lines"), commands(), ids=[to for to, _ in table_rows()])
def test_row(folder, server, to, lines):
    assert lines, f"the row {to!r} has no command"
    for line in lines:
        for command in [*BEFORE.get(line, []), *typed(line, server)]:
            run(command, folder)


def test_the_table_is_found():
    rows = commands()
    assert len(rows) >= 16
    assert any("make demo" in lines for _, lines in rows)


def test_options_take_the_place_of_others():
    assert with_options("python a.py --gpu 0 1 --out b", "--gpu -1") == "python a.py --out b --gpu -1"
    assert with_options("python run_explain.py --row 0", "--blocks") == "python run_explain.py --blocks"
    assert with_options("python a.py --set a=1", "--set b=2") == "python a.py --set a=1 --set b=2"


def test_recipes_are_those_of_the_makefile():
    assert recipe("demo") == ["fxmm run --expid QIN_demo --gpu -1"]
    assert len(recipe("leaderboard")) == 3
