"""The model card of an export: what was trained on what, how it scores, and what the export costs."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import yaml

from fuxictr_multimodal.training.environment import versions
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report

LICENCE_UNKNOWN = "unspecified; set one before you share it"
WRITERS = {"onnx": ("onnx", "onnxscript", "onnxruntime", "safetensors"), "torch": ("safetensors",)}
# Settings that say where and how a run was executed, not what the model is.
OF_THE_MACHINE = ("data_root", "model_root", "gpu", "verbose", "model_id", "cpu_threads", "tracker", "zoo_root")
INTENDED = (
    "The model ranks items for a user by the estimated probability of a click, from the user's history and the items' "
    "features. Its scores hold for users and items like those of its dataset; it knows nothing of what it was not "
    "trained on, and it is no basis for decisions about people."
)
REQUEST = (
    "An example with every key that the model reads, as in `request.json`. It is also a body of `POST /score` and, "
    "where the model has items, of `POST /rank`. Its values are made up; a history has its newest item last, and lists "
    "of `events` are as long as their history."
)


def versions_of(engine: str) -> dict[str, str]:
    """Versions of what made the folder; a compiled graph also depends on the machine's processor."""
    found = versions() | {name: metadata.version(name) for name in WRITERS[engine]}
    return found | ({"machine": platform.machine()} if engine == "torch" else {})


def card(experiment: Experiment, model: Mapping[str, Any], *, licence: str, request: str) -> str:
    """The card as Markdown, with the front matter of a model hub.

    Args:
        experiment: that was trained.
        model: content of `model.json`, its checks included.
        licence: of the model.
        request: an example, as JSON.
    """
    files = experiment.files
    report = Report.read(files.report) if files.report.is_file() else None
    head = {
        "license": licence,
        "library_name": "fuxictr-multimodal",
        "pipeline_tag": "tabular-classification",
        "tags": ["click-through-rate", "recommendation", model["model"], model["engine"]],
        "datasets": [model["dataset"]],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n",
        f"# {model['name']}\n",
        f"{model['model']} on {model['dataset']}, exported {_how(model)}.\n\n{INTENDED}\n",
        _section("Metrics", _metrics(report)),
        _section("Data", _data(experiment)),
        _section("Checks of this export", _checks(model)),
        _section("Settings", _settings(experiment)),
        _section("Versions", _table(("package", "version"), model["versions"].items())),
        _section(
            "Use",
            "`python client.py` ranks the request below; it needs numpy, safetensors and "
            f"{'onnxruntime' if model['engine'] == 'onnx' else 'torch'}. `fxmm serve --model .` answers over HTTP.\n",
        ),
        _section("Request", f"{REQUEST}\n\n```json\n{request}```\n"),
    ]
    return "\n".join(parts)


def _how(model: Mapping[str, Any]) -> str:
    engine = {"onnx": "to ONNX", "torch": "as a package of torch (AOTInductor)"}[model["engine"]]
    form = "with its parts multiplied out" if model["folded"] else "as it was trained"
    quantised = f", its dense products in {model['quantised']}" if model["quantised"] else ""
    calibrated = f"; scores are calibrated ({model['calibration']['method']})" if model["calibration"] else ""
    return f"{engine} {form}{quantised}{calibrated}"


def _metrics(report: Report | None) -> str:
    if report is None:
        return "The report of the run is not there.\n"
    splits = report.metrics
    names = list(dict.fromkeys(name for values in splits.values() for name in values))
    rows = [(split, *(_number(values.get(name)) for name in names)) for split, values in splits.items()]
    return _table(("split", *names), rows) + f"\nSeed {report.seed}, best epoch {report.best_epoch}.\n"


def _data(experiment: Experiment) -> str:
    manifest = experiment.store.manifest
    rows = [
        (name, *("-" if count is None else f"{count:,}" for count in (split.rows, split.positives, split.users)))
        for name, split in manifest.splits.items()
    ]
    items = f"{manifest.items - 1:,} items, histories of at most {manifest.max_len}. " if manifest.item_col else ""
    return _table(("split", "samples", "positive", "users"), rows) + f"\n{items}Split: {manifest.split_method}.\n"


def _checks(model: Mapping[str, Any]) -> str:
    checks = model["checks"]
    rows = [
        ("samples of valid", f"{checks['samples']:,}"),
        ("largest difference of two scores", f"{checks['largest_difference']:.2e}"),
        ("mean difference", f"{checks['mean_difference']:.2e}"),
        ("AUC of the trained model", _number(checks["auc_trained"], 6)),
        ("AUC of the export", _number(checks["auc_exported"], 6)),
    ]
    if checks["auc_difference"] is not None:
        rows.append(("change of the AUC", f"{checks['auc_difference']:+.1e}"))
    if checks["quantised_products"]:
        rows.append(("dense products in 8 bits", str(checks["quantised_products"])))
    for name, stored in checks["storage"].items():
        error = f", relative error {stored['relative_error']:.1e}" if stored["relative_error"] else ""
        rows.append((f"items: {name}", f"{stored['storage']}{error}"))
    return _table(("exported against trained", ""), rows)


def _settings(experiment: Experiment) -> str:
    own = {key: value for key, value in experiment.params.items() if key not in OF_THE_MACHINE and _short(value)}
    return _table(("setting", "value"), [(key, f"`{value}`") for key, value in sorted(own.items())])


def _short(value: Any) -> bool:
    """Columns and paths of data are the dataset's, not the model's settings."""
    return not isinstance(value, dict) and len(str(value)) <= 80 and "/" not in str(value)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)
