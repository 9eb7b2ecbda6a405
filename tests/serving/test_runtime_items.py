"""Items that are added, changed and removed at run time, against a plain dictionary; rows of no version are reused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.serving.runtime import Ranker, Request, RequestError
from fuxictr_multimodal.serving.runtime.ids import LEAST_CHANGES, IdMap
from fuxictr_multimodal.serving.runtime.items import Catalogue
from fuxictr_multimodal.serving.runtime.storage import Rows, Stored, quantised
from tests.helpers.exported_folder import expected, made_item, write_folder

CONTEXT = {"user_id": "ann", "price": 3.0}
NAMES = [f"i{n}" for n in range(12)]
STEP = st.one_of(
    st.tuples(st.just("upsert"), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 999), max_size=6)),
    st.tuples(st.just("remove"), st.lists(st.sampled_from(NAMES), max_size=4)),
    st.tuples(st.just("rank"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=8)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("items") / "model", {name: made_item(i) for i, name in enumerate(NAMES[:5])}
    )


@pytest.fixture
def ranker(folder):
    return Ranker(folder, threads=1)


@given(steps=st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_changes_leaves_what_a_dictionary_has(folder, steps):
    ranker, items = Ranker(folder, threads=1), {name: made_item(i) for i, name in enumerate(NAMES[:5])}
    for kind, argument in steps:
        if kind == "upsert":
            known = sum(name in items for name in argument)
            found = ranker.upsert_items([made_item(number).raw(name) for name, number in argument.items()])
            assert found == (len(argument) - known, known)
            items |= {name: made_item(number) for name, number in argument.items()}
        elif kind == "remove":
            gone = {name for name in argument if name in items}
            assert ranker.remove_items(argument) == len(gone)
            items = {name: item for name, item in items.items() if name not in gone}
        else:
            found = ranker.rank(CONTEXT, argument, argument, events={"history": {"hour": [3] * len(argument)}})
            there = [name for name in argument if name in items]
            assert found.unknown == list(dict.fromkeys(name for name in argument if name not in items))
            assert found.unknown_history == len(argument) - len(there)
            history = [items[name] for name in there][-5:]
            want = expected(
                [items[name] for name in there], user="ann", price=3.0, history=history, hours=[3] * len(history)
            )
            order = np.argsort(-want, kind="stable")
            np.testing.assert_allclose(found.scores, want[order], atol=1e-6)
        assert len(ranker) == len(items)
        assert {name for name in NAMES if name in ranker} == set(items)


def test_a_thousand_new_items_are_ranked_at_once(ranker):
    fresh = {f"new {n}": made_item(1000 + n) for n in range(1000)}
    before = ranker.version
    assert ranker.upsert_items([item.raw(name) for name, item in fresh.items()]) == (1000, 0)
    assert ranker.version != before
    assert len(ranker) == 1005
    scores = ranker.score(Request(CONTEXT, (), list(fresh))).scores
    np.testing.assert_allclose(scores, expected(list(fresh.values()), user="ann", price=3.0), atol=1e-6)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"kind": "film", "emb": [0.0] * 4}], "item 0 of the list has no 'item_id'"),
        ([made_item(1).raw("new"), made_item(2).raw("new")], "item 'new' is given twice"),
        ([made_item(1).raw(None)], "item_id: None is no id"),
        ("new", "items must be a list"),
        (["new"], "item 0 of the list must map names to values"),
    ],
)
def test_wrong_items_change_nothing(ranker, items, message):
    before = ranker.version
    with pytest.raises(RequestError, match=message):
        ranker.upsert_items(items)
    assert (ranker.version, len(ranker)) == (before, 5)


def test_what_does_not_fit_the_stored_type_is_refused(tmp_path):
    ranker = Ranker(write_folder(tmp_path / "m", {"a": made_item(1)}, storage="float16"), threads=1)
    with pytest.raises(RequestError, match="does not fit float16"):
        ranker.upsert_items([{"item_id": "b", "kind": "film", "emb": [1e6, 0, 0, 0]}])
    assert "b" not in ranker


def test_nothing_to_change_is_no_change(ranker):
    before = ranker.version
    assert ranker.upsert_items([]) == (0, 0)
    assert ranker.remove_items([]) == 0
    assert ranker.remove_items(["nope"]) == 0
    assert ranker.version == before


def catalogue(number):
    ids = [None, *(f"i{n}" for n in range(number))]
    rows = np.arange(number + 1, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return Catalogue(IdMap.of(ids), {"v": Stored(Rows.of(rows))}, number + 1)


def values(version, keys):
    return version.arrays["v"].gather(version.ids.rows(keys))[:, 0].tolist()


def filled(numbers):
    return {"v": np.array(numbers, np.float32)[:, None] * np.ones(3, np.float32)}


def test_a_version_in_use_never_changes():
    items = catalogue(50)
    held, keys = [], [f"i{n}" for n in range(50)]
    numbers = np.random.default_rng(0)
    want = dict(zip(keys, range(1, 51), strict=True))
    for step in range(300):
        some = [str(key) for key in numbers.choice([*keys, *(f"new {n}" for n in range(40))], 8, replace=False)]
        if step % 3 == 2:
            items.remove(some)
            want = {key: value for key, value in want.items() if key not in some}
        else:
            items.upsert(some, filled([step * 100 + n for n in range(8)]))
            want = want | {key: step * 100 + n for n, key in enumerate(some)}
        held.append((items.version, dict(want)))
        if step % 7 == 0:
            # Some requests end early, some late.
            del held[int(numbers.integers(0, len(held)))]
        for version, then in held:
            assert version.ids.size == len(then)
            assert values(version, list(then)) == list(then.values())


def test_a_version_keeps_its_rows_though_the_next_one_gave_none_up():
    items = catalogue(5)
    held = items.version
    items.upsert(["new"], filled([100]))
    items.upsert(["i3"], filled([200]))
    items.upsert(["newer"], filled([300]))
    assert values(held, ["i3"]) == [4]
    assert values(items.version, ["new", "i3", "newer"]) == [100, 200, 300]


def test_rows_are_used_again_once_no_version_has_them():
    items = catalogue(10)
    for step in range(500):
        items.upsert(["i3", "i4"], filled([step, step]))
        items.remove(["i5"])
        items.upsert(["i5"], filled([step]))
    assert values(items.version, ["i3", "i4", "i5", "i6"]) == [499, 499, 499, 7]
    assert items._size <= 11 + 6


def test_the_loaded_rows_are_never_copied():
    items = catalogue(1000)
    base = items.version.arrays["v"].rows.base
    for step in range(20):
        items.upsert([f"new {step * 200 + n}" for n in range(200)], filled(range(200)))
    assert items.version.arrays["v"].rows.base is base
    assert len(items.version.arrays["v"].rows.tail) <= 2 * 4000


def test_many_changes_are_merged_and_a_few_are_not():
    ids = IdMap.of([None, *range(1, 100)])
    few = ids.changed({7: -1, 200: 100}, size=99)
    assert few.base is ids.base
    assert few.rows([7, 200, 8]).tolist() == [-1, 100, 8]
    many = few.changed({1000 + n: 101 + n for n in range(LEAST_CHANGES)}, size=99 + LEAST_CHANGES)
    assert not many.changes
    assert len(many.base) == many.size
    assert many.rows([7, 200, 8, 1001]).tolist() == [-1, 100, 8, 102]
    assert ids.rows([7, 200]).tolist() == [7, -1]


@given(st.integers(0, 2**32 - 1))
def test_int8_is_off_by_at_most_half_a_scale(seed):
    numbers = np.random.default_rng(seed)
    rows = (numbers.normal(size=(6, 3, 5)) * 10.0 ** numbers.integers(-6, 6, (6, 1, 1))).astype(np.float32)
    kept, scale = quantised(rows)
    stored = Stored(Rows.of(kept), Rows.of(scale))
    found = stored.gather(np.arange(6))
    assert found.dtype == np.float32
    assert scale.shape == (6, 1)
    assert (np.abs(found - rows) <= 0.501 * scale[:, :, None]).all()
