"""The learning curves of a run as a picture beside its report."""

from __future__ import annotations

import logging
from pathlib import Path

from fuxictr_multimodal.system.files import kept_if_possible, replace_atomically
from fuxictr_multimodal.text.escape import label
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import RunFiles


def draw_curves(report: Report, path: Path) -> Path | None:
    """Draw training loss and the validation metrics of a report by evaluation, and write a PNG.

    Args:
        report: its `curve` has a row an evaluation.
        path: the PNG, replaced atomically.

    Returns:
        `path`, or None where the report has no evaluation yet.
    """
    rows = report.curve
    if not rows:
        return None
    # Not pyplot: it keeps global state and may look for a screen.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    once_an_epoch = epochs == list(range(1, len(rows) + 1))
    x = epochs if once_an_epoch else [row["step"] for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    best = [i for i, row in enumerate(rows) if row["best"]][-1:]
    figure = Figure(figsize=(4.2 * (1 + len(names)), 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    title = f"{report.expid} on {report.dataset_id}, seed {report.seed}: {report.status}"
    figure.suptitle(label(title), fontsize=11)
    curves = [("training loss", [row["train_loss"] for row in rows])]
    curves += [(f"valid {name}", [row["metrics"].get(name, float("nan")) for row in rows]) for name in names]
    for axes, (title, values) in zip(panels, curves, strict=True):
        axes.plot(x, values, color="#0b63c5", marker="o", markersize=3.5, linewidth=1.6)
        for i in best:
            axes.plot(x[i], values[i], "o", color="#c4500a", markersize=7, label=f"kept: {values[i]:.4f}")
            axes.legend(frameon=False, fontsize=9)
        axes.set_title(label(title), fontsize=10)
        axes.set_xlabel("epoch" if once_an_epoch else "step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.grid(color="#e4e8ee")
        axes.spines[["top", "right"]].set_visible(False)
    with replace_atomically(path) as temporary:
        # Without the library's version in it: the same report gives the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def draw_curves_beside(report: Report, report_path: Path) -> Path | None:
    """Draw `<run>.curve.png` beside `<run>.report.json`; a picture that fails is logged and never fails the run."""
    path = RunFiles.of_report(report_path).curve
    try:
        with kept_if_possible(path):
            return draw_curves(report, path)
    except Exception:
        logging.exception("The learning curves were not drawn to %s; the run is not affected", path)
    return None
