"""A few damages of each kind are refused by name; and the attack sees damages that the checks would let through."""

from __future__ import annotations

import pytest

from fuxictr_multimodal.data.store import ranges, store
from tests.torture import damage

# An export takes seconds; `make torture` makes it.
WITHOUT = ("export",)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    work = tmp_path_factory.mktemp("damage")
    with damage.quiet(work):
        return damage.Target.of(work)


def test_no_damage_passes(target, tmp_path):
    numbers = {"flipped": 8, "truncated": 3, "swapped": 8, "edited": 10, "resealed": 10}
    with damage.quiet(tmp_path):
        found = damage.attack_on(target, numbers=numbers, seed=1, work=tmp_path, without=WITHOUT)
    assert found["failed"] == []
    ends = [end for counts in found["ends"].values() for end in counts]
    assert {f"{name}: refused" for name in ("train", "predict", "predict new")} <= set(ends)


def test_damages_are_seen_where_nothing_is_checked(target, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "check_files", lambda *_: None)
    monkeypatch.setattr(ranges.Bounds, "first_outside", lambda *_: None)
    with damage.quiet(tmp_path):
        found = damage.attack_on(target, numbers={"edited": 1, "resealed": 3}, seed=1, work=tmp_path, without=WITHOUT)
    assert "train.h5: a label is the other one (recorded), train: silently wrong" in found["failed"][0]
    beyond = [line for line in found["failed"] if "a target is beyond the items" in line]
    assert "train: traceback: IndexError" in beyond[0]
