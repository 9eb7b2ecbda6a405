"""The manifest: one JSON file, equal for equal metadata, refused when it is not ours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.store.manifest import Column, HistoryLength, Manifest, SplitCounts
from fuxictr_multimodal.errors import DataError

FACTS = SplitCounts(10, 3, 4, 5, HistoryLength(1.5, 1, 3, 4), 0.625)
MANIFEST = Manifest(
    dataset_id="tiny",
    max_len=4,
    group_id="user_id",
    item_col="item_id",
    splits={"train": FACTS, "test": dataclasses.replace(FACTS, positives=None, users=None)},
    columns=[Column("label", "uint8", "label"), Column("words", "int32", "context", (3,))],
    item_columns=[Column("item_id", "int32", "item")],
    items=6,
    split_method="by time",
)


def test_round_trip(tmp_path):
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST
    assert Manifest.read(tmp_path).hash == MANIFEST.hash
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_hash_follows_the_metadata():
    assert MANIFEST.hash == dataclasses.replace(MANIFEST).hash
    assert MANIFEST.hash != dataclasses.replace(MANIFEST, max_len=5).hash


def test_table_names_every_split():
    lines = MANIFEST.table().splitlines()
    assert lines[0] == "tiny: 5 items, max_len 4, by time"
    assert lines[2].split() == ["train", "10", "30.00%", "4", "5", "1.50", "1", "3", "4", "62.5%"]
    assert lines[3].split()[:3] == ["test", "10", "unlabelled"]


@given(st.lists(st.integers(0, 9), min_size=1))
def test_history_statistics_are_exact(lengths):
    found = HistoryLength.from_counts(np.bincount(lengths, minlength=12))
    assert found.mean == sum(lengths) / len(lengths)
    assert found.max == max(lengths)
    # By counting: the smallest length that covers the share.
    for percent, value in [(50, found.p50), (95, found.p95)]:
        assert sum(length <= value for length in lengths) * 100 >= percent * len(lengths)
        assert sum(length < value for length in lengths) * 100 < percent * len(lengths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "manifest.json is missing: build the dataset first"),
        ("{", "manifest.json is damaged"),
        ("[]", "format_version None, but this release reads 1"),
        ('{"format_version": 1}', "manifest.json is damaged"),
        ('{"format_version": 1, "splits": {}, "columns": [], "item_columns": []}', "manifest.json is damaged"),
        ('{"format_version": 1, "splits": [], "columns": [], "item_columns": []}', "manifest.json is damaged"),
    ],
)
def test_what_is_no_manifest(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Manifest.read(tmp_path)
