"""AUC, AUC within groups and log loss of `metrics/` against FuxiCTR's own, values and speed.

Scores are quantised, so most are tied, and every tenth group has one class only. FuxiCTR submits each group to a
pool of half the cores, which takes most of this program's time. The peak is one sort of as many 64-bit integers:
rows in random order must be brought into order, and nothing else is asked of the metric.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --rows 20000 --groups 1000
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np
from _common import emit, median_seconds, seconds
from fuxictr.metrics import evaluate_metrics

from fuxictr_multimodal.metrics import classification as metrics

NAMES = ("gAUC", "AUC", "logloss")
SCORES = 64  # distinct scores, multiples of 1/128: float32 holds them exactly
EVALUATION_ROWS = 10_000  # of the challenge's validation split
TOLERANCE = 1e-12


def main() -> None:
    """Compare the values, time both, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of ours; FuxiCTR's gAUC is called once")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.exit(1, "FuxiCTR's gAUC needs two cores: its pool has half as many processes as there are cores\n")
    rows = tied_rows(options.rows, options.groups)
    compared = {name: compare(name, rows, repeats=options.repeats) for name in NAMES}
    worst = max(figures["difference"] for figures in compared.values())
    keys = np.random.default_rng(1).integers(0, 2**63, options.rows, dtype=np.uint64)
    sort = median_seconds(lambda: np.sort(keys), repeats=options.repeats)
    few = tied_rows(EVALUATION_ROWS, max(1, EVALUATION_ROWS * options.groups // options.rows))
    emit(
        name="metrics",
        shapes={"rows": options.rows, "groups": options.groups, "distinct_scores": SCORES},
        rows_per_s=options.rows / compared["gAUC"]["s"],
        ceiling=options.rows / sort,
        ceiling_is="one sort of as many random 64-bit integers by numpy",
        ratio_to_plain=compared["gAUC"]["ratio"],
        plain_is="fuxictr.metrics.evaluate_metrics with gAUC alone: a task of a process pool for each group",
        check=f"values of {', '.join(NAMES)} differ from FuxiCTR's by at most {worst:.1e}",
        metrics=compared,
        evaluation={
            "rows": EVALUATION_ROWS,
            "milliseconds": 1e3 * median_seconds(lambda: metrics.evaluate(*few[:2], NAMES, few[2]), repeats=25),
        },
    )


def tied_rows(rows: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, quantised scores (N,) that know something of the labels, and group ids of which a tenth has one class."""
    rng = np.random.default_rng(0)
    group_ids = rng.integers(0, groups, rows)
    labels = rng.integers(0, 2, rows)
    one_class = group_ids % 10 == 9
    labels[one_class] = group_ids[one_class] // 10 % 2
    scores = np.clip(rng.beta(2, 3, rows) + 0.1 * labels, 0, 0.999)
    return labels, (np.floor(scores * SCORES) + 0.5) / SCORES, group_ids


def compare(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray], *, repeats: int) -> dict[str, float]:
    """Seconds that a metric takes here and in FuxiCTR, and the difference of the values."""
    labels, scores, groups = rows
    ours, theirs = [], []
    taken = median_seconds(lambda: ours.append(metrics.evaluate(labels, scores, [name], groups)), repeats=repeats)
    fuxictr_s = seconds(
        lambda: theirs.append(evaluate_metrics(labels, scores, [name], group_id=groups)),
        repeats=1 if name == "gAUC" else repeats,
    )
    difference = abs(ours[-1][name] - float(theirs[-1][name]))
    assert difference <= TOLERANCE, f"{name}: {ours[-1]} here, {theirs[-1]} in FuxiCTR"
    median = statistics.median(fuxictr_s)
    return {"s": taken, "fuxictr_s": median, "ratio": median / taken, "difference": difference}


if __name__ == "__main__":
    main()
