"""Importance and pictures of the parameters of a sweep, both from Optuna."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.launch.tuning.outcome import Record, maximised
from fuxictr_multimodal.launch.tuning.space import Axis, Range
from fuxictr_multimodal.system.files import replace_atomically
from fuxictr_multimodal.text.escape import label

if TYPE_CHECKING:
    import optuna

FEWEST = 4  # completed trials, below which a fraction says nothing
STYLE: dict[Any, Any] = {"savefig.bbox": "tight", "savefig.dpi": 120, "svg.hashsalt": "tuner"}


@dataclass(frozen=True)
class Insight:
    """Importance and pictures from the completed trials of a sweep.

    Attributes:
        method: how the fractions were computed, or why there are none.
        fractions: of the variance of the validation value that each parameter explains by itself, largest first.
        pictures: files that were drawn.
    """

    method: str
    fractions: dict[str, float] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def insight(folder: Path, records: Sequence[Record], axes: Mapping[str, Axis], *, value: str) -> Insight:
    """Compute the importance of the parameters, and draw `slices`, `history`, `parallel` and `importance`.

    Args:
        folder: gets each picture as `.png` and `.svg`.
        records: of a grid or a search.
        axes: of the space; those with several values are the parameters.
        value: what the trials are compared by, in words.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        return Insight("none: for importance and pictures, pip install 'fuxictr-multimodal[tuner]'")
    from fuxictr_multimodal.launch.tuning.search import distributions

    done = [record for record in records if record.status == "completed"]
    varied = distributions(axes, category=_category)
    if not done or not varied:
        return Insight("none: no completed trials, or nothing varied among them")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if maximised(done[0].trial.params) else "minimize")
    for record in done:
        values = record.trial.settings
        params = {key: values[key] if isinstance(axes[key], Range) else _category(values[key]) for key in varied}
        study.add_trial(optuna.create_trial(params=params, distributions=varied, value=record.value))
    method, evaluator, fractions = f"none: fewer than {FEWEST} completed trials", None, {}
    if len(done) >= FEWEST:
        method = "none: all completed trials have the same value"
        if len({record.value for record in done}) > 1:
            method = "fANOVA (random forest, Optuna), completed trials"
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            fractions = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Insight(method, fractions, _draw(folder, study, evaluator, value=label(value)))


def _category(value: Any) -> Any:
    """A number has its place on an axis; anything else is a label."""
    return value if isinstance(value, int | float) else label(json.dumps(value))


def _draw(
    folder: Path,
    study: optuna.Study,
    evaluator: optuna.importance.FanovaImportanceEvaluator | None,
    *,
    value: str,
) -> list[Path]:
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    pictures = {
        "slices": lambda: drawn.plot_slice(study, target_name=value),
        "history": lambda: drawn.plot_optimization_history(study, target_name=value),
        "parallel": lambda: drawn.plot_parallel_coordinate(study, target_name=value),
    }
    if evaluator:
        pictures["importance"] = lambda: drawn.plot_param_importances(study, evaluator=evaluator, target_name=value)
    files = []
    for name, draw in pictures.items():
        with pyplot.rc_context(STYLE), warnings.catch_warnings():
            # Of Optuna's experimental drawings, and of an axis on which all trials have one value.
            warnings.simplefilter("ignore")
            draw()
            for suffix in (".png", ".svg"):
                files.append(folder / f"{name}{suffix}")
                with replace_atomically(files[-1]) as temporary:
                    pyplot.savefig(temporary, format=suffix[1:], metadata={"Date": None} if suffix == ".svg" else None)
            pyplot.close()
    return files
