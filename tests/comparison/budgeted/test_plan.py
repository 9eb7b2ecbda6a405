"""Plans fit into their time, and give every model the same number of trials."""

from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.comparison.budgeted.plan import FEW, MOST, SOME, Cost, Planner, makespan, table, wall_clock

COSTS = st.lists(st.floats(0.1, 5_000.0), min_size=1, max_size=13)


def costs(*seconds):
    return [Cost(f"model {number}", value, value) for number, value in enumerate(seconds)]


def list_schedule(seconds, slots):
    """The end of jobs that start in turn on the first free slot."""
    free = [0.0] * slots
    for value in seconds:
        slot = free.index(min(free))
        free[slot] += value
    return max(free)


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=30), st.integers(1, 8))
def test_no_order_of_jobs_takes_longer_than_the_bound(seconds, slots):
    assert list_schedule(seconds, slots) <= makespan(seconds, slots) * (1 + 1e-9)


@given(COSTS, st.floats(0.1, 100_000.0), st.integers(1, 4), st.integers(1, 5), st.integers(1, 13))
def test_a_plan_fits_and_is_fair(seconds, budget, slots, seeds, core):
    known = costs(*seconds)
    planner = Planner(slots=slots, seeds=seeds, core=core)
    plan = planner.plan(known, seconds=budget)
    if plan is None:
        assert planner.least_seconds(known) > budget
        return
    # Trials in turns, then seeds in turns: what really takes place fits too.
    trials = [cost.trial for _ in range(plan.trials) for cost in plan.costs]
    runs = [cost.run for _ in range(plan.seeds) for cost in plan.costs]
    assert list_schedule(trials, slots) + list_schedule(runs, slots) <= plan.seconds * (1 + 1e-9)
    assert plan.seconds <= budget
    assert 1 <= plan.trials <= MOST
    assert 1 <= plan.seeds <= seeds
    assert set(plan.names) <= {cost.name for cost in known}
    assert plan.names[:2] == tuple(cost.name for cost in known[:2])
    if len(plan.costs) < min(core, len(known)):
        # A model of the core is left out rather than trials of the others: no more than one or two of them are lacking.
        lacking = [cost for cost in known[:core] if cost not in plan.costs]
        assert all(wall_clock([*plan.costs, cost], plan.trials, 1, slots) > budget for cost in lacking)


@given(COSTS, st.floats(0.1, 100_000.0), st.integers(1, 4), st.integers(1, 3))
def test_a_number_of_trials_that_is_asked_for_is_kept(seconds, budget, slots, trials):
    plan = Planner(slots=slots, seeds=3, trials=trials).plan(costs(*seconds), seconds=budget)
    assert plan is None or plan.trials == trials


def test_what_is_given_up_and_in_which_order():
    known = costs(10, 10, 10, 10)
    planner = Planner(slots=1, seeds=3, core=4)
    whole = 4 * (FEW + 3) * 10

    def found(seconds):
        plan = planner.plan(known, seconds=seconds)
        return len(plan.costs), plan.trials, plan.seeds

    assert found(whole) == (4, FEW, 3)
    assert found(whole - 1) == (4, FEW, 2)
    assert found(4 * (FEW + 1) * 10) == (4, FEW, 1)
    assert found(4 * (FEW + 1) * 10 - 1) == (3, FEW, 2)
    assert found(2 * (FEW + 1) * 10) == (2, FEW, 1)
    assert found(2 * (FEW + 1) * 10 - 1)[1] == FEW - 1
    assert planner.plan(known, seconds=2 * 2 * 10 - 1) is None
    assert planner.least_seconds(known) == 2 * 2 * 10


def test_a_slow_model_makes_room_for_the_next():
    plan = Planner(slots=1, seeds=1, core=4).plan(costs(1, 1, 1000, 1), seconds=30)
    assert plan.names == ("model 0", "model 1", "model 3")


def test_more_time_gives_trials_then_models_then_trials():
    known = costs(10, 10, 10)
    planner = Planner(slots=1, seeds=1, core=2)
    assert planner.plan(known, seconds=2 * (SOME + 1) * 10).names == ("model 0", "model 1")
    joined = planner.plan(known, seconds=3 * (SOME + 1) * 10)
    assert (len(joined.costs), joined.trials) == (3, SOME)
    assert planner.plan(known, seconds=1e9).trials == MOST


def test_what_is_done_costs_nothing():
    known = costs(10, 10)
    planner = Planner(slots=1, seeds=1, done={"model 0": 3, "model 1": 3})
    assert planner.more(known, least=3, seeds=1, seconds=2 * 10 + 2 * 10) == 4
    assert planner.more(known, least=3, seeds=1, seconds=39) == 3


def test_the_table_says_what_is_run_and_what_is_not():
    known = [Cost("DIN_Shop", 186, 186), Cost("QIN_Shop", 60, 60)]
    plan = Planner(slots=2, seeds=3).plan(known, seconds=3600)
    lines = table(plan, [Cost("SIM_Shop", 7200, 7200)], order=["QIN_Shop", "DIN_Shop"], slots=2)
    assert lines[0].split() == f"QIN_Shop {plan.trials} trials x ~1.0 min + 3 seeds x ~1.0 min".split()
    assert lines[-1] == "  left out, no time: SIM_Shop (~2.0 h a trial)"
    assert "on 2 slots" in lines[-2]
