"""The ranker's answers against the closed form of the graph that it runs."""

import numpy as np
import pytest

from fuxictr_multimodal.scoring.calibration import Calibration
from fuxictr_multimodal.serving.runtime import Ranker, Request
from tests.helpers.exported_folder import expected, made_item, write_folder

ITEMS = {f"i{n}": made_item(n) for n in range(40)}
CONTEXT = {"user_id": "ann", "price": 3.0}
HISTORY = ["i1", "i2", "i3"]
HOURS = [4, 0, 23]
WHOLE = Request(
    context=CONTEXT,
    history=HISTORY,
    candidates=[f"i{n}" for n in range(10, 30)],
    behaviours={"carts": ["i9", "i8"]},
    events={"history": {"hour": HOURS}},
)


def of(ids):
    return [ITEMS[i] for i in ids]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return Ranker(write_folder(tmp_path_factory.mktemp("ranker") / "model", ITEMS), threads=1)


def closed_form(candidates):
    return expected(of(candidates), user="ann", price=3.0, history=of(HISTORY), hours=HOURS, carts=of(["i9", "i8"]))


def test_scores_are_those_of_the_formula_in_the_order_of_the_candidates(ranker):
    found = ranker.score(WHOLE)
    np.testing.assert_allclose(found.scores, closed_form(WHOLE.candidates), atol=1e-6)
    assert (found.unknown, found.unknown_history) == ([], 0)


def test_the_best_come_first(ranker):
    scores = dict(zip(WHOLE.candidates, closed_form(WHOLE.candidates), strict=True))
    order = sorted(scores, key=lambda i: -scores[i])
    for k in (1, 3, 19, 20, 50, None):
        found = ranker.rank(WHOLE, k=k)
        assert found.items == order[:k]
        np.testing.assert_allclose(found.scores, [scores[i] for i in order[:k]], atol=1e-6)


def test_a_request_may_be_given_by_its_parts(ranker):
    whole = ranker.rank(WHOLE, k=4)
    rest = {"behaviours": WHOLE.behaviours, "events": WHOLE.events}
    by_place = ranker.rank(CONTEXT, HISTORY, WHOLE.candidates, 4, **rest)
    by_name = ranker.rank(context=CONTEXT, history_item_ids=HISTORY, candidate_ids=WHOLE.candidates, k=4, **rest)
    of_arrays = ranker.rank(CONTEXT, np.array(HISTORY), np.array(WHOLE.candidates), 4, **rest)
    for other in (by_place, by_name, of_arrays):
        assert other.items == whole.items
        np.testing.assert_array_equal(other.scores, whole.scores)


def test_equal_scores_keep_the_order_of_the_candidates(ranker):
    candidates = ["i5", "i7"] * 50
    first, second = (
        ("i5", "i7") if np.greater(*ranker.score(Request(CONTEXT, (), candidates)).scores[:2]) else ("i7", "i5")
    )
    for k in (2, 3, 60, None):
        assert ranker.rank(CONTEXT, (), candidates, k).items == ([first] * 50 + [second] * 50)[:k]
    # One item under two ids shows the places.


def test_unknown_candidates_are_scored_as_padding_and_not_ranked(ranker):
    request = Request(CONTEXT, ["i1"], ["nope", "i5", "gone", "nope"], events={"history": {"hour": [2]}})
    scores = ranker.score(request)
    assert scores.unknown == ["nope", "gone"]
    assert scores.scores[0] == scores.scores[2] == scores.scores[3]
    # The padding item's vector is zero.
    assert scores.scores[0] == pytest.approx(1 / (1 + np.exp(-0.3)), rel=1e-6)
    ranked = ranker.rank(request)
    assert (ranked.items, ranked.unknown) == (["i5"], ["nope", "gone"])
    assert ranked.scores[0] == scores.scores[1]


def test_unknown_history_items_are_left_out_with_their_events(ranker):
    request = Request(CONTEXT, ["i1", "nope", "i2"], ["i5"], events={"history": {"hour": [4, 9, 0]}})
    found = ranker.score(request)
    assert found.unknown_history == 1
    want = expected(of(["i5"]), user="ann", price=3.0, history=of(["i1", "i2"]), hours=[4, 0])
    np.testing.assert_allclose(found.scores, want, atol=1e-6)


