"""What each input block of a trained model contributes to its AUC: permutation importance over a split.

Breiman, Random Forests, Machine Learning 45, 2001, section 10: the AUC of a split as it is, less the AUC with the
values of one block exchanged between rows. The block keeps its distribution and loses what it says about the label.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.torch_utils import seed_everything
from tqdm import tqdm

from fuxictr_multimodal.data.batch import Batch, Jagged, join
from fuxictr_multimodal.data.item_table import ItemTable, item_features
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics import classification as metrics
from fuxictr_multimodal.training.at_once import refuse_explanation
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.zoo.histories import FIRST, event_names
from fuxictr_multimodal.zoo.layouts import behaviours_of

CONTEXT, HISTORY, EVENT, TARGET, ITEM = "context", "history", "event", "target", "item"


@dataclass(frozen=True)
class BlockFall:
    """How far the AUC falls when a block is shuffled; below 0 if it rises.

    Attributes:
        block: the feature's name, `history` or that of another behaviour, or `target item`.
        kind: `context`, `item` or `event` for a feature of such; `history`, of one behaviour; `target`.
        falls: of each repeat.
    """

    block: str
    kind: str
    falls: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the repeats."""
        return statistics.fmean(self.falls)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the repeats; None for a single one."""
        return statistics.stdev(self.falls) if len(self.falls) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, for JSON."""
        return {
            "block": self.block,
            "kind": self.kind,
            "fall": self.mean,
            "spread": self.spread,
            "falls": list(self.falls),
        }


@dataclass(frozen=True)
class BlockImportance:
    """AUC of a split as it is, and the fall of each block, the greatest first."""

    split: str
    rows: int
    auc: float
    blocks: list[BlockFall]


