"""Codes of two builds of a dataset: matched by id, token or bin, and kept beside the runs."""

import json

import polars as pl
import pytest

from fuxictr_multimodal.data.store.held import HeldFolder
from fuxictr_multimodal.data.store.ids import IdMap, ids_name
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.data.store.store import Store
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.vocabularies import BUILDS_FOLDER, Vocabularies, build_folder, keep_build


def build(folder, *, tokens=None, ids=None, encoded=(), boundaries=None, **changes):
    """The files of a dataset that matter here."""
    folder.mkdir(parents=True)
    columns = {**(tokens or {}), **(ids or {}), **dict.fromkeys(encoded, range(9))}
    for name, edges in (boundaries or {}).items():
        columns[name] = {str(code): code for code in range(len(edges) + 3)}
    specs = [
        {"name": name, "active": True, "type": "categorical", **({"vocab_size": 9} if name in encoded else {})}
        for name in columns
    ]
    manifest = Manifest(
        **{
            "dataset_id": "shop", "max_len": 1, "group_id": None, "item_col": "item_id", "splits": {}, "columns": [],
            "item_columns": [], "items": 1, "split_method": "", "feature_cols": specs,
            "normalizers": {name: {"boundaries": edges} for name, edges in (boundaries or {}).items()},
            **changes,
        }
    )  # fmt: skip
    manifest.write(folder)
    features = [{name: {"type": "categorical", "vocab_size": len(values)}} for name, values in columns.items()]
    (folder / "feature_map.json").write_text(json.dumps({"features": features}))
    kept = {name: values for name, values in columns.items() if isinstance(values, dict)}
    (folder / "feature_vocab.json").write_text(json.dumps(kept))
    for name, values in (ids or {}).items():
        IdMap(pl.Series(values)).write(folder / ids_name(name))
    return Vocabularies(HeldFolder(folder), manifest)


def pairs(match):
    return list(zip(match.old.tolist(), match.new.tolist(), strict=True))


def test_codes_are_matched_by_what_they_stand_for(tmp_path):
    old = build(
        tmp_path / "old",
        tokens={"city": {"__PAD__": 0, "Bonn": 1, "Rome": 2, "__OOV__": 3}},
        ids={"item_id": [None, "a", "b", "c"], "shop": [7, 8]},
        encoded=("hour",),
        boundaries={"price": [1.0, 2.0], "age": [1.0]},
    )
    new = build(
        tmp_path / "new",
        tokens={"city": {"__PAD__": 0, "Oslo": 1, "Rome": 2, "Bonn": 3, "Nice": 4, "__OOV__": 5}},
        ids={"item_id": [None, "c", "d", "a"], "shop": ["8", "9"]},
        encoded=("hour",),
        boundaries={"price": [1.5, 2.5], "age": [1.0, 2.0]},
    )
    assert sorted(pairs(new.matched("city", old))) == [(0, 0), (1, 3), (2, 2), (3, 5)]
    assert pairs(new.matched("item_id", old)) == [(0, 0), (1, 3), (3, 1)]
    assert pairs(new.matched("shop", old)) == [(1, 0)]
    assert pairs(new.matched("hour", old)) == [(code, code) for code in range(9)]
    # Bins of other boundaries are as many: the second is the second. Of another number only equal tokens match.
    assert pairs(new.matched("price", old)) == [(code, code) for code in range(5)]
    assert len(new.matched("age", old).old) == 4
    other = build(tmp_path / "other", tokens={"item_id": {"__PAD__": 0, "a": 1}}, ids={"shop": [b"8"]})
    with pytest.raises(DataError, match=r"column 'item_id' has ids in dataset 'shop' .* and a vocabulary in dataset"):
        other.matched("item_id", old)
    with pytest.raises(
        DataError, match=r"column 'shop' of dataset 'shop' .*ids are Binary, but these values are Int64"
    ):
        other.matched("shop", old)


def test_codes_of_history_events_are_matched_by_category_or_bin(tmp_path):
    names = ("page", "age", "dwell", "hour", "rank")
    bins, categories = {"kind": "bins", "boundaries": [1.0]}, {"kind": "category", "vocabulary": ["1"]}
    old, new = (
        build(
            tmp_path / day,
            encoded=names,
            facts={"event_features": {
                "page": {"kind": "category", "vocabulary": pages},
                "age": {"kind": "age", "boundaries": ages},
                "dwell": {"kind": "bins", "boundaries": dwells},
                "hour": {"kind": "hour", "time_unit": "s"},
                "rank": rank,
            }},
        )
        for day, pages, ages, dwells, rank in (
            ("old", ["home", "shop", "unknown"], [1.0, 9.0], [2.0], bins),
            ("new", ["shop", "cart", "home", "help"], [2.0, 8.0], [2.0, 3.0], categories),
        )
    )  # fmt: skip
    # Missing, home, shop, unknown pages, and targets without a page.
    assert pairs(new.matched("page", old)) == [(0, 0), (1, 3), (2, 1), (4, 5), (5, 6)]
    assert pairs(new.matched("age", old)) == [(code, code) for code in range(5)]
    assert pairs(new.matched("dwell", old)) == [(0, 0), (3, 4)]
    assert pairs(new.matched("hour", old)) == [(code, code) for code in range(26)]
    assert pairs(new.matched("rank", old)) == [(0, 0), (3, 3)]
    encoded = build(tmp_path / "encoded", encoded=names)
    with pytest.raises(DataError, match=r"'page' has codes of its own in dataset 'shop' .* and a vocabulary in"):
        new.matched("page", encoded)


def test_a_build_is_kept_once_and_found_by_its_hash(tmp_path, caplog):
    data, runs = tmp_path / "data", tmp_path / "runs"
    runs.mkdir()
    old = build(data, ids={"item_id": [None, "a"], "user": [5]}, tokens={"city": {"Bonn": 1}})
    for _ in range(2):
        keep_build(Store(old.folder, old.manifest), runs)
    folder = build_folder(runs, old.manifest.hash)
    assert [path.name for path in (runs / BUILDS_FOLDER).iterdir()] == [folder.name]
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert kept == [
        "feature_map.json",
        "feature_vocab.json",
        "ids/item_id.parquet",
        "ids/user.parquet",
        "manifest.json",
    ]
    # The dataset is replaced by another build, or is gone.
    data.rename(tmp_path / "gone")
    build(data, ids={"item_id": [None, "b"]}, max_len=2)
    found = Vocabularies.of_build([data, tmp_path / "nowhere", folder], old.manifest.hash)
    assert found is not None
    assert found.folder.place == folder
    assert pairs(found.matched("item_id", found)) == [(0, 0), (1, 1)]
    assert IdMap.read(folder / ids_name("item_id")).ids.to_list() == [None, "a"]
    assert Vocabularies.of_build([data], old.manifest.hash) is None
    # What cannot be kept does not end a run.
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    keep_build(Store(found.folder, found.manifest), blocked)
    assert "cannot be written" in caplog.text
