"""Python text under every key that FuxiCTR evaluates or looks up, by every route on which settings come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.settings import MODEL, RUN
from tests.torture.hostile.worlds import DATA, EXPID, edit_json, edit_yaml, sealed
from tests.torture.hostile.worlds import RUN as FILES

# Key to the value that carries the payload.
VALUES: dict[str, Callable[[str], Any]] = {
    "loss": lambda code: f"__name__ if {code} is None else 0",
    "task": lambda code: code,
    "optimizer": lambda code: code,
    "metrics": lambda code: ["AUC", f"NDCG(k={code})"],
    "monitor": lambda code: {code: 1},
    "embedding_initializer": lambda code: f"partial(nn.init.normal_, std={code})",
    "dnn_activations": lambda code: ["ReLU", code],
    "embedding_regularizer": lambda code: f"l2({code})",
    "feature_specs": lambda code: [{"name": "brand", "feature_encoder": code}],
    "feature_cols": lambda code: [{"name": "brand", "active": True, "type": "categorical", "dtype": code}],
}
REPORT = Path(f"{FILES}.report.json")


def _yaml(key: str) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        file, entry = (MODEL.with_name("dataset_config.yaml"), "Shop") if key == "feature_cols" else (MODEL, EXPID)
        edit_yaml(file, lambda found: found[entry].update({key: VALUES[key](place.code)}))
        return RUN

    return write


def _set(key: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [*RUN, "--set", f"{key}={json.dumps(VALUES[key](place.code))}"]


def _report(key: str, *arguments: str) -> Callable[[Place], Sequence[str]]:
    """The report of a run from elsewhere, whose own settings are used."""

    def write(place: Place) -> Sequence[str]:
        for file in FILES.parent.glob(f"{EXPID}.*"):
            shutil.copy(file, file.with_name(file.name.replace(EXPID, "theirs", 1)))
        report = REPORT.with_name("theirs.report.json")

        def change(found: Any) -> None:
            found.update(expid="theirs", run="theirs", status="interrupted")
            found["config"][key] = VALUES[key](place.code)

        edit_json(report, change)
        return [*arguments, "--config", "config", "--expid", EXPID, "--name", "theirs"]

    return write


def _tuner(key: str) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        space = {"seed": [1, 2], key: [VALUES[key](place.code)]}
        content = {"base_config": "config", "base_expid": EXPID, "tuner_space": space}
        Path("tuner.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return ["tune", "--config", "tuner.yaml", "--search", "random", "--trials", "1"]

    return write


def _compared(key: str) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        edit_yaml(MODEL, lambda found: found[EXPID].update({key: VALUES[key](place.code)}))
        content = {"expids": EXPID, "dataset_id": "Shop", "seeds": "1", "out": "./board"}
        Path("comparison.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return ["compare", "--config", "comparison.yaml"]

    return write


def _feature_map(key: str, value: Callable[[str], Any]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        def change(found: Any) -> None:
            (spec,) = [entry["brand"] for entry in found["features"] if "brand" in entry]
            spec[key] = value(place.code)

        edit_json(DATA / "feature_map.json", change)
        sealed()
        return RUN

    return write


def _manifest(key: str, value: Callable[[str], Any]) -> Callable[[Place], Sequence[str]]:
    """Columns in the manifest reach FuxiCTR's processor when raw rows are scored."""

    def write(place: Place) -> Sequence[str]:
        def change(found: Any) -> None:
            (column,) = [column for column in found["feature_cols"] if column["name"] == "device"]
            column[key] = value(place.code)

        edit_json(DATA / "manifest.json", change)
        sealed()
        return ["predict", "--config", "config", "--expid", EXPID, "--data", "raw/test.parquet", "--history-column",
                "click_history", "--out", "scores.csv"]  # fmt: skip

    return write


def _label(place: Place) -> Sequence[str]:
    edit_json(DATA / "manifest.json", lambda found: found["label_col"].update(dtype=place.code))
    sealed()
    return _manifest("type", lambda code: "categorical")(place)


CODE: Callable[[str], Any] = lambda code: code  # noqa: E731
CASES: list[Case] = with_name(
    "evaluated",
    [
        *(Case(f"{key} in YAML", _yaml(key), key.split("_")[0]) for key in VALUES),
        *(Case(f"{key} in --set", _set(key), key) for key in VALUES),
        *(
            Case(f"{key} in the report of a run that is resumed", _report(key, "run", "--resume"), key)
            for key in VALUES
        ),
        *(
            Case(f"{key} in the report of a run that is scored", _report(key, "predict", "--out", "x.csv"), key)
            for key in VALUES
        ),
        *(
            Case(f"{key} in the report of a run that is exported", _report(key, "export"), key)
            for key in ("loss", "metrics")
        ),
        *(
            Case(f"{key} in a tuner file", _tuner(key), key)
            for key in ("loss", "optimizer", "embedding_initializer", "dnn_activations")
        ),
        *(Case(f"{key} in an experiment that is compared", _compared(key), key) for key in ("loss", "metrics")),
        *(
            Case(f"{key} in a feature map", _feature_map(key, CODE), key)
            for key in ("feature_encoder", "dtype", "normalizer", "preprocess", "pretrained_emb", "type")
        ),
        *(
            Case(f"{key} in a manifest", _manifest(key, CODE), key)
            for key in ("feature_encoder", "dtype", "preprocess", "type", "category_processor")
        ),
        Case(
            "a method of the processor in a manifest", _manifest("preprocess", lambda code: "load_pickle"), "preprocess"
        ),
        Case("dtype of the label in a manifest", _label, "label_col"),
    ],
)
