"""Any trained model as a graph that ranks: its own forward pass over R * C rows, around which inputs are laid out.

Shape legend: R requests, C candidates of a request, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fuxictr_multimodal.data.item_table import item_features
from fuxictr_multimodal.serving.plain_graphs import ColumnsGraph, FlatGraph, LongCTRGraph
from fuxictr_multimodal.serving.traceable import needs_fixed_slots, only_torch
from fuxictr_multimodal.zoo import servable as names
from fuxictr_multimodal.zoo.layouts import (
    POOLING,
    behaviours_of,
    histories_of,
    longctr_feature_map,
    without_items,
)
from fuxictr_multimodal.zoo.repairs import least_slots
from fuxictr_multimodal.zoo.servable import (
    CANDIDATES,
    ITEMS,
    REQUESTS,
    GraphInput,
    Servable,
    array_input,
    column_input,
)

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.models import BaseModel

    from fuxictr_multimodal.data.item_table import ItemTable
    from fuxictr_multimodal.zoo.models import ZooModel

Spec = Mapping[str, Any]


def plain_servable(
    model: BaseModel, zoo_model: ZooModel, feature_map: FeatureMap, item_table: ItemTable, *, max_len: int
) -> Servable:
    """A trained model as a `Servable` whose arrays of the catalogue are the features of the items.

    Args:
        model: trained, on the CPU; it is left as it is and shares its weights.
        zoo_model: says what the model's `forward` reads.
        feature_map: of the dataset, as the run reads it.
        item_table: of the dataset, on the CPU; without items where it has none.
        max_len: history slots of the run.

    Raises:
        InputError: the model has no graph, with the reason.
    """
    if without_items(feature_map):
        return _of_columns(model.eval(), zoo_model, feature_map)
    if zoo_model.layout == "flat":
        return _of_flat(model.eval(), zoo_model, feature_map, item_table, max_len=max_len)
    return _of_longctr(model.eval(), zoo_model, feature_map, item_table, max_len=max_len)


def _of_longctr(
    model: BaseModel, zoo_model: ZooModel, feature_map: FeatureMap, item_table: ItemTable, *, max_len: int
) -> Servable:
    """LongCTR models read one kind of history, with all features of its items."""
    fixed = least_slots(model, max_len) or (max_len if needs_fixed_slots(model) else None)
    behaviour = behaviours_of(feature_map)[0]
    arrays = {name: item_table.features[name] for name in item_features(feature_map)}
    slots = names.slots(0) if fixed is None else fixed
    inputs = [column_input(name, spec) for name, spec in _context(feature_map)]
    inputs.append(GraphInput(names.mask(behaviour), "bool", (REQUESTS, slots)))
    inputs += [array_input(names.history(behaviour, n), v, REQUESTS, slots) for n, v in arrays.items()]
    inputs += [array_input(names.candidate(n), v, REQUESTS, CANDIDATES) for n, v in arrays.items()]
    graph = LongCTRGraph(model, inputs, behaviour, list(arrays))
    return _servable(graph, inputs, arrays, [behaviour], fixed, zoo_model.padding, only_torch=only_torch(model, fixed))


def _of_flat(
    model: BaseModel, zoo_model: ZooModel, feature_map: FeatureMap, item_table: ItemTable, *, max_len: int
) -> Servable:
    """Models of a clone read columns; the feature map of the model names them."""
    flat = model.feature_map
    arrays = {name: item_table.features[name] for name in item_features(feature_map) if name in flat.features}
    # A history that is averaged by the embedding layer is the same in any number of slots; a model that reads the
    # slots itself may place or weigh them by their number.
    pairs = [(name, source) for behaviour in histories_of(flat) for source, name in behaviour]
    pooled = all(flat.features[name].get("feature_encoder") == POOLING for name, _ in pairs)
    fixed = None if pooled or not pairs else max_len
    inputs = [column_input(name, spec) for name, spec in _context(feature_map)]
    behaviours: list[str] = []
    histories: dict[str, str] = {}
    for behaviour in behaviours_of(feature_map):
        read = [source for name, source in pairs if name == f"{behaviour}_{source}"]
        if not read:
            continue
        slots = names.slots(len(behaviours)) if fixed is None else fixed
        behaviours.append(behaviour)
        for source in read:
            of_item = source in arrays
            name = names.history(behaviour, source) if of_item else names.event(behaviour, source)
            inputs.append(GraphInput(name, "int64", (REQUESTS, slots)))
            histories[f"{behaviour}_{source}"] = name
    inputs += [array_input(names.candidate(n), v, REQUESTS, CANDIDATES) for n, v in arrays.items()]
    graph = FlatGraph(model, inputs, histories, list(arrays), list(flat.features))
    return _servable(graph, inputs, arrays, behaviours, fixed, zoo_model.padding, only_torch=only_torch(model, fixed))


def _of_columns(model: BaseModel, zoo_model: ZooModel, feature_map: FeatureMap) -> Servable:
    """A dataset without items has nothing but columns; every request is a sample."""
    inputs = [column_input(name, spec) for name, spec in _context(feature_map)]
    pairs = longctr_feature_map(feature_map)[1] if zoo_model.layout == "longctr" else []
    least = least_slots(model, max(feature_map.features[name]["max_len"] for _, name in pairs)) if pairs else None
    graph = ColumnsGraph(model, inputs, layout=zoo_model.layout, pairs=pairs, slots=least, padding=zoo_model.padding)
    return Servable(graph.eval(), inputs, only_torch=only_torch(model, None))


def _servable(
    graph: nn.Module,
    inputs: list[GraphInput],
    arrays: Mapping[str, Tensor],
    behaviours: list[str],
    fixed: int | None,
    padding: str,
    *,
    only_torch: str = "",
) -> Servable:
    return Servable(
        graph.eval(),
        inputs,
        items={name: _plain_type(values) for name, values in arrays.items()},
        item_inputs=[array_input(name, values, ITEMS) for name, values in arrays.items()],
        behaviours=behaviours,
        fixed_slots=fixed,
        padding=padding,
        only_torch=only_torch,
    )


def _context(feature_map: FeatureMap) -> list[tuple[str, Spec]]:
    """Columns of a request: what is neither the item's nor for people only; in a dataset without items all columns."""
    own = () if without_items(feature_map) else ("item",)
    features = feature_map.features.items()
    return [(name, spec) for name, spec in features if spec["type"] != "meta" and spec.get("source") not in own]


def _plain_type(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values.to(torch.int64)
