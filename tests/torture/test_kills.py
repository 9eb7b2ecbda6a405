"""A few of the kills, and whether the harness sees a state that forgets something."""

import pytest

from fuxictr_multimodal.training import training_state
from tests.torture.kills import Arena, Kill, difference
from tests.torture.kills.plan import TRAINER, planned
from tests.torture.kills.points import AFTER, HALF, Point

# With what a state may forget: gradients of a window, an average, dropout's random numbers.
STEP = Kill("averaged", Point("step", f"{TRAINER}._train_step", AFTER, 17))


def forget_the_random_state():
    training_state.set_random_state = lambda cpu, gpus: None


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    """With one run of each scene to compare with."""
    return Arena(tmp_path_factory.mktemp("kills"), repeats=1)


@pytest.mark.parametrize(
    "kill",
    [
        STEP,
        Kill("averaged", Point("state", "*.state", HALF, 3)),
        Kill("text", Point("checkpoint", "*/head.safetensors", HALF)),
    ],
    ids=str,
)
def test_a_killed_command_ends_as_one_that_was_not(arena, kill):
    assert arena.attack(kill) is None


def test_a_state_that_forgets_something_is_seen(arena, monkeypatch):
    monkeypatch.setattr(arena, "before", forget_the_random_state)
    assert "report.json differs" in arena.attack(STEP)


def test_a_point_that_is_not_reached_is_a_fault(arena):
    assert arena.attack(Kill("text", Point("step", f"{TRAINER}._train_step"))).startswith("the point was not reached")


def test_what_is_left_over_or_missing_is_a_difference():
    assert difference({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 3]}, "d": 1}) == (
        "a is missing; b differs at c[1]: 2 and 3; d is left over"
    )


def test_the_plan_has_a_hundred_points_and_thirty_within_an_epoch():
    points = list(planned())
    assert len(points) == len(set(points)) >= 100
    assert sum(point.kind == "step" for _, point in points) >= 30
