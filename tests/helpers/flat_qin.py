"""One dataset in the three forms that QIN reads: ids with an item table, FuxiCTR's triple, and flat columns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.batch import Batch, Jagged
from model_zoo.QIN import QIN
from tests.helpers.reference_qin import Table

CATEGORICAL = {"source": "", "type": "categorical", "padding_idx": 0}
SIZES = {"level": 7, "item_id": 23, "brand": 6, "age": 5, "hour": 4}
ITEM_FEATURES = ("item_id", "brand")
EVENTS = ("age", "hour")


def feature_map_of_items(*, behaviours: Sequence[str] = ("history",), events: bool = False) -> FeatureMap:
    """Items with an id and a brand, in a dataset with these behaviours."""
    found = _feature_map("items")
    found.features.update(
        {name: {**CATEGORICAL, "source": "item", "vocab_size": SIZES[name]} for name in ITEM_FEATURES}
    )
    if events:
        found.features.update({name: {**CATEGORICAL, "source": "event", "vocab_size": SIZES[name]} for name in EVENTS})
    found.behaviours = tuple(behaviours)
    return _finished(found)


def flat_feature_map_of(
    *, behaviours: Sequence[str] = ("history",), events: bool = False, slots: int = 6
) -> FeatureMap:
    """The same as FuxiCTR has it: `<behaviour>_<feature>` is a sequence that shares the embedding of the feature."""
    found = _feature_map("flat")
    fields = ITEM_FEATURES + (EVENTS if events else ())
    found.features.update({name: {**CATEGORICAL, "vocab_size": SIZES[name]} for name in fields})
    for behaviour in behaviours:
        for name in fields:
            spec = {"type": "sequence", "share_embedding": name, "max_len": slots, "vocab_size": SIZES[name]}
            found.features[f"{behaviour}_{name}"] = {**CATEGORICAL, **spec}
    return _finished(found)


def random_rows(
    rng: np.random.Generator, *, rows: int, behaviours: Sequence[str] = ("history",), longest: int = 6
) -> Batch:
    """Rows with histories of 0 to `longest` items, with events; the first row has none."""

    def draw(low: int, name: str, count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(low, SIZES[name], count)).int()

    def history() -> Jagged:
        lengths = torch.from_numpy(rng.integers(0, longest + 1, rows))
        lengths[0] = 0
        total = int(lengths.sum())
        return Jagged.from_lengths(draw(1, "item_id", total), lengths, {name: draw(0, name, total) for name in EVENTS})

    features = {"level": draw(0, "level", rows), **{name: draw(0, name, rows) for name in EVENTS}}
    features["label"] = torch.from_numpy(rng.integers(0, 2, rows).astype(np.float32))
    features["user_id"] = torch.arange(rows)
    first, *others = behaviours
    assert first == "history"
    return Batch(
        features, draw(1, "item_id", rows), history(), features["user_id"], {name: history() for name in others}
    )


def table_of(rng: np.random.Generator) -> Table:
    """Items with random brands."""
    brands = torch.from_numpy(rng.integers(1, SIZES["brand"], SIZES["item_id"])).int()
    brands[0] = 0
    return Table({"item_id": torch.arange(SIZES["item_id"], dtype=torch.int32), "brand": brands})


def flat_columns(batch: Batch, table: Table, *, padding: str = "pre", slots: int = 6) -> dict[str, torch.Tensor]:
    """The rows as FuxiCTR's loaders yield them: one float64 matrix, cut into columns."""
    columns = {**batch.features, **table.gather(batch.target)}
    for behaviour, history in {"history": batch.history, **batch.behaviours}.items():
        of_values = {name: values[history.values.long()] for name, values in table.features.items()}
        for name, values in {**of_values, **history.events}.items():
            padded = Jagged(values, history.offsets).to_padded(slots)
            if padding == "post":
                padded = torch.stack([torch.roll(row, int(n)) for row, n in zip(padded, history.lengths, strict=True)])
            columns[f"{behaviour}_{name}"] = padded
    return {name: values.double() for name, values in columns.items()}


def qin_of(features: FeatureMap, *, table: Table | None = None, **options: object) -> QIN:
    """A float64 QIN with weights of order 1, the same in every form of the dataset."""
    torch.manual_seed(0)
    defaults = {"embedding_dim": 4, "num_layers": 2, "num_row": 2, "net_dropout": 0.0, "embedding_regularizer": 0.01}
    model = QIN(features, verbose=0, **{**defaults, **options}).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if "embedding_layers" in name:
                parameter[1:] = drawn[1:]
            else:
                parameter.copy_(drawn * (0.3 if parameter.dim() == 2 else 0.2))
    if table is not None:
        model.attach(table)
    return model


def _feature_map(dataset_id: str) -> FeatureMap:
    found = FeatureMap(dataset_id, "unused")
    found.features = OrderedDict(user_id={"source": "", "type": "meta"}, level={**CATEGORICAL, "vocab_size": 7})
    found.labels, found.group_id = ["label"], "user_id"
    return found


def _finished(found: FeatureMap) -> FeatureMap:
    found.num_fields = found.get_num_fields()
    found.set_column_index()
    return found


def without_events(batch: Batch) -> Batch:
    """The same rows with histories of items alone."""
    bare = {name: Jagged(rows.values, rows.offsets) for name, rows in batch.behaviours.items()}
    return replace(batch, history=Jagged(batch.history.values, batch.history.offsets), behaviours=bare)