@pytest.mark.parametrize(("padding", "fixed_slots"), [("pre", None), ("post", None), ("pre", 7), ("post", 5)])
def test_histories_are_cut_to_the_newest_and_filled_up(tmp_path, padding, fixed_slots):
    ranker = Ranker(write_folder(tmp_path / "m", ITEMS, padding=padding, fixed_slots=fixed_slots, max_len=5), threads=1)
    for length in (0, 1, 4, 5, 6, 30):
        history, hours = [f"i{n}" for n in range(length)], list(range(length))
        hours = [hour % 24 for hour in hours]
        found = ranker.score(Request(CONTEXT, history, ["i30", "i31"], events={"history": {"hour": hours}}))
        kept, kept_hours = of(history[-5:]), hours[-5:]
        want = expected(of(["i30", "i31"]), user="ann", price=3.0, history=kept, hours=kept_hours)
        np.testing.assert_allclose(found.scores, want, atol=1e-6)


def test_a_history_of_unknown_items_only_is_an_empty_one(ranker):
    request = Request(CONTEXT, ["x", "y"], ["i5"], events={"history": {"hour": [1, 2]}})
    found = ranker.score(request)
    assert found.unknown_history == 2
    np.testing.assert_array_equal(found.scores, ranker.score(Request(CONTEXT, [], ["i5"])).scores)


def test_without_candidates_the_answer_is_empty(ranker):
    ranked, scores = ranker.rank(CONTEXT, HISTORY[:0], []), ranker.score(Request(CONTEXT))
    assert (ranked.items, ranked.scores.shape, scores.scores.shape) == ([], (0,), (0,))
    assert ranker.rank(CONTEXT, (), ["nope"]).unknown == ["nope"]


def test_a_new_user_is_out_of_the_vocabulary(ranker):
    found = ranker.score(Request({"user_id": "somebody new", "price": 0.0}, (), ["i5"]))
    np.testing.assert_allclose(found.scores, expected(of(["i5"])), atol=1e-6)


@pytest.mark.parametrize(("storage", "limit"), [("float16", 2e-3), ("int8", 3e-2)])
def test_narrow_catalogues_are_widened(tmp_path, storage, limit):
    folder = write_folder(tmp_path / "m", ITEMS, storage=storage)
    ranker = Ranker(folder, threads=1)
    found = ranker.score(WHOLE)
    np.testing.assert_allclose(found.scores, closed_form(WHOLE.candidates), atol=limit)
    assert np.abs(found.scores - closed_form(WHOLE.candidates)).max() > 1e-6
    # What is added at run time is stored as what was exported.
    ranker.upsert_items([ITEMS[i].raw(f"again {i}") for i in WHOLE.candidates])
    again = ranker.score(Request(**{**vars(WHOLE), "candidates": [f"again {i}" for i in WHOLE.candidates]}))
    np.testing.assert_array_equal(again.scores, found.scores)


def test_whole_numbers_and_their_texts_are_one_id(tmp_path):
    items = {n: made_item(n) for n in range(1, 20)}
    ranker = Ranker(write_folder(tmp_path / "m", items), threads=1)
    want = ranker.score(Request(CONTEXT, (), [7, 12])).scores
    for same in (["7", "12"], [7.0, 12.0], np.array([7, 12], np.int32), np.array([7.0, 12.0]), [np.int64(7), "12"]):
        found = ranker.score(Request(CONTEXT, (), same))
        assert found.unknown == []
        np.testing.assert_array_equal(found.scores, want)
    strange = ["007", " 7", "+7", "7.0", "", "-7", "\u0667", "9" * 5000, 2**80, 0]
    assert ranker.score(Request(CONTEXT, (), strange)).unknown == strange
    assert [one in ranker for one in (7, "7", 0, None, [7])] == [True, True, False, False, False]


def test_texts_are_found_by_numbers_too(tmp_path):
    ranker = Ranker(write_folder(tmp_path / "m", {"7": made_item(7), "007": made_item(8)}), threads=1)
    assert ranker.rank(CONTEXT, (), [7, "007", 8]).unknown == [8]


def test_scores_are_calibrated(tmp_path):
    platt = {"method": "platt", "numbers": {"slope": 0.7, "intercept": -1.5}}
    steps = {
        "method": "isotonic",
        "numbers": {"scores": [0.1, 0.5, 0.5001, 1.0], "probabilities": [0.2, 0.2, 0.6, 0.6]},
    }
    raw = Ranker(write_folder(tmp_path / "raw", ITEMS), threads=1)
    for name, calibration in (("platt", platt), ("isotonic", steps)):
        ranker = Ranker(write_folder(tmp_path / name, ITEMS, calibration=calibration), threads=1)
        want = Calibration(**calibration).apply(raw.score(WHOLE).scores)
        np.testing.assert_array_equal(ranker.score(WHOLE).scores, want)
        # Steps make scores equal; the order stays that of the model.
        found = ranker.rank(WHOLE, k=8)
        assert found.items == raw.rank(WHOLE, k=8).items
        assert (np.diff(found.scores) <= 0).all()
