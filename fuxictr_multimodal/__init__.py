"""Click-through-rate models on behaviour, text and images: QIN and the models of FuxiCTR on one dataset form.

    import fuxictr_multimodal as fxmm
    report = fxmm.train("QIN_demo")

The functions are in `fuxictr_multimodal/api.py`. They load at first use, so that importing the package is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.version import __version__

if TYPE_CHECKING:
    from fuxictr_multimodal.api import build_dataset, compare, export, load_report, open_dataset, predict, train

__all__ = [
    "InputError",
    "__version__",
    "build_dataset",
    "compare",
    "export",
    "load_report",
    "open_dataset",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("fuxictr_multimodal.api"), name)


def __dir__() -> list[str]:
    return __all__
