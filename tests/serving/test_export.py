"""A trained run to a folder: what lies there, that it scores as the run does, and what is refused leaves nothing."""

import filecmp
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import fuxictr_multimodal as fxmm
from fuxictr_multimodal.cli.export import LICENCE, export_main
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.serving import export as exporting
from fuxictr_multimodal.serving.card import LICENCE_UNKNOWN
from fuxictr_multimodal.serving.export import AUC_LIMIT, Options, export
from fuxictr_multimodal.serving.runtime import Ranker, Request
from tests.helpers import trained_shop
from tests.helpers.graphs_once import write_graph_once

CONTRACT = {
    "model.onnx", "item_model.onnx", "items.safetensors", "vocabulary.json", "model.json", "card.md", "client.py",
    "request.json", "runtime",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _graphs_once():
    """The exports of a run differ in all but their graphs; how these are written, test_export_graphs.py tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "write_graph", write_graph_once)
        yield


@pytest.fixture(scope="module")
def wide_shop(tmp_path_factory):
    """A run whose products are large enough for 8 bits."""
    return trained_shop.train(tmp_path_factory.mktemp("wide_shop"), embedding_dim=16)


@pytest.fixture(scope="module")
def exported(wide_shop, tmp_path_factory):
    """Its export, and the lines that were said on the way."""
    said = []
    out = tmp_path_factory.mktemp("exported") / "model"
    return export(config_dir=wide_shop.config, expid=wide_shop.expid, out=out, say=said.append), said


def write(shop, out, **options):
    overwrite = options.pop("overwrite", False)
    return export(config_dir=shop.config, expid=shop.expid, out=out, options=Options(**options), overwrite=overwrite)


def predicted(shop, folder, **options):
    """Scores of the shop's request by `fxmm predict`, the candidates in their order."""
    asked = trained_shop.REQUEST
    rows = len(asked["candidates"])
    columns = {name: [value] * rows for name, value in asked["context"].items()}
    columns |= {"item_id": asked["candidates"], "timestamp": [asked["time"]] * rows}
    columns |= {"history": [asked["history"]] * rows, "history_time": [asked["events"]["history"]["time"]] * rows}
    pl.DataFrame(columns).write_parquet(folder / "new.parquet")
    scored = predict(
        config_dir=shop.config, expid=shop.expid, data=folder / "new.parquet", out=folder / "x.parquet", **options
    )
    return pl.read_parquet(scored.out)["score"].to_numpy()


def left(folder: Path) -> list[str]:
    """What an export left beside the folder, but for the lock file."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_the_folder_is_the_contract(exported):
    found, said = exported
    assert {path.name for path in found.out.iterdir()} == CONTRACT
    assert left(found.out.parent) == ["model"]
    ours = Path(exporting.__file__).parent / "runtime"
    names = sorted(path.name for path in ours.glob("*.py"))
    assert sorted(path.name for path in (found.out / "runtime").iterdir()) == names
    assert filecmp.cmpfiles(ours, found.out / "runtime", names, shallow=False) == (names, [], [])
    assert any("writing model.onnx" in line for line in said)
    assert all("\n" not in line for line in said)


def test_model_json_says_what_the_graph_reads(exported):
    model = json.loads((exported[0].out / "model.json").read_text())
    assert {key: model[key] for key in ("format", "name", "model", "dataset", "engine", "task")} == {
        "format": 1, "name": "QIN_shop", "model": "QIN", "dataset": "Shop", "engine": "onnx",
        "task": "binary_classification",
    }  # fmt: skip
    assert (model["behaviours"], model["max_len"], model["fixed_slots"]) == (["history"], trained_shop.MAX_LEN, None)
    assert (model["folded"], model["quantised"], model["calibration"]) == (True, None, None)
    assert model["arrays"] == {"vector": {"storage": "float32"}}
    names = [given["name"] for given in model["inputs"]]
    assert {"context.device", "behaviours.history.events.hour", "candidates.vector"} <= set(names)
    assert {given["name"] for given in model["item_inputs"]} >= {"categories", "vector"}
    assert model["files"] == {
        name: hashlib.sha256((exported[0].out / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "item_model.onnx", "items.safetensors", "vocabulary.json")
    }
    assert {"fuxictr_multimodal", "torch", "onnxruntime"} <= model["versions"].keys()


def test_it_is_compared_with_the_trained_model(exported):
    found = exported[0]
    checks = json.loads((found.out / "model.json").read_text())["checks"]
    assert checks["samples"] == found.checks.samples > 100
    assert 0 < checks["largest_difference"] == found.checks.largest_difference < 5e-6
    assert abs(checks["auc_difference"]) < 1e-6
    assert 0.5 < checks["auc_trained"] < 1
    assert checks["quantised_products"] == 0
    assert f"{found.checks.samples:,} valid samples" in str(found.checks)


def test_requests_score_as_predict_does(exported, wide_shop, tmp_path):
    scores = Ranker(exported[0].out).score(Request(**trained_shop.REQUEST)).scores
    expected = predicted(wide_shop, tmp_path)
    assert np.ptp(expected) > 1e-3
    assert np.abs(scores - expected).max() < 1e-6


def test_the_card_has_what_a_reader_asks(exported, wide_shop):
    text = (exported[0].out / "card.md").read_text()
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert (head["license"], head["datasets"]) == (LICENCE_UNKNOWN, ["Shop"])
    report = fxmm.load_report(next(wide_shop.config.parent.rglob("checkpoints/Shop/*.report.json")))
    assert f"| test | {report.metrics['test']['AUC']:.4f} |" in body
    for part in ("## Metrics", "## Data", "## Checks of this export", "## Settings", "## Versions", "120 items"):
        assert part in body
    assert f"{exported[0].checks.largest_difference:.2e}" in body
    # A card is shared: it has no path of this machine.
    assert str(exported[0].out.parent.parent) not in text
    assert LICENCE_UNKNOWN == LICENCE


def test_a_model_of_fuxictr_is_exported_as_it_was_trained(din_shop, din_export, tmp_path):
    found = din_export
    assert {path.name for path in found.out.iterdir()} == CONTRACT - {"item_model.onnx"}
    model = json.loads((found.out / "model.json").read_text())
    assert (model["model"], model["folded"]) == ("DIN", False)
    assert {array["storage"] for array in model["arrays"].values()} == {"int32", "float32"}
    assert found.checks.largest_difference < 2e-6
    assert "exported to ONNX as it was trained" in (found.out / "card.md").read_text()
    request = {**trained_shop.REQUEST, "events": {}}
    scores = Ranker(found.out).score(Request(**request)).scores
    assert np.abs(scores - predicted(din_shop, tmp_path)).max() < 1e-6


def test_an_export_is_replaced_only_when_asked(qin_shop, qin_export, tmp_path):
    out = shutil.copytree(qin_export.out, tmp_path / "model")
    before = (out / "model.json").stat().st_ino
    with pytest.raises(DataError, match=r"model already holds an export: give --overwrite"):
        write(qin_shop, out)
    assert (out / "model.json").stat().st_ino == before
    write(qin_shop, out, overwrite=True, items="float16", auc_limit=1, licence="CC0-1.0")
    assert "license: CC0-1.0" in (out / "card.md").read_text()
    assert json.loads((out / "model.json").read_text())["arrays"] == {"vector": {"storage": "float16"}}
    assert left(tmp_path) == ["model"]
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"holds 'notes\.txt', not a file of an export: move it away first"):
            write(qin_shop, out, overwrite=overwrite)
    assert (out / "notes.txt").read_text() == "mine"
    assert left(tmp_path) == ["model"]


def test_what_is_no_export_is_not_replaced(qin_shop, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*file is a file: name a folder"):
        write(qin_shop, tmp_path / "file", overwrite=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="holds 'thesis.tex', not a file of an export"):
            write(qin_shop, tmp_path / "folder", overwrite=overwrite)
    assert (tmp_path / "folder/thesis.tex").read_text() == (tmp_path / "file").read_text() == "mine"
    assert left(tmp_path) == ["file", "folder"]


def test_eight_bits_are_measured_and_limited(wide_shop, exported, tmp_path):
    eight = {"quantise": "int8", "items": "int8"}
    with pytest.raises(
        InputError, match=r"--quantise int8 --items int8 changes the AUC on [\d,]+ valid samples from 0\.\d+"
    ):
        write(wide_shop, tmp_path / "model", **eight, auc_limit=0)
    assert list(tmp_path.iterdir()) == []
    found = write(wide_shop, tmp_path / "model", **eight, auc_limit=0.02)
    assert found.products >= 1
    assert 1e-4 < found.stored["vector"].relative_error < 2e-2
    assert 1e-6 < found.checks.largest_difference < 0.1
    model = json.loads((found.out / "model.json").read_text())
    assert (model["quantised"], model["checks"]["quantised_products"]) == ("int8", found.products)
    assert model["arrays"] == {"vector": {"storage": "int8"}}
    assert model["checks"]["storage"]["vector"]["relative_error"] == found.stored["vector"].relative_error
    assert "dense products in 8 bits" in (found.out / "card.md").read_text()
    request = Request(**trained_shop.REQUEST)
    difference = Ranker(found.out).score(request).scores - Ranker(exported[0].out).score(request).scores
    assert 0 < np.abs(difference).max() < 0.1


def test_a_graph_that_scores_otherwise_is_a_fault(qin_shop, tmp_path, monkeypatch):
    real = exporting.servable_of

    def wrong(*given):
        servable = real(*given)
        items = {name: values * 1.01 for name, values in servable.items.items()}
        return replace(servable, items=items)

    monkeypatch.setattr(exporting, "servable_of", wrong)
    with pytest.raises(InputError, match=r"the exported model is not the trained one: .* nothing was written"):
        write(qin_shop, tmp_path / "model")
    assert left(tmp_path) == []


def test_a_model_that_only_torch_scores_is_not_written_for_another_engine(qin_shop, tmp_path, monkeypatch):
    real = exporting.servable_of
    monkeypatch.setattr(exporting, "servable_of", lambda *given: replace(real(*given), only_torch="it sorts equals"))
    with pytest.raises(InputError, match=r"other scores: it sorts equals; or pass --to torch"):
        write(qin_shop, tmp_path / "model")
    assert left(tmp_path) == []


def test_scores_are_calibrated_where_asked(wide_shop, exported, tmp_path):
    found = write(wide_shop, tmp_path / "model", calibrate="platt")
    model = json.loads((found.out / "model.json").read_text())
    assert model["calibration"]["method"] == "platt"
    assert model["calibration"]["numbers"].keys() == {"slope", "intercept"}
    request = Request(**trained_shop.REQUEST)
    scores = Ranker(found.out).score(request).scores
    assert np.abs(scores - predicted(wide_shop, tmp_path, calibrate="platt")).max() < 1e-5
    assert np.abs(scores - Ranker(exported[0].out).score(request).scores).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onx"}, "--to onx: choose one of onnx, torch"),
        ({"quantise": "int4"}, "--quantise int4: Did you mean 'int8'"),
        ({"quantise": "int8", "engine": "torch"}, "--quantise int8 needs --to onnx"),
        ({"items": "float61"}, "--items float61: Did you mean 'float"),
        ({"auc_limit": -1}, "--auc-limit -1: it is a difference of two AUCs"),
        ({"auc_limit": float("nan")}, "--auc-limit nan: it is a difference"),
        ({"calibrate": "plat"}, "calibrate: 'plat' is unknown"),
    ],
)
def test_options_without_a_meaning(options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(InputError, match=message):
        export(config_dir=tmp_path, expid="x", out=tmp_path / "model", options=Options(**options))


def test_the_command_prints_the_comparison(qin_shop, tmp_path, capsys):
    config = ["--config", str(qin_shop.config), "--expid", qin_shop.expid]
    export_main([*config, "--out", str(tmp_path / "model"), "--items", "float16", "--auc-limit", "0.01"])
    printed = capsys.readouterr()
    assert "valid samples: scores differ by at most" in printed.out
    assert "items, vector: float16, relative error" in printed.out
    assert str(tmp_path / "model") in printed.out.splitlines()[-1]
    assert printed.err.startswith(f"loading the trained run of {qin_shop.expid}\n")
    with pytest.raises(SystemExit) as ended:
        export_main([*config, "--name", "never", "--out", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert left(tmp_path) == ["model"]


def test_the_function_exports_what_train_returned(qin_shop, tmp_path):
    report = fxmm.load_report(next(qin_shop.config.parent.rglob("checkpoints/Shop/*.report.json")))
    out = fxmm.export(report, tmp_path / "model")
    assert out == tmp_path / "model"
    assert len(Ranker(out).rank(Request(**trained_shop.REQUEST)).items) == 3


def test_defaults_of_the_command_are_those_of_the_options(capsys):
    with pytest.raises(SystemExit):
        export_main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"(default: {AUC_LIMIT})" in shown
    assert f"(default: {LICENCE_UNKNOWN})" in shown


def test_a_dataset_without_items_is_exported_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"city": rng.choice(["rome", "oslo"], 400), "price": rng.normal(size=400)})
    rows = rows.with_columns(click=((pl.col("city") == "rome") ^ pl.Series(rng.random(400) < 0.2)).cast(pl.Float64))
    columns = [
        {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "price", "active": True, "dtype": "float", "type": "numeric"},
    ]
    files = {"train_data": rows[:200], "valid_data": rows[200:300], "test_data": rows[300:]}
    entry = {"dataset_id": "Flat", "data_format": "parquet", "feature_cols": columns, **dict.fromkeys(files, "x")}
    store = fxmm.build_dataset(entry | {"label_col": {"name": "click", "dtype": "float"}}, frames=files)
    report = fxmm.train({"model": "QIN", "dataset": store, "epochs": 1, "verbose": 0, "embedding_dim": 8})
    out = fxmm.export(report, "model")
    assert {path.name for path in out.iterdir()} == CONTRACT - {"item_model.onnx", "items.safetensors"}
    ranker, new = Ranker(out), rows[300:310]
    found = [ranker.score(Request(context=row)).scores for row in new.drop("click").iter_rows(named=True)]
    expected = fxmm.predict(report, new)["score"].to_numpy()
    assert np.ptp(expected) > 1e-3
    assert np.abs(np.concatenate(found) - expected).max() < 1e-6
    assert "items, histories" not in (out / "card.md").read_text()
