"""Learning curves that no test looks at: their files are written, and nothing is drawn in them."""

from pathlib import Path

from fuxictr_multimodal.system.files import replace_atomically
from fuxictr_multimodal.training import curves
from fuxictr_multimodal.training.report import Report

DRAWN = curves.draw_curves


def leave_curves_empty() -> None:
    """Let the runs of this process write an empty picture: to draw it takes half of the time of a run this short.

    A picture that cannot be drawn never fails a run, so tests of runs see no less; `test_curves.py` draws.
    """
    curves.draw_curves = empty


def empty(report: Report, path: Path) -> Path | None:
    """Write an empty file as `draw_curves` writes a picture: in one step, and once there is an evaluation."""
    if not report.curve:
        return None
    with replace_atomically(path) as temporary:
        temporary.touch()
    return path
