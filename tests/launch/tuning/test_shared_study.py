"""Several tuners on one storage do together what one would do, and each knows the end of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from fuxictr_multimodal.launch.tuning import scheduler
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.run import tune
from fuxictr_multimodal.launch.tuning.search import Search
from tests.helpers.tuner_sweep import FAKE_TRIAL, Sweep

LISTS = {"learning_rate": [1.0e-3, 2.0e-3, 3.0e-3, 4.0e-3], "dnn_hidden_units": [[8, 4], [16]]}
RANGES = {"learning_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True}, "dnn_hidden_units": [[8, 4], [16]]}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make the source of a machine, with its own folder and a journal for all."""

    def make(name: str, space: dict, *, algorithm: str = "grid", trials: int = 8) -> Search:
        made = Sweep(tmp_path / name).tuner(space).space(monkeypatch)
        folder = SweepFolder.of(made.path, search=algorithm)
        return Search(
            made,
            folder=folder,
            algorithm=algorithm,
            trials=trials,
            restart=Restart(made),
            storage=str(tmp_path / "study.journal"),
        )

    return make


def end(search: Search, record: Record, status: str = "completed") -> None:
    record.status, record.exit_code = status, 0 if status == "completed" else 1
    record.value = record.trial.settings["learning_rate"] if status == "completed" else None
    search.ended(record)


def summary(folder: Path) -> tuple[list[tuple[str, ...]], dict]:
    with (folder / "summary.csv").open(newline="") as file:
        rows = sorted((row["expid"], row["status"], row["value"], row["valid_AUC"]) for row in csv.DictReader(file))
    return rows, json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("search", ["grid", "random"])
def test_two_tuners_do_each_trial_once_and_agree(tmp_path, search):
    words = () if search == "grid" else ("--search", search, "--trials", "8", "--no-prune")
    sweeps = [Sweep(tmp_path / name) for name in ("a", "b")]
    for sweep in sweeps:
        sweep.tuner({**(LISTS if search == "grid" else RANGES), "epoch_seconds": 0.3})
    tuners = [sweep.typed(*words, "--storage", f"{tmp_path}/study.journal") for sweep in sweeps]
    for tuner in tuners:
        out, errors = tuner.communicate(timeout=120)
        assert tuner.returncode == 0, out + errors
    starts = [start[0] for sweep in sweeps for start in sweep.starts()]
    assert len(starts) == len(set(starts)) == 8
    assert all(sweep.starts() for sweep in sweeps)
    first, second = (summary(SweepFolder.of(sweep.tuner_file, search=search).path) for sweep in sweeps)
    assert first == second
    rows, whole = first
    assert (whole["search"], whole["models"]["DIN"]["completed"]) == (search, 8)
    assert {row[0] for row in rows} == set(starts)


def test_the_grid_of_several_machines_is_the_whole_grid_in_its_order(machine):
    first, second = machine("a", LISTS), machine("b", LISTS)
    expids = [trial.expid for trial in first.space.grid()]
    with first.working(), second.working():
        assert first.open_trials() == second.open_trials() == 8
        first.refresh()
        assert [record.trial.expid for record in first.records] == expids
        assert {record.status for record in first.records} == {"queued"}
        drawn = [search.next() for search in (first, second) * 4]
        assert [record.trial.expid for record in drawn] == expids
        assert first.next() is second.next() is None
        assert (first.elsewhere(), second.elsewhere()) == (4, 4)
        for search, record in zip((first, second) * 4, drawn, strict=True):
            # A grid compares complete trainings.
            record.curve = [0.0, 0.0, 0.0]
            assert not search.should_stop(record)
            end(search, record, "failed" if record is drawn[3] else "completed")
        assert first.elsewhere() == second.elsewhere() == 0
    # As a grid of one machine does, the next one tries again what failed.
    third = machine("c", LISTS)
    with third.working():
        assert third.next().trial == drawn[3].trial
        assert third.next() is None


def test_a_grid_of_one_setting_may_be_shared(machine):
    with machine("a", {"learning_rate": [1.0e-3]}).working() as one:
        end(one, one.next())
        assert one.next() is None


@pytest.mark.parametrize("lost", [True, False])
def test_a_tuner_waits_for_the_trials_of_others_and_takes_over_those_of_a_lost_one(
    machine, tmp_path, monkeypatch, lost
):
    monkeypatch.setattr(scheduler, "ELSEWHERE_SECONDS", 0.1)
    other = machine("other", RANGES, algorithm="random", trials=2)
    here = Sweep(tmp_path / "here").tuner(RANGES)
    monkeypatch.chdir(tmp_path / "here")

    class Watched:
        """A terminal that somebody watches who ends the other machine when this one waits."""

        text = ""

        def write(self, text: str) -> None:
            self.text += text
            if "DIN_fake: waiting for 1 trials on other machines" in text:
                if lost:
                    other._owned[record.trial.expid].set_user_attr("worker", "gone")
                else:
                    end(other, record)

        def flush(self) -> None:
            pass

    watched = Watched()
    with other.working():
        record = other.next()
        (records,) = tune(
            here.tuner_file.relative_to(here.home),
            [None],
            gpus=[-1, -1],
            script=FAKE_TRIAL,
            search="random",
            trials=2,
            prune=False,
            storage=str(tmp_path / "study.journal"),
            console=Console(file=watched, width=200),
            pictures=False,
        )
    assert watched.text.count("waiting for 1 trials") == 1
    assert [one.status for one in records] == ["completed", "completed"]
    ran_here = {start[0] for start in here.starts()}
    assert (record.trial.expid in ran_here) == lost
    assert len(here.starts()) == len(ran_here) == 1 + lost


def test_the_time_limit_ends_the_wait(machine, tmp_path, monkeypatch):
    other = machine("other", RANGES, algorithm="random", trials=2)
    here = Sweep(tmp_path / "here").tuner(RANGES)
    monkeypatch.chdir(tmp_path / "here")
    with other.working():
        other.next()
        (records,) = tune(
            here.tuner_file.relative_to(here.home),
            [None],
            gpus=[-1],
            script=FAKE_TRIAL,
            search="random",
            trials=2,
            seconds=2.0,
            storage=str(tmp_path / "study.journal"),
            pictures=False,
        )
    assert records[0].status == "running"
    assert len(here.starts()) <= 1
