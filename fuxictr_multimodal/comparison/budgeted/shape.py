"""The shape of a dataset: the counts by which settings are chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.manifest import SplitCounts
from fuxictr_multimodal.errors import DataError

# A feature whose vocabulary is about as large as the number of users names the users.
USER_VOCABULARY = (0.5, 1.2)


@dataclass(frozen=True)
class Shape:
    """Counts of a dataset.

    Attributes:
        rows: samples of train.
        valid_rows: of valid.
        test_rows: of test.
        positives: samples of train with label 1.
        items: items of the item table, without padding; 0 where the dataset has none.
        mean_history: items of a history of train, on average; 0 where there are no histories.
        groups: users of test, or None where the dataset has no group column.
        item_id: the feature that is the item's own id, if the models read it.
        item_tags: sequences among the features of items, with the sizes of their vocabularies.
        item_content: features of items beside the id.
        item_vectors: pretrained embeddings among them.
        user: the categorical feature that names the user, if there is one, with the size of its vocabulary.
        known_users: fraction of the samples of valid whose user occurs in train; None where the dataset names no users.
        events: whether the items of histories have event features, such as their age.
        history_columns: whether histories are columns of the samples, as in FuxiCTR's flat form.
    """

    rows: int
    valid_rows: int
    test_rows: int
    positives: int
    items: int
    mean_history: float = 0.0
    groups: int | None = None
    item_id: str | None = None
    item_tags: tuple[tuple[str, int], ...] = ()
    item_content: tuple[str, ...] = ()
    item_vectors: tuple[str, ...] = ()
    user: tuple[str, int] | None = None
    known_users: float | None = None
    events: bool = False
    history_columns: bool = False

    @property
    def informative_rows(self) -> int:
        """Samples of train, fewer where one of the labels is rare: ten of the other one for each of it.

        >>> Shape(1_000_000, 1, 1, positives=2_000, items=9).informative_rows
        20000
        """
        return max(1, min(self.rows, 10 * min(self.positives, self.rows - self.positives)))

    @classmethod
    def of(cls, store: Store) -> Shape:
        """Read the counts of a dataset.

        Raises:
            DataError: models cannot be compared on it: a split or its labels are missing, or all labels are the same.
        """
        manifest = store.manifest
        train, valid, test = (_labelled(store, split) for split in ("train", "valid", "test"))
        inputs = [column for column in manifest.feature_cols if column["type"] != "meta"]
        of_items = [column for column in inputs if column.get("source") == "item"]
        user = _user_feature(store, train)
        length = train.history_length
        return cls(
            rows=train.rows,
            valid_rows=valid.rows,
            test_rows=test.rows,
            positives=train.positives or 0,
            items=max(0, manifest.items - 1) if manifest.item_col else 0,
            mean_history=length.mean if length else 0.0,
            groups=test.users,
            item_id=next((c["name"] for c in of_items if c["name"] == manifest.item_col), None),
            item_tags=tuple(
                (c["name"], c["vocab_size"]) for c in of_items if c["type"] == "sequence" and c.get("vocab_size")
            ),
            item_content=tuple(c["name"] for c in of_items if c["name"] != manifest.item_col),
            item_vectors=tuple(c["name"] for c in of_items if c["type"] == "embedding"),
            user=user,
            known_users=_known_fraction(store, user[0] if user else manifest.group_id),
            events=bool(manifest.event_columns),
            history_columns=any(
                c["type"] == "sequence" and c.get("share_embedding") and c.get("source") != "item" for c in inputs
            ),
        )


def _labelled(store: Store, split: str) -> SplitCounts:
    counts = store.manifest.splits.get(split)
    name = store.manifest.dataset_id
    use = {
        "train": "models learn from it",
        "valid": "settings are selected on it",
        "test": "models are ranked on it; run_expid.py trains without it, and run_param_tuner.py tunes without it",
    }[split]
    if counts is None:
        raise DataError(f"dataset {name!r} has no split {split!r}, and {use}: build it with one")
    if counts.positives is None:
        raise DataError(f"dataset {name!r}: the split {split!r} has no labels, and {use}: build it with labels")
    if counts.positives in (0, counts.rows):
        raise DataError(
            f"dataset {name!r}: all {counts.rows:,} labels of the split {split!r} are "
            f"{int(counts.positives > 0)}, and {use}: build it with both labels in each split"
        )
    return counts


def _user_feature(store: Store, train: SplitCounts) -> tuple[str, int] | None:
    """A categorical feature of the samples with about as many values as there are users."""
    if not train.users:
        return None
    in_splits = {column.name for column in store.manifest.columns if column.role == "context" and not column.shape}
    least, most = (factor * train.users for factor in USER_VOCABULARY)
    for column in store.manifest.feature_cols:
        size = column.get("vocab_size") or 0
        if column["type"] == "categorical" and column["name"] in in_splits and max(least, 20) <= size <= most + 20:
            return column["name"], size
    return None


def _known_fraction(store: Store, name: str | None) -> float | None:
    if name not in {column.name for column in store.manifest.columns if not column.shape}:
        return None
    with store.reader("train") as train, store.reader("valid") as valid:
        known = np.unique(train.read(name, 0, train.rows))
        return float(np.isin(valid.read(name, 0, valid.rows), known).mean())