class BlockShuffler:
    """A trained experiment whose input blocks can be shuffled, one at a time. Any model of any layout takes part.

    A context feature, `history` and `target item` (all features of it together) are exchanged between the rows of the
    whole split, which is kept in memory on the host for that. An item feature is exchanged between the items of the
    item table, so that target and history items change alike; row 0, padding, stays. An event feature is exchanged
    between the targets, and between the events of all histories.

    Correlated blocks share their importance: if one can replace the other, the AUC falls little for both. A shuffled
    row may be impossible, such as a target item with another user's history: the fall describes this model, not one
    trained without the block.

    Args:
        experiment: loaded; its checkpoint must be there.

    Raises:
        DataError: it is not trained, or on another build of the dataset.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._seed = experiment.params["seed"]
        seed_everything(seed=self._seed)
        self.feature_map = experiment.feature_map()
        self.table = ItemTable.without_items()

        def item_table(device: Any) -> ItemTable:
            self.table = experiment.item_table(self.feature_map, device)
            return self.table

        self.model, self.to_inputs = experiment.build_model(self.feature_map, item_table=item_table)
        refuse_explanation(self.model)
        load_trained(experiment, self.model)
        self.model.eval()

    def measure(self, split: str, *, repeats: int = 3) -> BlockImportance:
        """Score the split as it is, and `repeats` times with each block shuffled, by the seed of the experiment.

        A repeat has one order of rows and one of items for all blocks. The model and its item table are as before
        when this returns.

        Raises:
            ConfigError: repeats is below 1.
            DataError: there is no such split, or it has no AUC.
        """
        if repeats < 1:
            raise ConfigError(f"--repeats {repeats} must be at least 1")
        rows = join(list(self.experiment.split_loader(split, self.feature_map, "cpu")))
        label = self.feature_map.labels[0]
        if label not in rows.features:
            raise DataError(f"the split {split!r} has no column {label!r}, so it has no AUC: choose another --split")
        labels = rows.features[label].numpy()
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"the split {split!r} has labels other than 0 and 1, so it has no AUC")
        blocks = self._blocks()
        falls: dict[tuple[str, str], list[float]] = {block: [] for block in blocks}
        with tqdm(total=1 + repeats * len(blocks), desc="scoring", unit="pass", leave=False, disable=None) as bar:

            def auc(shuffled: Batch) -> float:
                try:
                    return metrics.auc(labels, self._scores(shuffled))
                except metrics.UndefinedMetric as error:
                    raise DataError(f"the split {split!r}: {error}") from None
                finally:
                    bar.update()

            whole = auc(rows)
            for repeat in range(repeats):
                rng = np.random.default_rng((self._seed, repeat))
                order, items = (torch.from_numpy(rng.permutation(n)) for n in (len(rows), self.table.num_items - 1))
                for name, kind in blocks:
                    if kind == ITEM:
                        with exchanged_items(self.table, name, items, on_change=self._reread):
                            fallen = auc(rows)
                    else:
                        fallen = auc(exchanged_rows(rows, name, kind, order))
                    falls[name, kind].append(whole - fallen)
        found = [BlockFall(name, kind, tuple(values)) for (name, kind), values in falls.items()]
        return BlockImportance(split, len(rows), whole, sorted(found, key=lambda block: -block.mean))

    def _blocks(self) -> list[tuple[str, str]]:
        """Names and kinds of the blocks; a dataset without items has columns of samples alone."""
        specs = {name: spec for name, spec in self.feature_map.features.items() if spec["type"] != "meta"}
        behaviours = behaviours_of(self.feature_map)
        if not behaviours:
            return [(name, CONTEXT) for name in specs]
        blocks = [(name, CONTEXT) for name, spec in specs.items() if spec.get("source") not in ("item", "event")]
        blocks += [(behaviour, HISTORY) for behaviour in behaviours]
        blocks += [(name, EVENT) for name in event_names(self.feature_map)]
        return [*blocks, ("target item", TARGET), *((name, ITEM) for name in item_features(self.feature_map))]

    @torch.no_grad()
    def _scores(self, rows: Batch) -> np.ndarray:
        # Models that draw in scoring, as for the hashes of SDIM, draw the same in every pass.
        torch.manual_seed(self._seed)
        size, scores = self.experiment.params["batch_size"], []
        for start in range(0, len(rows), size):
            batch = rows.take(range(start, min(start + size, len(rows)))).to(self.model.device)
            scores.append(self.model(self.to_inputs(batch))["y_pred"].flatten().cpu())
        return torch.cat(scores).numpy()

    def _reread(self) -> None:
        """Clear what models of our zoo cache from the item table."""
        if hasattr(self.model, "attach"):
            self.model.attach(self.table)


def exchanged_rows(rows: Batch, name: str, kind: str, order: torch.Tensor) -> Batch:
    """The rows, with the values of one block taken from the rows in `order`.

    >>> from fuxictr_multimodal.data.batch import Jagged
    >>> rows = Batch({"level": torch.tensor([5, 6])}, torch.tensor([1, 2]), Jagged(torch.zeros(0), torch.zeros(3)))
    >>> changed = exchanged_rows(rows, "level", CONTEXT, torch.tensor([1, 0]))
    >>> changed.features["level"].tolist(), changed.target.tolist()
    ([6, 5], [1, 2])
    """
    if kind == HISTORY:
        if name == FIRST:
            return replace(rows, history=rows.history.take(order))
        return replace(rows, behaviours={**rows.behaviours, name: rows.behaviours[name].take(order)})
    if kind == EVENT:
        histories = {behaviour: _exchanged_events(of, name) for behaviour, of in rows.behaviours.items()}
        rows = replace(rows, history=_exchanged_events(rows.history, name), behaviours=histories)
        kind = CONTEXT
        if name not in rows.features:
            return rows
    if kind == TARGET:
        return replace(rows, target=rows.target[order])
    assert kind == CONTEXT, kind
    return replace(rows, features={**rows.features, name: rows.features[name][order]})


def _exchanged_events(history: Jagged, name: str) -> Jagged:
    """The history, with a feature of its events exchanged among them all."""
    if name not in history.events:
        return history
    order = torch.randperm(len(history.values), generator=torch.Generator().manual_seed(len(history)))
    return replace(history, events={**history.events, name: history.events[name][order]})


@contextmanager
def exchanged_items(
    table: ItemTable, name: str, order: torch.Tensor, *, on_change: Callable[[], None]
) -> Iterator[None]:
    """Let item i + 1 have the feature of item `order[i]` + 1 for a while; row 0 is padding and keeps its own.

    Args:
        table: changed in place.
        name: of the feature.
        order: of the items without row 0.
        on_change: called whenever the table has changed, the last time when all is as it was.
    """
    kept, of_folds = table.features[name], table.folds.get(name)
    rows = torch.cat([order.new_zeros(1), order + 1]).to(kept.device)
    table.features[name] = kept.index_select(0, rows)
    if of_folds is not None:
        table.folds[name] = of_folds.index_select(0, rows)
    table.forget()
    try:
        on_change()
        yield
    finally:
        table.features[name] = kept
        if of_folds is not None:
            table.folds[name] = of_folds
        table.forget()
        on_change()
