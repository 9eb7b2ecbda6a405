"""From the name under `model:` to a class, and to the batch layout that the class reads."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fuxictr_multimodal.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class ZooModel:
    """A model class and its input: `batch` (a `Batch`, item table attached) or `longctr` (the toolkit's triple)."""

    model_class: type
    layout: str


def resolve(name: str) -> ZooModel:
    """Find a model by name: in this project's zoo, then in the `model_zoo.LongCTR` of the installed toolkit.

    Raises:
        ConfigError: if nobody has the name; lists what there is.
    """
    ours = own_models()
    if name in ours:
        return ZooModel(getattr(importlib.import_module(f"model_zoo.{name}"), name), "batch")
    longctr = _longctr()
    if longctr is not None and name in longctr_models():
        return ZooModel(getattr(longctr, name), "longctr")
    known = [*ours, *longctr_models()]
    missing = "" if longctr is not None else " The installed fuxictr has no model_zoo.LongCTR; install fuxictr==2.3.10."
    raise ConfigError(f"model {name!r} is not in the zoo. {did_you_mean(name, known)}{missing}")


def own_models() -> list[str]:
    """Names of the packages under this project's `model_zoo/` that hold a model of the same name."""
    found = importlib.util.find_spec("model_zoo")
    folders = [Path(p) for p in (found.submodule_search_locations or [])] if found else []
    return sorted({p.parent.name for f in folders for p in f.glob("*/*.py") if p.stem == p.parent.name})


def longctr_models() -> list[str]:
    """Names of the models that the installed toolkit's `model_zoo.LongCTR` exports."""
    longctr = _longctr()
    return sorted(n for n, v in vars(longctr).items() if isinstance(v, type)) if longctr else []


def _longctr() -> ModuleType | None:
    try:
        return importlib.import_module("model_zoo.LongCTR")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("model_zoo"):
            return None
        raise
