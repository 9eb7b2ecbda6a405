"""Applies the calibration that was exported with a model: a non-decreasing function of scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Calibration = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# What float32 can tell from 0 and from 1: scores are that precise.
CLOSEST = 2.0**-24


def calibration_of(given: Mapping[str, Any] | None) -> Calibration | None:
    """The calibration that model.json holds.

    Args:
        given: {"method": "platt", "numbers": {"slope", "intercept"}}, or `isotonic` with its corners `scores` and
            `probabilities`; None where the model has none.

    Raises:
        LookupError, TypeError, ValueError: it is of another form.

    >>> twice = calibration_of({"method": "platt", "numbers": {"slope": 2.0, "intercept": 0.0}})
    >>> twice(np.array([0.5, 0.8])).tolist()  # odds 1 and 4 become 1 and 16
    [0.5, 0.9411764705882353]
    """
    if given is None:
        return None
    method, numbers = given["method"], given["numbers"]
    if method == "platt":
        slope, intercept = float(numbers["slope"]), float(numbers["intercept"])

        def platt(scores: NDArray[np.float64]) -> NDArray[np.float64]:
            p = np.clip(scores, CLOSEST, 1 - CLOSEST)
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-(slope * (np.log(p) - np.log1p(-p)) + intercept)))

        return platt
    if method == "isotonic":
        corners, values = np.array(numbers["scores"], np.float64), np.array(numbers["probabilities"], np.float64)
        if corners.ndim != 1 or corners.shape != values.shape or not len(corners):
            raise ValueError("the corners of isotonic are two lists of one length")
        return lambda scores: np.interp(scores, corners, values)
    raise ValueError(f"method {method!r} is unknown")
