"""A few hostile inputs of each kind, and that the harness sees what it looks for."""

from __future__ import annotations

import pytest

from tests.torture import hostile
from tests.torture.hostile import meeting, planted
from tests.torture.hostile.server import Server

# One of each kind of harm that is cheap to meet: nothing is trained.
CHOSEN = (
    "settings: a Python object in a tag of YAML",
    "settings: aliases that unfold to 10^9 values",
    "settings: a run named '../../x'",
    "evaluated: loss in YAML",
    "evaluated: feature_encoder in a feature map",
    "manifests: a manifest whose files name '../../../etc/passwd'",
    "arrays: an external link in a split",
    "arrays: a column that declares 10^12 rows",
    "arrays: an unknown filter, whose plugin would be loaded",
    "arrays: npz whose header declares 10^12 rows",
    "tables: a zip bomb",
    "tables: csv that is a pipe",
    "shown: a tag as note on a page",
)


def test_hostile_inputs_are_refused_by_name_or_harmless(tmp_path):
    by_name = {case.name: (module, index, case) for module, index, case in hostile.cases()}
    found = hostile.run([by_name[name] for name in CHOSEN], tmp_path)
    assert found["failed"] == []
    assert found["inputs"] == len(CHOSEN)


def test_there_are_many_inputs_and_each_has_a_name():
    everything = hostile.cases()
    assert len({case.name for _, _, case in everything}) == len(everything) >= 300
    assert {module.rpartition(".")[2] for module, _, _ in hostile.chosen(9, 0)} <= set(hostile.MODULES)
    assert all(case.accepted or case.names for _, _, case in everything)


@pytest.fixture(scope="module")
def server():
    with Server(preload=False) as found:
        yield found


@pytest.mark.parametrize(("index", "outcome"), list(enumerate(planted.OUTCOMES)))
def test_the_harness_sees_a_planted_fault(server, tmp_path, monkeypatch, index, outcome):
    monkeypatch.setattr(meeting, "SECONDS", 2.0)
    (tmp_path / "worlds" / "empty").mkdir(parents=True)
    case = planted.CASES[index]
    met = meeting.meet(server, planted.__name__, index, case, worlds=tmp_path / "worlds", work=tmp_path / "work")
    assert met.outcome == outcome, met.detail
    assert (meeting.verdict(case, met) is None) == (outcome == "refused")
