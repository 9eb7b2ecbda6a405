"""The time of a comparison: counted over all starts, and spent so that all models have as many trials and seeds."""

import json
import time
from types import SimpleNamespace

import pytest

from fuxictr_multimodal.comparison.budgeted import winners as winners_module
from fuxictr_multimodal.comparison.budgeted.clock import Clock
from fuxictr_multimodal.comparison.budgeted.plan import FEW, Cost, Plan, Planner
from fuxictr_multimodal.comparison.budgeted.searching import SAFETY, Rounds, measured
from fuxictr_multimodal.comparison.budgeted.winners import Seeds, Winners, choose_winners
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.plans import Plan as Run

START_SECONDS = 3.0
ARGUMENTS = {"dataset": "Shop", "models": ["DIN", "QIN"], "trials": None}


class Watch:
    """A clock that tests set."""

    def __init__(self, budget):
        self.budget, self.elapsed = budget, 0.0

    @property
    def left(self):
        return self.budget - self.elapsed

    def tick(self):
        pass


def trial(status="completed", value=0.7, seconds=10.0):
    return SimpleNamespace(
        status=status, value=value, seconds=seconds, trial=SimpleNamespace(params={"monitor_mode": "max"})
    )


def sweep(name, *records):
    return SimpleNamespace(
        space=SimpleNamespace(base_expid=name), source=SimpleNamespace(records=list(records), trials=0)
    )


def test_time_of_earlier_starts_counts(tmp_path):
    path = tmp_path / "state.json"
    first = Clock.open(path, budget=100.0, arguments=ARGUMENTS)
    first.used = 40.0
    first.known["build"] = "abc"
    first.tick()
    assert json.loads(path.read_text())["seconds"] >= 40
    again = Clock.open(path, budget=100.0, arguments=ARGUMENTS)
    assert 40 <= again.elapsed < 50
    assert again.left <= 60
    assert again.known == {"build": "abc"}
    # More time may be given.
    assert Clock.open(path, budget=200.0, arguments=ARGUMENTS).left > 140


def test_other_arguments_are_named(tmp_path):
    path = tmp_path / "state.json"
    Clock.open(path, budget=100.0, arguments=ARGUMENTS).save()
    changed = {"dataset": "Shop", "models": ["DIN"], "trials": 3}
    expected = r"other arguments \(models: DIN,QIN there, DIN now; trials: not given there, 3 now\)"
    with pytest.raises(ConfigError, match=expected):
        Clock.open(path, budget=100.0, arguments=changed)


def test_a_damaged_state_is_named(tmp_path):
    path = tmp_path / "state.json"
    path.write_text('{"seconds": 3')
    with pytest.raises(ConfigError, match="state.json is damaged"):
        Clock.open(path, budget=100.0, arguments=ARGUMENTS)


def simulate(seconds, budget, *, estimates=None, seeds=2, slots=1):
    """Draw trials as the scheduler does on one slot, each taking its model's seconds; return trials by model."""
    estimates = estimates or seconds
    costs = [Cost(name, estimates[name], estimates[name]) for name in seconds]
    planner = Planner(slots=slots, seeds=seeds)
    plan = planner.plan(costs, seconds=budget)
    assert plan is not None
    watch, said = Watch(budget), []
    rounds = Rounds(watch, planner, plan, 0.0, START_SECONDS, said.append)
    sweeps = [sweep(name) for name in plan.names]
    waiting = list(sweeps)
    while waiting:
        turn = waiting.pop(0)
        # As the scheduler: the turn first, for it says how many trials there are.
        if rounds.may_draw(sweeps, turn) and len(turn.source.records) < turn.source.trials:
            watch.elapsed += seconds[turn.space.base_expid]
            turn.source.records.append(trial(seconds=seconds[turn.space.base_expid] - START_SECONDS))
            waiting.append(turn)
    return {one.space.base_expid: len(one.source.records) for one in sweeps}, watch, said


def test_rounds_use_the_time_and_are_equal():
    counts, watch, said = simulate({"a": 10.0, "b": 20.0, "c": 30.0}, 1000.0)
    assert set(counts.values()) == {14}  # 14 x 60 + 2 x 60 = 960
    assert watch.left >= 2 * 60
    assert said[0].startswith("round 1 of 14")


def test_rounds_end_early_where_trials_take_longer_than_probed():
    counts, watch, _ = simulate({"a": 30.0, "b": 60.0}, 600.0, estimates={"a": 10.0, "b": 20.0})
    # A fifth round of 90 s would leave less than the two seeds need.
    assert set(counts.values()) == {4}
    assert watch.left >= 180


def test_rounds_become_more_where_trials_are_faster():
    counts, _, _ = simulate({"a": 10.0, "b": 10.0}, 600.0, estimates={"a": 60.0, "b": 50.0})
    assert set(counts.values()) == {20}


def test_few_trials_come_before_further_seeds():
    counts, watch, _ = simulate({"a": 30.0, "b": 30.0}, 330.0, estimates={"a": 10.0, "b": 10.0}, seeds=3)
    assert set(counts.values()) == {FEW}
    assert watch.left == 90


