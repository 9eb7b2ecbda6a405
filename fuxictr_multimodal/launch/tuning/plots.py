"""Slice plots: the validation value of every trial against each tuned parameter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.launch.tuning.board import short
from fuxictr_multimodal.launch.tuning.outcome import Record, best_record
from fuxictr_multimodal.launch.tuning.settings import Axis, Range
from fuxictr_multimodal.text.escape import label

COLUMNS = 3


def slice_plots(path: Path, records: Sequence[Record], axes: dict[str, Axis], *, title: str, value: str) -> list[Path]:
    """Draw `<path>.png` and `<path>.svg`, a panel a parameter; the best trial is marked.

    Returns:
        The files; none without completed trials, varied parameters or Matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return []
    done = [record for record in records if record.status == "completed"]
    varied = {key: axis for key, axis in axes.items() if isinstance(axis, Range) or len(axis) > 1}
    if not done or not varied:
        return []
    columns = min(COLUMNS, len(varied))
    rows = -(-len(varied) // columns)
    # The object interface draws without a display and without pyplot's global state.
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    best = best_record(list(records))
    for position, (key, axis) in enumerate(varied.items(), start=1):
        panel = figure.add_subplot(rows, columns, position)
        if isinstance(axis, Range):
            places = [record.trial.settings[key] for record in done]
            if axis.log:
                panel.set_xscale("log")
        else:
            order = {json.dumps(choice): index for index, choice in enumerate(axis)}
            places = [order[json.dumps(record.trial.settings[key])] for record in done]
            panel.set_xticks(range(len(axis)), [label(short(choice)) for choice in axis])
            panel.set_xlim(-0.5, len(axis) - 0.5)
        panel.scatter(places, [record.value for record in done], s=18, alpha=0.7)
        index = done.index(best)
        panel.scatter([places[index]], [best.value], s=90, facecolors="none", edgecolors="red", label="best")
        panel.set_xlabel(label(key))
        panel.set_ylabel(label(value))
    figure.suptitle(label(title))
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files
