"""What a trained model attends to: weights of the history items of a row, and how sparse they are over a split.

A model is supported if it has a method `attention_weights(batch)` that returns a weight for every history item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.item_table import item_features
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.recipes.raw_tables import refuse_repeated
from fuxictr_multimodal.data.store import Store, read_item_titles
from fuxictr_multimodal.data.store.encoding import FEATURE_VOCAB_NAME
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.manifest import read_json
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.untrusted.parquet import check_parquet
from fuxictr_multimodal.text.decoding import to_utf8
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trained import load_trained


@dataclass(frozen=True)
class RowExplanation:
    """One row: what was scored, and the weight of every history item, newest last.

    Attributes:
        row: number of the row in its split.
        group: its group id (a user), as the user knows it, or None.
        target: item that was scored.
        score: the model's, a probability in classification.
        label: None if the split has none.
        items: history items, newest last.
        weights: of the items, in the same order.
    """

    row: int
    group: Any
    target: int
    score: float
    label: float | None
    items: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Sparsity:
    """Weights of the rows of a split whose history has `shortest` to `longest` items."""

    shortest: int
    longest: int
    rows: int
    items: int
    zeros: int
    rows_all_zero: int

    @property
    def share_of_zeros(self) -> float:
        """Fraction of history items with a weight of exactly 0."""
        return self.zeros / self.items

    def as_dict(self) -> dict[str, float | int]:
        """The numbers by name, for JSON."""
        return {**vars(self), "share_of_zeros": self.share_of_zeros}


class Explainer:
    """A trained experiment whose attention weights can be read.

    Args:
        experiment: loaded; its checkpoint must be there.

    Raises:
        ConfigError: the model has no attention weights to show.
        DataError: it is not trained, or on another build of the dataset.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        seed_everything(seed=experiment.params["seed"])
        self.feature_map = experiment.feature_map()
        self.model, self.to_inputs = experiment.build_model(self.feature_map)
        if not hasattr(self.model, "attention_weights"):
            raise ConfigError(
                f"{type(self.model).__name__} has no method attention_weights, so it cannot be explained; QIN has one"
            )
        if experiment.store.manifest.item_col is None:
            raise ConfigError(
                f"dataset {experiment.store.manifest.dataset_id!r} has no items, whose weights could be shown: add "
                "`item_data` and `history_col` to its entry"
            )
        load_trained(experiment, self.model)
        self.model.eval()
        group = experiment.store.manifest.group_id
        self._group_ids = None if group is None else experiment.store.ids(group)

    def row(self, split: str, number: int) -> RowExplanation:
        """Explain one row of a split.

        Raises:
            DataError: there is no such split or row.
        """
        loader = self._loader(split)
        if not 0 <= number < loader.num_samples:
            raise DataError(f"--row {number}: the split {split!r} has rows 0 to {loader.num_samples - 1}")
        for start, batch in self._batches(loader):
            if number < start + len(batch):
                at = number - start
                return self._explain(batch.take(range(at, at + 1)), [number])[0]
        raise AssertionError("the loader yields num_samples rows")

    def user(self, split: str, group: Any, *, limit: int | None = None) -> list[RowExplanation]:
        """Explain the rows of one group, for example of a user, in the order of the split.

        Args:
            split: to read.
            group: the user's own id, a number or text.
            limit: rows at most.

        Raises:
            DataError: the split has no such group, or the dataset no groups.
        """
        found: list[RowExplanation] = []
        code = self._code(group)
        for start, batch in self._batches(self._loader(split)):
            if batch.group is None:
                raise DataError(f"dataset {self.experiment.params['dataset_id']!r} has no group_id: choose a --row")
            at = (batch.group == code).nonzero().flatten().cpu()
            if len(at):
                found += self._explain(batch.take(at), (start + at).tolist())
            if limit is not None and len(found) >= limit:
                return found[:limit]
        if not found:
            raise DataError(f"--user {group}: the split {split!r} has no sample of this group")
        return found

    def sparsity(self, split: str) -> list[Sparsity]:
        """Count the weights that are exactly 0, by length of the history in powers of two: 1, 2, 3-4, 5-8, ..."""
        counts: dict[int, np.ndarray] = {}
        for _, batch in self._batches(self._loader(split)):
            weights = self.model.attention_weights(batch)
            rows = weights.row_index()
            zeros_B = torch.zeros(len(batch), dtype=torch.int64, device=rows.device)
            zeros_B.index_add_(0, rows, (weights.values == 0).long())
            lengths, zeros = weights.lengths.cpu().numpy(), zeros_B.cpu().numpy()
            bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
            for index in np.unique(bins[lengths > 0]).tolist():
                chosen = (bins == index) & (lengths > 0)
                length, zero = lengths[chosen], zeros[chosen]
                count = np.array([len(length), length.sum(), zero.sum(), (zero == length).sum()])
                counts[index] = counts.get(index, 0) + count
        return [
            Sparsity((1 << index) // 2 + 1 if index else 1, 1 << index, *map(int, counts[index]))
            for index in sorted(counts)
        ]

    def _code(self, group: Any) -> int:
        """The code of a group in the dataset; -1, which no sample has, for one that is not known."""
        if self._group_ids is not None:
            return int(self._group_ids.codes(pl.Series([group]))[0])
        try:
            return int(group)
        except ValueError:
            raise DataError(f"--user {group}: the groups of this dataset are whole numbers") from None

    def _group(self, code: int) -> Any:
        return code if self._group_ids is None else self._group_ids.ids[code]

    def _explain(self, batch: Batch, numbers: Sequence[int]) -> list[RowExplanation]:
        with torch.no_grad():
            scores = self.model(self.to_inputs(batch))["y_pred"].flatten().tolist()
        weights = self.model.attention_weights(batch)
        label = batch.features.get(self.feature_map.labels[0])
        found = []
        for at, number in enumerate(numbers):
            span = slice(*batch.history.offsets[at : at + 2].tolist())
            found.append(
                RowExplanation(
                    row=number,
                    group=None if batch.group is None else self._group(int(batch.group[at])),
                    target=int(batch.target[at]),
                    score=scores[at],
                    label=None if label is None else float(label[at]),
                    items=batch.history.values[span].tolist(),
                    weights=weights.values[span].tolist(),
                )
            )
        return found

    def _loader(self, split: str) -> MultimodalDataLoader:
        return self.experiment.split_loader(split, self.feature_map, self.model.device)

    @staticmethod
    def _batches(loader: MultimodalDataLoader) -> Iterator[tuple[int, Batch]]:
        start = 0
        for batch in loader:
            yield start, batch
            start += len(batch)


class ItemNames:
    """Display names of items: the title if there is one, and tags by name if the vocabulary has them.

    Args:
        store: the dataset, with titles if its recipe had them.
        feature_map: says which item features are tags.
        table: the item table's features by name.
        titles: by item, in place of the dataset's.
    """

    def __init__(
        self, store: Store, feature_map: Any, table: dict[str, Any], titles: dict[int, str] | None = None
    ) -> None:
        self._titles = store.read(read_item_titles) if titles is None else titles
        self._ids = item_ids(store)
        specs = feature_map.features
        self._tags = {name: table[name] for name in item_features(feature_map) if specs[name]["type"] == "sequence"}
        vocab = store.read(_vocabularies)
        self._names = {name: {index: word for word, index in vocab.get(name, {}).items()} for name in self._tags}

    def __call__(self, item: int) -> str:
        """For example `Toy Story (Comedy, Animation)`, or `item 31 (item_tags 4, 7)`, with the user's id if known."""
        title = self._titles.get(item) or f"item {item if self._ids is None else self._ids.ids[item]}"
        parts = []
        for name, values in self._tags.items():
            ids = [int(tag) for tag in values[item] if tag]
            words = [self._names[name].get(tag, str(tag)) for tag in ids]
            if words:
                numbers = words == [str(tag) for tag in ids]
                parts.append((f"{name} " if numbers else "") + ", ".join(words))
        return f"{title} ({'; '.join(parts)})" if parts else title


def _vocabularies(folder: Path) -> dict[str, dict[str, int]]:
    file = folder / FEATURE_VOCAB_NAME
    return read_json(file) if file.is_file() else {}


def item_ids(store: Store) -> IdMap | None:
    """The user's own ids of the items, where the dataset keeps them."""
    return None if store.manifest.item_col is None else store.ids(store.manifest.item_col)


def read_titles(path: Path, ids: IdMap | None = None) -> dict[int, str]:
    """Titles by item, from the columns `item_id` (or `item`) and `title` of a csv, tsv or parquet file.

    Args:
        path: of the file.
        ids: the user's own ids, where the file has these; items that it does not know are left out.

    Raises:
        DataError: the file is missing or has no such columns.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"--titles {path} {what}")
    try:
        if path.suffix.lower() == ".parquet":
            check_parquet(path, whole=True)
            # On a damaged file the reader of polars may end the process.
            frame = pl.read_parquet(path, use_pyarrow=True)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            content = to_utf8(path.read_bytes(), where=str(path))
            frame = pl.read_csv(content, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"--titles {path} cannot be read as a table: {reason}") from None
    # Blank lines, such as those at the end of a csv file, are rows without any value.
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    key = next((name for name in ("item_id", "item") if name in frame.columns), None)
    title = next((name for name in ("title", "item_title") if name in frame.columns), None)
    if key is None or title is None:
        raise DataError(f"{path} has the columns {', '.join(frame.columns)}: item_id (or item) and title are needed")
    for name in (key, title):
        refuse_repeated(name, frame.columns, str(path))
    texts = frame[title].cast(pl.String).fill_null("").to_list()
    if ids is not None:
        return {code: text for code, text in zip(ids.codes(frame[key]).tolist(), texts, strict=True) if code > 0}
    items = frame[key].cast(pl.Int64, strict=False)
    if items.null_count():
        raise DataError(f"{path}, row {items.is_null().arg_true()[0] + 1}: {key} is not a whole number")
    return dict(zip(items.to_list(), texts, strict=True))