def test_running_trials_end_in_time_for_one_seed_of_each():
    watch = Watch(100.0)
    plan = Plan((Cost("a", 30, 30), Cost("b", 30, 30)), 4, 1, 0.0)
    rounds = Rounds(watch, Planner(slots=1, seeds=1), plan, 5.0, START_SECONDS, lambda line: None)
    assert not rounds.is_over()
    done, running = sweep("a", trial(seconds=20.0)), sweep("b", trial("running"))
    assert rounds.may_draw([done, running], done) is False  # 23 s a trial: no round of both fits
    watch.elapsed = 100 - 5 - SAFETY * (20 + START_SECONDS) - 1
    assert not rounds.is_over()
    watch.elapsed += 1
    assert rounds.is_over()
    watch.elapsed = 0
    assert rounds.is_over(), "once it is over, it stays so"


def test_a_busy_machine_is_noticed():
    plan = Plan((Cost("a", 10, 10),), 10, 1, 0.0)
    watch = Watch(1000.0)
    rounds = Rounds(watch, Planner(slots=1, seeds=1), plan, 0.0, START_SECONDS, lambda line: None)
    one = sweep("a")
    assert rounds.may_draw([one], one)
    assert rounds.overhead == START_SECONDS
    # Two trials of 7 s by their reports took 50 s by the clock.
    watch.elapsed = 50.0
    one.source.records += [trial(seconds=7.0), trial(seconds=7.0)]
    rounds.may_draw([one], one)
    assert rounds.overhead == (50 - 14) / 2
    assert rounds.costs["a"].trial == 25.0


def test_costs_are_measured_on_completed_trials():
    before = Cost("a", 100, 100)
    assert measured(before, [trial("running"), trial("failed")], start=START_SECONDS) == before
    trials = [trial(value=0.8, seconds=30), trial(value=0.6, seconds=10), trial("pruned", None)]
    found = measured(before, trials, start=START_SECONDS)
    assert (found.trial, found.run) == (20 + START_SECONDS, 30 + START_SECONDS)


def test_winners_are_chosen_among_equally_many_trials():
    late = trial(value=0.9)
    found = choose_winners(
        {
            "a": [trial(value=0.6), trial(value=0.7), late, trial("queued", None)],
            "b": [trial("failed", None), trial(value=0.65)],
            "c": [trial("failed", None)],
        }
    )
    assert found.trials == 2
    assert {name: record.value for name, record in found.records.items()} == {"a": 0.7, "b": 0.65}
    assert found.expids == ["a_tuned", "b_tuned"]


@pytest.fixture
def nothing_complete(monkeypatch):
    monkeypatch.setattr(winners_module, "report_of", lambda *names: (None, {}))


def seeds_gate(left):
    winners = Winners(3, {"a": trial(seconds=7.0), "b": trial(seconds=17.0)})
    watch = Watch(left)
    return Seeds(watch, winners, 1, 0.0, START_SECONDS), watch


def test_a_seed_begins_only_where_all_models_fit(nothing_complete, tmp_path):
    gate, watch = seeds_gate(55.0)
    plans = gate.plans(tmp_path, [1, 2])
    assert [plan.name for plan in plans] == ["a_tuned_s1", "b_tuned_s1", "a_tuned_s2", "b_tuned_s2"]
    costs = {"a_tuned": 10.0, "b_tuned": 20.0}
    started = []
    for plan in plans:
        if gate.may_start(plan):
            started.append(plan.name)
            watch.elapsed += costs[plan.expid]
    # 25 s are left: enough for `a` alone, but then `b` would lack its second seed.
    assert started == ["a_tuned_s1", "b_tuned_s1"]


def test_the_first_seed_runs_as_far_as_it_fits(nothing_complete, tmp_path):
    gate, _ = seeds_gate(15.0)
    assert [gate.may_start(Run(name, 1, tmp_path)) for name in ("a_tuned", "b_tuned")] == [True, False]
    gate, watch = seeds_gate(100.0)
    assert not gate.is_over()
    watch.elapsed = 100.0
    assert gate.is_over()
    assert gate.stopped


def test_complete_runs_are_not_run_again(monkeypatch, tmp_path):
    config = {"model_root": "runs", "dataset_id": "Shop"}
    states = {"a_tuned": "completed", "b_tuned": "running"}
    monkeypatch.setattr(
        winners_module,
        "report_of",
        lambda folder, expid, seed: ({"status": states[expid], "config": config}, {}),
    )
    gate, _ = seeds_gate(0.0)
    done = gate.complete(gate.plans(tmp_path, [1, 2]))
    assert {plan.name: str(outcome.report) for plan, outcome in done.items()} == {
        "a_tuned_s1": "runs/Shop/a_tuned_s1.report.json",
        "a_tuned_s2": "runs/Shop/a_tuned_s2.report.json",
    }


def test_a_run_that_was_killed_after_its_report_is_not_complete(monkeypatch, tmp_path):
    config = {"model_root": str(tmp_path), "dataset_id": "Shop"}
    monkeypatch.setattr(winners_module, "report_of", lambda *names: ({"status": "completed", "config": config}, config))
    gate, _ = seeds_gate(0.0)
    plans = gate.plans(tmp_path, [1])
    (tmp_path / "Shop").mkdir()
    (tmp_path / "Shop/a_tuned_s1.state").touch()
    assert [plan.name for plan in gate.complete(plans)] == ["b_tuned_s1"]


def test_the_clock_counts_real_time(tmp_path):
    clock = Clock.open(tmp_path / "s.json", budget=10.0, arguments={})
    before = clock.elapsed
    time.sleep(0.02)
    assert clock.elapsed - before >= 0.02
