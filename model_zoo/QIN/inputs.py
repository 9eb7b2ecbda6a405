"""The three inputs that QIN reads, as columns of the samples and slots of each behaviour.

Shape legend: B rows, T padded history slots of a behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from fuxictr.utils import not_in_whitelist
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import InputError, did_you_mean
from fuxictr_multimodal.zoo.layouts import slots_of
from model_zoo.QIN.attention import JaggedHistory, PaddedHistory
from model_zoo.QIN.fields import Fields, Specs
from model_zoo.QIN.item_vectors import NOTHING_HIDDEN, ItemVectors, event_columns, history_of
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.similarity import Similarity

if TYPE_CHECKING:
    from fuxictr_multimodal.data.item_table import ItemTable
    from model_zoo.QIN.interest_network import Interest

# The batch of FuxiCTR's LongCTR models: context columns, flat item features (B * (T + 1), ...), mask (B, T).
Triple = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
# A `Batch`, the triple, or the flat columns of FuxiCTR's other models.
Inputs = Batch | Triple | Mapping[str, Tensor]


class Slots(NamedTuple):
    """One behaviour, padded: features of its slots, history then target, (B * (T + 1), ...), and the mask (B, T)."""

    features: dict[str, Tensor]
    mask_BT: Tensor

    def row_items(self) -> RowItems:
        """The same without padding."""
        return RowItems.of_triple(self.features, self.mask_BT)


def columns_of(inputs: Inputs) -> Mapping[str, Tensor]:
    """The columns of the samples."""
    if isinstance(inputs, Batch):
        return inputs.features
    return inputs if isinstance(inputs, Mapping) else inputs[0]


def columns_on(
    device: torch.device,
    inputs: Inputs,
    fields: Fields,
    specs: Specs,
    feature_source: str | Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Context features, and what else of a target is among the columns, on the device.

    Raises:
        InputError: a column is not there.
    """
    columns = columns_of(inputs)
    names = [*fields.context, *(fields.items if fields.flat else ())]
    names += [name for name in fields.events if name in columns]
    if feature_source:
        names = [name for name in names if not not_in_whitelist(specs[name]["source"], feature_source)]
    return {name: _of(columns, name).to(device) for name in names}


@dataclass(frozen=True)
class RowReader:
    """Reads targets and histories of one batch, for one network after the other.

    Attributes:
        row_items: the items of targets and of the first history.
        slots: of each behaviour; none where the items of a `Batch` are embedded by their ids.
        cosines_NE: of the targets and the items of the first history; None where they are not read.
    """

    row_items: RowItems
    slots: Sequence[Slots]
    cosines_NE: Tensor | None
    _fields: Fields
    _columns: Mapping[str, Tensor]
    _fast: bool
    _ids: Batch | None = None
    _table: ItemTable | None = None

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        fields: Fields,
        *,
        columns: Mapping[str, Tensor],
        table: ItemTable | None,
        device: torch.device,
        fast: bool,
        similarity: Similarity | None,
    ) -> RowReader:
        """Move what is read to the device, except meta columns: copying them would wait for it.

        Args:
            inputs: a batch.
            fields: which features targets and histories have.
            columns: of `columns_on`.
            table: of the items, where the histories of a `Batch` are read.
            device: of the model.
            fast: whether the optimized implementation reads.
            similarity: computes the cosines of targets and history items; None where they are not read.

        Raises:
            InputError: another kind of input than the model was made for, or a feature that is not there.
        """
        if table is not None:
            assert isinstance(inputs, Batch)
            ids = replace(inputs, features={}, group=None, weight=None).to(device)
            if ids.fold is not None:
                table, ids = table.of_batch(ids)
            inputs = replace(ids, features={name: columns[name] for name in fields.events if name in columns})
            if fast:
                row_items = RowItems.of_batch(inputs, table)
                return cls(row_items, (), _cosines(similarity, row_items), fields, columns, fast, inputs, table)
        slots = _padded_slots(inputs, fields, table, device)
        if slots:
            row_items = slots[0].row_items()
        else:
            # `len` would fix the size of a traced graph.
            row_items = _nobody(next(iter(columns.values())).shape[0], device)
        return cls(row_items, slots, _cosines(similarity, row_items), fields, columns, fast)

    def interests(
        self, vectors: ItemVectors, shown: Mapping[str, Tensor] = NOTHING_HIDDEN
    ) -> tuple[Tensor | None, Sequence[Interest]]:
        """x_t (B, D), None where there is no target, and the target's vectors and the history of each behaviour.

        Args:
            vectors: of a network.
            shown: of `FeatureDropout.of_items`.
        """
        if self._ids is not None and self._table is not None:
            of_ids = vectors.of_behaviours(self._ids, self._table, shown)
            return of_ids[0][0], self._compared(of_ids)
        found: list[Interest] = []
        for slots in self.slots:
            found.append(vectors.jagged(slots.row_items(), shown) if self._fast else vectors.padded(*slots, shown))
        if not found:
            return None, found
        target = self._fields.target
        if self._fields.behaviours[0].fields == target:
            return found[0][0], self._compared(found)
        return vectors.embed({name: self._columns[name] for name in target}, shown), self._compared(found)

    def _compared(self, interests: Sequence[Interest]) -> Sequence[Interest]:
        """The interests, the first of which knows the cosines."""
        cosine_NE = self.cosines_NE
        if cosine_NE is None:
            return interests
        (target_BD, history), *others = interests
        if isinstance(history, JaggedHistory):
            return [(target_BD, replace(history, cosines_NE=cosine_NE)), *others]
        cosine_BTE = cosine_NE.new_zeros(*history.mask_BT.shape, cosine_NE.shape[1])
        cosine_BTE[history.mask_BT] = cosine_NE
        return [(target_BD, replace(history, cosines_BTE=cosine_BTE)), *others]


