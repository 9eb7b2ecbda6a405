"""From the name under `model:` to a class, and from a `Batch` to what that class reads."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.zoo import clone, repairs
from fuxictr_multimodal.zoo.distinct_items import DistinctItems
from fuxictr_multimodal.zoo.histories import event_names
from fuxictr_multimodal.zoo.layouts import (
    as_flat,
    as_longctr,
    behaviours_of,
    flat_feature_map,
    histories_of,
    longctr_feature_map,
    longctr_of_columns,
    without_items,
)

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.models import BaseModel

    from fuxictr_multimodal.data.batch import Batch
    from fuxictr_multimodal.data.item_table import ItemTable

ZOO_ROOT_VARIABLE = "FUXICTR_ZOO_ROOT"
# What stands before the name of a model that is looked up in a clone only; configurations have both.
CLONE = ("clone", "checkout")


@dataclass(frozen=True)
class ZooModel:
    """A model class and its input.

    Attributes:
        model_class: a subclass of FuxiCTR's `BaseModel`.
        layout: `batch` (a `Batch`; an item table is attached), `longctr` (FuxiCTR's triple) or `flat` (columns).
    """

    model_class: type
    layout: str

    def build(
        self, feature_map: FeatureMap, item_table: Callable[[Any], ItemTable], params: Mapping[str, Any]
    ) -> tuple[BaseModel, Callable[[Batch], Any]]:
        """Construct the model; return it with the function that turns a `Batch` into what its `forward` reads.

        Args:
            feature_map: of the dataset.
            item_table: makes the item table on a device.
            params: of the run; `max_len` is the number of history slots.
        """
        logging.info("Model %s is code of %s", self.model_class.__name__, inspect.getfile(self.model_class))
        if self.layout == "flat":
            return self._build_flat(feature_map, item_table, params)
        if self.layout == "longctr":
            if without_items(feature_map):
                return self._build_longctr_of_columns(feature_map, params)
            self._say_what_longctr_reads(feature_map)
        model = self.model_class(feature_map, **params)
        table = item_table(model.device)
        if self.layout == "batch":
            model.attach(table)
            return model, lambda batch: batch
        slots = repairs.least_slots(model, params["max_len"])
        if (distinct := DistinctItems.of(model, table, max_len=slots, padding=self.padding)) is not None:
            return model, distinct
        return model, lambda batch: as_longctr(batch, table, max_len=slots, padding=self.padding)

    @property
    def padding(self) -> str:
        """Where histories are filled: `pre`, or `post` for a model that reads them from the left."""
        return repairs.padding_side(self.model_class)

    def _say_what_longctr_reads(self, feature_map: FeatureMap) -> None:
        _, *others = behaviours_of(feature_map)
        if others:
            logging.info(
                "%s reads the first kind of history alone, not %s", self.model_class.__name__, ", ".join(others)
            )
        events = event_names(feature_map)
        if events:
            logging.info(
                "%s reads %s of the target alone: the triple of LongCTR has no place for those of history items",
                self.model_class.__name__,
                ", ".join(events),
            )

    def _build_longctr_of_columns(
        self, feature_map: FeatureMap, params: Mapping[str, Any]
    ) -> tuple[BaseModel, Callable[[Batch], Any]]:
        """For a dataset whose histories are columns of its samples."""
        found, pairs = longctr_feature_map(feature_map)
        model = self.model_class(found, **params)
        slots = repairs.least_slots(model, max(feature_map.features[name]["max_len"] for _, name in pairs))
        return model, lambda batch: longctr_of_columns(
            batch.features, pairs, max_len=slots, padding=self.padding, share=batch.share
        )

    def _build_flat(
        self, feature_map: FeatureMap, item_table: Callable[[Any], ItemTable], params: Mapping[str, Any]
    ) -> tuple[BaseModel, Callable[[Batch], Any]]:
        reads_slots = bool(sequence_parameters(self.model_class))

        def build(*, embeddings: bool) -> tuple[BaseModel, FeatureMap]:
            flat = flat_feature_map(feature_map, params["max_len"], not reads_slots, embeddings=embeddings)
            fields = sequence_fields(self.model_class, flat, params)
            model = self.model_class(flat, **{**repairs.name_one_regularizer(self.model_class, params), **fields})
            repairs.accept_old_keyword(model)
            return model, flat

        model, flat = build(embeddings=True)
        if unread := repairs.without_projection(model):
            logging.warning(
                "%s is trained without %s: a layer of it does not project pretrained embeddings, a fault of FuxiCTR",
                self.model_class.__name__,
                ", ".join(unread),
            )
            model, flat = build(embeddings=False)
        repairs.initialise_forgotten_tables(model)
        table = item_table(model.device)
        return model, lambda batch: as_flat(batch, table, flat, padding=self.padding)


def resolve(name: str, *, zoo_root: str | Path | None = None, flat: bool = False) -> ZooModel:
    """Find a model: in this project's zoo, then in the installed FuxiCTR's LongCTR, then in a FuxiCTR clone.

    A copy of this project's model in the clone (`model_zoo/QIN/QIN.py`) is taken instead of the installed one.

    Args:
        name: of the model; `LongCTR/DIN` or `clone/DIN` says where to look.
        zoo_root: folder of a FuxiCTR clone, by default that of the environment variable FUXICTR_ZOO_ROOT. Code is run
            from there only when the name resolves to one of its models.
        flat: whether the dataset has no items: the clone's model of a name comes before LongCTR's then, which needs
            them.

    Raises:
        ConfigError: no zoo has the name; lists the known ones.
    """
    place, _, short = name.rpartition("/")
    if place not in ("", "LongCTR", *CLONE):
        raise ConfigError(f"model {name!r}: write the name alone, or prefix it with LongCTR/ or clone/")
    zoo_root = zoo_root or os.environ.get(ZOO_ROOT_VARIABLE)
    zoo_root = user_path(zoo_root) if zoo_root else None
    if place in ("", *CLONE) and short in own_models():
        copied = clone.find_copy(short, zoo_root) if zoo_root else None
        if copied or place == "":
            own = clone.load_own(short, copied or _own_zoo() / short)
            return ZooModel(own, getattr(own, "layout", "batch"))
    in_clone = clone.find_models(zoo_root) if zoo_root else {}
    clone_first = place in CLONE or (place == "" and (flat or short not in longctr_models()))
    if clone_first and short in in_clone:
        return ZooModel(clone.load_model(short, in_clone[short]), "flat")
    if place in ("", "LongCTR") and short in longctr_models():
        return ZooModel(getattr(_longctr(), short), "longctr")
    raise ConfigError(_unresolved(name, zoo_root, in_clone))


def own_models() -> list[str]:
    """Names of the packages beside this project's `model_zoo/QIN` that hold a model of the same name."""
    return sorted({path.stem for path in _own_zoo().glob("*/*.py") if path.stem == path.parent.name})


@functools.cache
def _own_zoo() -> Path:
    """The installed folder `model_zoo` that has QIN; asked for once, before a copy may take the name."""
    # An editable install puts the namespace together by a hook, not by a folder; where QIN comes from is always known.
    qin = importlib.util.find_spec("model_zoo.QIN")
    assert qin is not None, "this project is installed with its model_zoo"
    assert qin.origin is not None
    return Path(qin.origin).parent.parent


def longctr_models() -> list[str]:
    """Names of the models that the installed FuxiCTR's `model_zoo.LongCTR` exports."""
    longctr = _longctr()
    return sorted(n for n, v in vars(longctr).items() if isinstance(v, type)) if longctr else []


def sequence_parameters(model_class: type) -> list[str]:
    """The parameters of a constructor that name fields of targets and histories, as in `din_sequence_field`."""
    parameters = inspect.signature(model_class).parameters
    if not any(name.endswith("sequence_field") or name == "sequence_item_field" for name in parameters):
        return []
    return [name for name in parameters if name.endswith("_field")]


def sequence_fields(model_class: type, flat: FeatureMap, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Values for `sequence_parameters`: one attention over all columns of each behaviour of a flat feature map.

    Fields of sampled negatives and of actions in the history, which a dataset does not have, are set to none.

    Args:
        model_class: with such parameters, or without.
        flat: of `flat_feature_map`.
        given: parameters of the run; what they set is kept. YAML has no tuples, which FuxiCTR wants for columns
            that are attended to together: `[[item_id, decade]]` becomes `[(item_id, decade)]`.
    """
    given = given or {}
    behaviours = histories_of(flat)
    targets = [tuple(field for field, _ in pairs) for pairs in behaviours]
    histories = [tuple(name for _, name in pairs) for pairs in behaviours]
    values: dict[str, Any] = {}
    for name in sequence_parameters(model_class):
        if name in given:
            value = given[name]
            values[name] = [tuple(x) if isinstance(x, list) else x for x in value] if isinstance(value, list) else value
        elif "neg" in name or "context" in name:
            values[name] = [] if name.startswith("dien") else None
        else:
            values[name] = list(histories if "sequence" in name else targets) or [()]
    return values


def _unresolved(name: str, zoo_root: Path | None, in_clone: Mapping[str, Path]) -> str:
    ours, longctr = own_models(), longctr_models()
    near = did_you_mean(name.rpartition("/")[2], [*ours, *longctr, *in_clone])
    parts = [f"model {name!r} is not in the zoo."]
    if near.startswith("Did you mean"):
        parts.append(near)
    parts.append(f"This project has {', '.join(ours)};")
    if longctr:
        parts.append(f"the installed fuxictr's model_zoo.LongCTR has {', '.join(longctr)};")
    else:
        parts.append("the installed fuxictr has no model_zoo.LongCTR: install fuxictr==2.3.10;")
    if zoo_root:
        parts.append(f"{zoo_root} has {', '.join(sorted(in_clone))}.")
    else:
        parts.append(f"for the models of a FuxiCTR clone, set zoo_root to its folder or in {ZOO_ROOT_VARIABLE}.")
    return " ".join(parts)


def _longctr() -> ModuleType | None:
    try:
        return importlib.import_module("model_zoo.LongCTR")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("model_zoo"):
            return None
        raise
