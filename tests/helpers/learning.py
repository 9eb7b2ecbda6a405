"""Settings under which any model learns on the smallest data in seconds, and the check that it did."""

from pathlib import Path

import numpy as np
import pytest

from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.training.report import Report

LEARNING = ["epochs=3", "learning_rate=1.e-2"]  # enough to be far from chance


def check_learnt(report: Report, path: Path, data_root: Path) -> None:
    """The loss falls each epoch, the AUC is far from chance and below the best, and the kept scores give it."""
    assert report.status == "completed"
    losses = [row["train_loss"] for row in report.curve]
    assert losses == sorted(losses, reverse=True)
    assert 0.58 < report.metrics["test"]["AUC"] < report.dataset_facts["bayes_auc"]["test"]
    scores = np.load(path.with_name(f"{report.run}.predictions.npz"))["test_scores"]
    with SplitReader(data_root / "Synthetic_test/test.h5") as split:
        labels = split.read("label", 0, split.rows)
    assert auc(labels, scores) == pytest.approx(report.metrics["test"]["AUC"])
