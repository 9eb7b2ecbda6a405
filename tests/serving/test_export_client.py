"""The example of an exported folder runs where neither FuxiCTR nor Ray nor this package can be imported."""

import json
import os
import shutil
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

import fuxictr_multimodal as fxmm
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving import export as exporting
from fuxictr_multimodal.serving.client import CLIENT

BLOCKER = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fuxictr", "fuxictr_multimodal", "model_zoo", "ray", "torch", "onnx", "polars"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/client.py", run_name="__main__")
"""


def run_client(out):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKER, out], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("model", ["qin", "din"])
def test_the_client_ranks_with_numpy_and_an_engine_alone(model, request, tmp_path):
    # Somebody else's machine has the folder under another name.
    out = shutil.copytree(request.getfixturevalue(f"{model}_export").out, tmp_path / "elsewhere")
    done = run_client(out)
    assert (done.returncode, done.stderr) == (0, "")
    *ranked, last = done.stdout.splitlines()
    assert len(ranked) == 10
    scores = [float(line.split()[0]) for line in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert all(line.split()[1].startswith("sku-") for line in ranked)
    assert last.startswith(f"{model.upper()}_shop: first score after ")
    assert float(last.split()[-2]) < 30


def test_the_client_is_short():
    assert len(CLIENT.splitlines()) <= 50
    compile(CLIENT, "client.py", "exec")


def test_the_request_of_a_log_of_dates_has_dates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), 600
    log = pl.DataFrame(
        {
            "user": rng.choice([f"u{n}" for n in range(20)], rows),
            "item_id": rng.choice([f"i{n}" for n in range(30)], rows),
            "day": [date(2024, 1, 1) + timedelta(days=int(n)) for n in np.sort(rng.integers(0, 90, rows))],
            "kind": rng.choice(["view", "buy"], rows),
            "label": rng.integers(0, 2, rows),
            "city": rng.choice(["rome", "oslo"], rows),
            "page": rng.choice(["home", "cart"], rows),
        }
    )
    columns = [
        {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
        # The client's name of the column is not that of the model.
        {"name": "place", "active": True, "dtype": "str", "type": "categorical", "preprocess": "copy_from(city)"},
    ]
    entry = {
        "dataset_id": "Dates", "max_len": 5, "history": "all", "feature_cols": columns,
        "label_col": {"name": "label", "dtype": "float"},
        "event_cols": [{"name": "age", "bins": 4}, {"name": "weekday"}, {"name": "page", "target": "page"}],
        "interactions": {
            "file": "log", "user": "user", "item": "item_id", "time": "day", "label": "label", "behaviour": "kind",
            "behaviours": ["view", "buy"],
        },
    }  # fmt: skip
    store = fxmm.build_dataset(entry, frames={"interactions": log})
    model = {"model": "QIN", "dataset": store, "epochs": 1, "verbose": 0, "embedding_dim": 4, "event_features": "all"}
    out = fxmm.export(fxmm.train(model), tmp_path / "model")
    request = json.loads((out / "request.json").read_text())
    assert request["context"].keys() == {"city", "page"}
    assert (request["context"]["city"] in {"rome", "oslo"}, request["time"]) == (True, "2026-01-31")
    names = ["history", *request["behaviours"]]
    assert set(request["events"]) == set(names)
    for name in names:
        events = request["events"][name]
        assert events.keys() == {"time", "page"}
        assert events["time"] == ["2026-01-28", "2026-01-29", "2026-01-30"]
    card = (out / "card.md").read_text()
    shown = card.split("## Request\n")[1].split("```json\n")[1].split("```")[0]
    assert json.loads(shown) == request
    done = run_client(out)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 11


def test_an_example_that_does_not_fit_the_model_is_a_fault_of_the_export(qin_shop, tmp_path, monkeypatch):
    real = exporting.example_request
    monkeypatch.setattr(exporting, "example_request", lambda *given: real(*given) | {"time": None})
    with pytest.raises(InputError, match=r"request\.json, .* does not fit the model: the request needs its `time`"):
        exporting.export(config_dir=qin_shop.config, expid=qin_shop.expid, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
