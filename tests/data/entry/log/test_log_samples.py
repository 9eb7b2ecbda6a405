"""Samples of a log against loops that read like the definition, and without a look ahead whatever the log is."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry.log.samples import LogSamples
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.logs import choices, history_of, read, rows_of

USERS, ITEMS = ["u0", "u1", "u2", "u3", "u4", "u5"], [f"i{n}" for n in range(60)]


@pytest.fixture(params=range(3))
def log(request) -> list[dict]:
    """A small log in random order with many equal times."""
    rng = np.random.default_rng(request.param)
    return [
        {
            "user": str(rng.choice(USERS)),
            "item": str(rng.choice(ITEMS)),
            "time": int(rng.integers(0, 30)),
            "rating": int(rng.integers(1, 6)),
            "action": str(rng.choice(["click", "cart", "buy"])),
        }
        for _ in range(150)
    ]


def made(log: list[dict], **given) -> list[dict]:
    chosen = choices(**given)
    return rows_of(LogSamples(read(pl.DataFrame(log), chosen), chosen, where="log"))


def cut_by_time(times: list[int], *, valid: float, test: float) -> tuple[int, int]:
    """The last time of train and of valid."""
    in_order = sorted(times)
    wanted = [math.ceil(round(part * len(times), 6)) for part in (1 - valid - test, 1 - test)]
    return in_order[wanted[0] - 1], in_order[wanted[1] - 1]


@pytest.mark.parametrize("history", ["positive", "all"])
def test_labelled_events_are_samples_with_the_earlier_events_of_their_user(log, history):
    samples = made(log, label="rating", positive=">= 4", history=history, max_len=3)
    first, second = cut_by_time([event["time"] for event in log], valid=0.2, test=0.2)
    assert sorted(sample["event"] for sample in samples) == list(range(len(log)))
    keep = [history == "all" or event["rating"] >= 4 for event in log]
    for sample in samples:
        event = log[sample["event"]]
        assert (sample["user"], sample["item"]) == (event["user"], event["item"])
        assert sample["label"] == (event["rating"] >= 4)
        assert sample["split"] == (
            "train" if event["time"] <= first else "valid" if event["time"] <= second else "test"
        )
        wanted = history_of(log, sample["event"], keep=keep, max_len=3)
        assert sample["history"] == [log[other]["item"] for other in wanted]


def test_a_log_without_times_uses_the_order_of_its_rows(log):
    samples = made([{**event, "time": 0} for event in log], time=None, label="rating", positive="> 3", max_len=50)
    ordered = [{**event, "time": row} for row, event in enumerate(log)]
    keep = [event["rating"] > 3 for event in log]
    for sample in samples:
        wanted = history_of(ordered, sample["event"], keep=keep, max_len=50)
        assert sample["history"] == [log[other]["item"] for other in wanted]
    assert [sample["event"] for sample in samples] == list(range(len(log)))


def test_each_behaviour_has_its_history_and_only_the_target_behaviour_is_predicted(log):
    samples = made(
        log,
        behaviour="action",
        target_behaviour="buy",
        behaviours=["click", "cart"],
        negatives={"ratio": 1},
        max_len=4,
    )
    positives = [sample for sample in samples if sample["label"]]
    assert sorted(s["event"] for s in positives) == [row for row, e in enumerate(log) if e["action"] == "buy"]
    for sample in samples:
        for name, kind in (("history", "click"), ("cart", "cart")):
            wanted = history_of(log, sample["event"], keep=[e["action"] == kind for e in log], max_len=4)
            assert sample[name] == [log[other]["item"] for other in wanted]


def test_users_are_in_one_split_each(log):
    samples = made(log, label="rating", split={"by": "user", "valid": 0.34, "test": 0.17, "seed": 5})
    of = {}
    for sample in samples:
        assert of.setdefault(sample["user"], sample["split"]) == sample["split"]
    assert sorted(of.values()) == ["test", "train", "train", "train", "valid", "valid"]
    again = made(log, label="rating", split={"by": "user", "valid": 0.34, "test": 0.17, "seed": 6})
    assert {s["user"]: s["split"] for s in again} != of


def test_the_last_item_of_each_user_is_test_and_the_one_before_valid(log):
    log = [*log, {"user": "new", "item": "i0", "time": 40, "rating": 5, "action": "buy"}]
    samples = made(log, split={"by": "last_item"}, negatives={"ratio": 2})
    for user in [*USERS, "new"]:
        mine = sorted((e["time"], row) for row, e in enumerate(log) if e["user"] == user)
        rows = [row for _, row in mine]
        held_out = {"test": rows[-1], "valid": rows[-2]} if len(rows) >= 3 else {}
        positives = [s for s in samples if s["user"] == user and s["label"]]
        for split in ("valid", "test"):
            wanted = [held_out[split]] if split in held_out else []
            assert [s["event"] for s in positives if s["split"] == split] == wanted
        assert sorted(s["event"] for s in positives) == sorted(rows)


def test_the_split_of_a_column(log):
    names = ["train", "valid", "test"]
    folded = [{**event, "fold": names[row % 3]} for row, event in enumerate(log)]
    samples = made(folded, label="rating", split={"by": "column", "column": "fold"})
    assert all(sample["split"] == folded[sample["event"]]["fold"] for sample in samples)
    folded[7]["fold"] = "vaild"
    with pytest.raises(DataError, match=r"log: column 'fold', row 7: 'vaild' is no split. Did you mean 'valid'\?"):
        made(folded, label="rating", split={"by": "column", "column": "fold"})


def test_the_last_positive_of_each_user_and_split(log):
    everything = made(log, label="rating", positive=">= 4", negatives={"ratio": 2})
    last = made(log, label="rating", positive=">= 4", negatives={"ratio": 2}, samples="last")
    wanted = {}
    for sample in everything:
        key, event = (sample["user"], sample["split"]), sample["event"]
        if sample["label"]:
            before = wanted.get(key, event)
            wanted[key] = max(before, event, key=lambda row: (log[row]["time"], row))
    assert sorted(s["event"] for s in last if s["label"]) == sorted(wanted.values())
    assert len(last) == 3 * len(wanted)


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_negatives_are_items_of_train_that_the_user_never_has(log, by):
    log = [event for event in log if event["item"] not in ("i0", "i1", "i2") or event["user"] == "u0"]
    samples = made(log, negatives={"ratio": 2, "by": by, "seed": 3})
    pool = {s["item"] for s in samples if s["label"] and s["split"] == "train"}
    position = 0
    for split in ("train", "valid", "test"):
        mine = [s for s in samples if s["split"] == split]
        assert [s["event"] for s in mine if s["label"]] == sorted({s["event"] for s in mine})
    while position < len(samples):
        positive, negatives = samples[position], samples[position + 1 : position + 3]
        position += 3
        assert [positive["label"], *(n["label"] for n in negatives)] == [1, 0, 0]
        seen = {event["item"] for event in log if event["user"] == positive["user"]}
        for negative in negatives:
            assert negative["item"] in pool - seen
            assert {**negative, "item": 0, "label": 0} == {**positive, "item": 0, "label": 0}
        assert negatives[0]["item"] != negatives[1]["item"]
    assert samples == made(log, negatives={"ratio": 2, "by": by, "seed": 3})
    assert samples != made(log, negatives={"ratio": 2, "by": by, "seed": 4})


def test_negatives_do_not_depend_on_the_pieces_in_which_samples_are_asked_for(log, monkeypatch):
    monkeypatch.setattr("fuxictr_multimodal.data.entry.log.negatives.BLOCK", 10)
    chosen = choices(negatives={"ratio": 2, "seed": 1})
    events = read(pl.DataFrame(log), chosen)
    by_piece = [rows_of(LogSamples(events, chosen, where="log"), piece=piece) for piece in (1, 13, 1000)]
    assert by_piece[0] == by_piece[1] == by_piece[2]


def test_negatives_follow_the_popularity_in_train():
    rng = np.random.default_rng(0)
    items = rng.choice(4, 4000, p=[0.6, 0.2, 0.1, 0.1])
    log = [{"user": f"u{row}", "item": f"i{item}", "time": row} for row, item in enumerate(items)]
    samples = made(log, negatives={"ratio": 1, "by": "popularity"})
    of_rare = [s for p, s in zip(samples[::2], samples[1::2], strict=True) if p["item"] == "i3"]
    share = np.mean([s["item"] == "i0" for s in of_rare])
    assert share == pytest.approx(0.6 / 0.9, abs=0.06)


def test_event_features_by_hand(log):
    start = 1_700_000_000
    timed = [{**e, "time": start + 5_000 * e["time"], "dwell": float(e["rating"])} for e in log]
    cols = [{"name": "age", "bins": 4}, {"name": "hour"}, {"name": "weekday"}, {"name": "action"}]
    cols += [{"name": "dwell", "bins": 3}]
    given = {"label": "rating", "positive": ">= 2", "event_cols": cols, "max_len": 5}
    chosen = choices(**given)
    samples = LogSamples(read(pl.DataFrame(timed), chosen), chosen, where="log")
    keep = [e["rating"] >= 2 for e in timed]
    rows = rows_of(samples)
    ages = [
        timed[s["event"]]["time"] - timed[other]["time"]
        for s in rows
        if s["split"] == "train"
        for other in history_of(timed, s["event"], keep=keep, max_len=5)
    ]
    cuts = sorted({sorted(ages)[math.ceil(part / 4 * (len(ages) - 1))] for part in (1, 2, 3)} - {min(ages)})
    known = [timed[s["event"]] for s in rows if s["split"] == "train"]
    actions = sorted({e["action"] for e in known}, key=lambda a: (-sum(e["action"] == a for e in known), a))
    assert samples.features["action"].vocabulary == tuple(actions)
    assert samples.features["age"].boundaries.tolist() == cuts
    for sample in rows:
        event = timed[sample["event"]]
        wanted = [timed[other] for other in history_of(timed, sample["event"], keep=keep, max_len=5)]
        since = [event["time"] - other["time"] for other in wanted]
        assert sample["history.age"] == [1 + sum(age >= cut for cut in cuts) for age in since]
        assert sample["history.hour"] == [other["time"] // 3600 % 24 + 1 for other in wanted]
        assert sample["history.weekday"] == [(other["time"] // 86_400 + 3) % 7 + 1 for other in wanted]
        assert sample["history.action"] == [actions.index(other["action"]) + 1 for other in wanted]
        assert sample["target.age"] == len(cuts) + 2  # a code of its own
        assert sample["target.hour"] == event["time"] // 3600 % 24 + 1
        # What is known of an event only afterwards is not told of the target.
        assert sample["target.action"] == len(actions) + 2
        assert sample["target.dwell"] == samples.features["dwell"].vocab_size - 1
    assert {s["target.weekday"] for s in rows} == {(e["time"] // 86_400 + 3) % 7 + 1 for e in timed}


def test_a_column_that_is_named_as_target_is_told_of_the_target(log):
    samples = made(log, label="rating", event_cols=[{"name": "action", "target": "action"}])
    codes = {}
    for sample in samples:
        assert codes.setdefault(log[sample["event"]]["action"], sample["target.action"]) == sample["target.action"]
    assert sorted(codes.values()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the log has positives only: draw negatives with `negatives"),
        ({"label": "rating", "samples": "last"}, "`samples: last` keeps the last positive"),
    ],
)
def test_samples_of_one_class_are_refused(log, given, message):
    with pytest.raises(ConfigError, match=message):
        made(log, **given)


def test_a_user_who_has_seen_everything_is_named():
    log = [{"user": "all", "item": item, "time": n} for n, item in enumerate(ITEMS)]
    log += [{"user": "one", "item": "i3", "time": 1}]
    with pytest.raises(DataError, match=r"user all has seen all but 0 of the .* items"):
        made(log, negatives={"ratio": 1})


def test_an_empty_split_is_named(log):
    with pytest.raises(DataError, match=r"log: the valid split is empty \(by time: .*\): there are too few samples"):
        made([{**event, "time": 5} for event in log], label="rating")


@st.composite
def logs(draw) -> list[dict]:
    event = st.fixed_dictionaries(
        {
            "user": st.sampled_from(["a", "b", "c"]),
            "item": st.sampled_from(["p", "q", "r", "s"]),
            "time": st.integers(0, 12),
            "rating": st.integers(1, 5),
        }
    )
    return draw(st.lists(event, min_size=12, max_size=40))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(log=logs(), data=st.data())
def test_nothing_at_or_after_the_time_of_a_sample_changes_it(log, data):
    """Whatever happens to events of time t and later, samples of time t and earlier stay as they are."""
    moment = data.draw(st.integers(1, 12), label="moment")
    folds = {"split": {"by": "column", "column": "fold"}, "label": "rating", "positive": ">= 3", "max_len": 6}
    # What is learnt comes from train, which lies before the moment.
    folded = [{**e, "fold": "train" if e["time"] < moment else "test"} for e in log]
    folded += [{"user": "a", "item": "p", "time": 0, "rating": 5, "fold": "train"}]
    folded += [{"user": "z", "item": "p", "time": 99, "rating": 5, "fold": fold} for fold in ("valid", "test")]
    changed = []
    for event in folded:
        if event["time"] < moment or event["user"] == "z":
            changed.append((event, True))
            continue
        fate = data.draw(st.sampled_from(["keep", "remove", "relabel", "move", "swap"]), label="fate")
        if fate == "relabel":
            changed.append(({**event, "rating": 6 - event["rating"]}, False))
        elif fate == "move":
            changed.append(({**event, "time": event["time"] + 3}, False))
        elif fate == "swap":
            changed.append(({**event, "item": "new"}, False))
        elif fate == "keep":
            changed.append((event, False))
    cols = [{"name": "age", "bins": 3}, {"name": "rating"}]

    def before(events: list[dict]) -> list[tuple]:
        try:
            samples = made(events, **folds, event_cols=cols)
        except DataError as error:  # train has no history to learn ages from
            return [("refused", str(error))]
        keys = ("user", "item", "label", "history", "history.age", "history.rating", "target.age", "target.rating")
        return [tuple(map(str, (s[key] for key in keys))) for s in samples if s["split"] == "train"]

    assert before(folded) == before([event for event, _ in changed])
    # The same for histories of valid and test samples: theirs is what came strictly before.
    for sample in made(folded, **folds):
        event = folded[sample["event"]]
        keep = [other["rating"] >= 3 for other in folded]
        earlier = [other for other, e in enumerate(folded) if e["time"] < event["time"]]
        wanted = history_of(folded, sample["event"], keep=keep, max_len=6)
        assert set(wanted) <= set(earlier)
        assert sample["history"] == [folded[other]["item"] for other in wanted]
