"""Operators that models use and torch's ONNX exporter does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The `custom_translation_table` of `torch.onnx.export`."""
    import torch
    from onnxscript import opset18

    op: Any = opset18

    def masked_select(values: Any, mask: Any) -> Any:
        """Values where the mask is true, in one row."""
        row = op.Constant(value_ints=[-1])
        # `Where` spreads both to the same shape.
        wide = op.Where(mask, values, values)
        return op.Compress(op.Reshape(wide, row), op.Reshape(op.Expand(mask, op.Shape(wide)), row))

    def bincount(values: Any, weights: Any = None, minlength: Any = 0) -> Any:
        """How often each number below `minlength` occurs; none reaches it."""
        assert weights is None
        size = op.Reshape(minlength, op.Constant(value_ints=[1]))
        counts = op.Expand(op.Constant(value_int=0), size)
        ones = op.Expand(op.Constant(value_int=1), op.Shape(values))
        return op.ScatterElements(counts, values, ones, axis=0, reduction="add")

    return {torch.ops.aten.masked_select.default: masked_select, torch.ops.aten.bincount.default: bincount}