def items_of(
    target_BD: Tensor, history: PaddedHistory | JaggedHistory, width: int | None
) -> tuple[Tensor, PaddedHistory | JaggedHistory]:
    """An interest without the events, of `width` numbers; as it is where that is None."""
    if width is None or width == target_BD.shape[1]:
        return target_BD, history
    if isinstance(history, JaggedHistory):
        return target_BD[:, :width], replace(history, events=())
    return target_BD[:, :width], PaddedHistory(history.vectors_BTD[..., :width], history.mask_BT)


def _padded_slots(inputs: Inputs, fields: Fields, table: ItemTable | None, device: torch.device) -> list[Slots]:
    if fields.flat:
        columns = columns_of(inputs)
        return [_of_columns(columns, b.fields, b.columns, device) for b in fields.behaviours]
    if isinstance(inputs, Batch):
        assert table is not None
        return [_of_batch(inputs, behaviour.name, fields, table) for behaviour in fields.behaviours]
    if isinstance(inputs, Mapping):
        raise InputError(
            "this QIN reads items and their histories, but a batch of flat columns has none: give the sequences of the "
            "dataset share_embedding, or name them with din_target_field and din_sequence_field"
        )
    if len(fields.behaviours) > 1:
        names = ", ".join(behaviour.name for behaviour in fields.behaviours)
        raise InputError(f"FuxiCTR's triple has one history, but the dataset has the behaviours {names}: pass a Batch")
    _, features, mask_BT = inputs
    return [Slots({name: _of(features, name).to(device) for name in fields.target}, mask_BT.to(device))]


def _cosines(similarity: Similarity | None, row_items: RowItems) -> Tensor | None:
    return None if similarity is None else similarity(row_items)


def _nobody(rows: int, device: torch.device) -> RowItems:
    """The items of rows that have none."""
    empty = torch.zeros(0, dtype=torch.long, device=device)
    return RowItems({}, empty, Jagged(empty, torch.zeros(rows + 1, dtype=torch.long, device=device)))


def _of_batch(batch: Batch, name: str, fields: Fields, table: ItemTable) -> Slots:
    history = history_of(batch, name)
    slots_BT1, mask_BT = slots_of(history, batch.target)
    features = table.gather(slots_BT1.flatten())
    features = {feature: features[feature] for feature in fields.items}
    for event, (of_history, of_targets) in event_columns(batch, history, fields.events).items():
        padded_BT = Jagged(of_history, history.offsets).to_padded(mask_BT.shape[1])
        features[event] = _joined(padded_BT, of_targets)
    return Slots(features, mask_BT)


def _of_columns(
    columns: Mapping[str, Tensor], fields: Sequence[str], sequences: Sequence[str], device: torch.device
) -> Slots:
    histories = [_of(columns, name).to(device) for name in sequences]
    # Where an item is, some feature of it is known; 0 is padding in FuxiCTR's sequences.
    mask_BT = torch.stack([history_BT != 0 for history_BT in histories]).any(dim=0)
    features = {
        field: _joined(history_BT, _of(columns, field).to(device))
        for field, history_BT in zip(fields, histories, strict=True)
    }
    return Slots(features, mask_BT.float())


def _joined(history_BT: Tensor, target_B: Tensor) -> Tensor:
    """History then target, row after row, (B * (T + 1),)."""
    return torch.cat([history_BT, target_B[:, None].to(history_BT.dtype)], dim=1).flatten()


def _of(columns: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in columns:
        raise InputError(f"a batch lacks the feature {name!r}. {did_you_mean(name, list(columns))}")
    return columns[name]
