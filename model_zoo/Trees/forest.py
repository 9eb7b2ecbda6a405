"""Boosted trees as arrays of fixed size, which are saved like weights, and the scores that they give.

Shape legend: B samples, K trees at most, M nodes of a tree at most, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# scikit-learn splits missing values from all others at infinity; a saved weight is finite, and features are float32.
LARGEST = 1e300


def empty_forest(trees: int, leaves: int) -> dict[str, Tensor]:
    """The arrays of K trees of one leaf each, whose value is 0.

    Args:
        trees: K.
        leaves: of a tree at most; a binary tree has M = 2 leaves - 1 nodes.

    Returns:
        `feature`, `threshold`, `left`, `right`, `missing_left` and `value`, (K, M), and `baseline`, (1,). A leaf has
        itself as both children; the others have children behind them.
    """
    nodes = 2 * leaves - 1
    own = torch.arange(nodes, dtype=torch.int32).repeat(trees, 1)
    return {
        "feature": torch.zeros(trees, nodes, dtype=torch.int32),
        "threshold": torch.zeros(trees, nodes, dtype=torch.float64),
        "left": own,
        "right": own.clone(),
        "missing_left": torch.zeros(trees, nodes, dtype=torch.bool),
        "value": torch.zeros(trees, nodes, dtype=torch.float64),
        "baseline": torch.zeros(1, dtype=torch.float64),
    }


def fill_forest(arrays: Mapping[str, Tensor], classifier: Any, trees: int) -> None:
    """Copy the first trees of a fitted `HistGradientBoostingClassifier` of two classes without categorical features."""
    # Named with an underscore: scikit-learn has no other form of a fitted model than a pickle, which runs code.
    for number, (predictor,) in enumerate(classifier._predictors[:trees]):
        nodes = predictor.nodes
        inner = nodes["is_leaf"] == 0
        own = np.arange(len(nodes))
        found = {
            "feature": np.where(inner, nodes["feature_idx"], 0),
            "threshold": np.where(inner, np.clip(nodes["num_threshold"], -LARGEST, LARGEST), 0),
            "left": np.where(inner, nodes["left"], own),
            "right": np.where(inner, nodes["right"], own),
            "missing_left": nodes["missing_go_to_left"] != 0,
            "value": nodes["value"],
        }
        for name, values in found.items():
            arrays[name][number, : len(nodes)] = torch.from_numpy(values.astype(arrays[name].numpy().dtype))
    arrays["baseline"][0] = float(np.asarray(classifier._baseline_prediction).item())


def problem_of(arrays: Mapping[str, Tensor], features: int) -> str | None:
    """What is wrong with arrays that a file holds: a child that is no later node, or a feature that is not there."""
    nodes = arrays["left"].shape[1]
    own = torch.arange(nodes, dtype=torch.int32)
    for name in ("left", "right"):
        child = arrays[name]
        if bool(((child < own) | (child >= nodes)).any()):
            return f"{name!r} names a node that the tree does not have"
    inner = arrays["left"] != own
    if bool((inner & (arrays["right"] == own)).any()):
        return "a node has one child"
    read = arrays["feature"][inner]
    if bool(((read < 0) | (read >= features)).any()):
        return f"'feature' names one that is not among the {features}"
    return None


def log_odds(arrays: Mapping[str, Tensor], features: NDArray) -> NDArray[np.float64]:
    """The sum of the trees for samples (B, F), (B,)."""
    feature, threshold, left, right, missing_left, value = (
        arrays[name].numpy() for name in ("feature", "threshold", "left", "right", "missing_left", "value")
    )
    total = np.full(len(features), float(arrays["baseline"]))
    rows = np.arange(len(features))
    for tree in range(len(feature)):
        node = np.zeros(len(features), np.int32)
        while True:
            read = features[rows, feature[tree, node]]
            goes_left = np.where(np.isnan(read), missing_left[tree, node], read <= threshold[tree, node])
            below = np.where(goes_left, left[tree, node], right[tree, node])
            if np.array_equal(below, node):
                break
            node = below
        total += value[tree, node]
    return total


def size_of(arrays: Mapping[str, Tensor]) -> int:
    """Numbers that training chose: the threshold of each inner node, and the value of each leaf."""
    nodes = arrays["left"].shape[1]
    inner = int((arrays["left"] != torch.arange(nodes)).sum())
    trees = int((arrays["value"] != 0).any(dim=1).sum())
    return 2 * inner + trees
