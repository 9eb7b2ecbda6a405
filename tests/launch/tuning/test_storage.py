"""Searches shared by tuners of several machines: one budget, trials of lost machines, errors without passwords."""

import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning import search as search_module
from fuxictr_multimodal.launch.tuning import storage
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.search import Search
from tests.helpers.tuner_sweep import Sweep

SPACE = {"learning_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True}, "dnn_hidden_units": [[8, 4], [16]]}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make the search of a machine, with its own folder and a storage for all."""

    def make(name: str, url: str, *, trials: int = 4, algorithm: str = "random") -> Search:
        space = Sweep(tmp_path / name).tuner(SPACE).space(monkeypatch)
        folder = SweepFolder.of(space.path, search=algorithm)
        return Search(
            space, folder=folder, algorithm=algorithm, trials=trials, restart=Restart(space), prune=False, storage=url
        )

    return make


@pytest.fixture(params=["journal", "sqlite", "server"])
def url(request, tmp_path, monkeypatch):
    """Each kind of storage; SQLite stands in for the server."""
    (tmp_path / "shared").mkdir()
    if request.param == "journal":
        return f"journal://{tmp_path}/shared/study.journal"
    url = f"sqlite:///{tmp_path}/shared/study.db"
    if request.param == "server":
        monkeypatch.setattr(
            search_module, "open_storage", lambda url, own_file: storage.ServerStorage(sqlalchemy.make_url(url))
        )
    return url


def complete(search: Search, record: Record) -> None:
    record.status, record.value, record.curve = "completed", record.trial.settings["learning_rate"], [0.5]
    record.metrics, record.seconds = {"AUC": record.value}, 7.0
    search.ended(record)


def lose(search: Search) -> None:
    """Make a worker look like one whose machine has lost power."""
    for trial in search._owned.values():
        if isinstance(search._storage, storage.FileStorage):
            trial.set_user_attr("worker", "gone")
        else:
            with search._storage.storage.engine.begin() as connection:
                connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'"))


def test_two_machines_share_one_budget(machine, url):
    first, second = machine("a", url), machine("b", url)
    with first.working(), second.working():
        drawn = [search.next() for search in (first, second, second, first)]
        assert first.next() is second.next() is None
        assert len({record.trial.expid for record in drawn}) == 4
        for search, record in zip((first, second, second, first), drawn, strict=True):
            complete(search, record)
        second.refresh()
    # The summary of each machine has what the other one measured.
    assert [record.metrics for record in second.records] == [{"AUC": r.value} for r in drawn]
    assert sum(record.seconds for record in second.records) == 28
    third = machine("c", url)
    with third.working():
        assert third.open_trials() == 0
        assert third.next() is None


def test_a_trial_of_a_lost_machine_is_retried_once(machine, url):
    lost, living = machine("a", url), machine("b", url)
    with lost.working(), living.working():
        record = lost.next()
        lose(lost)
        retried = living.next()
        assert retried.trial.settings == record.trial.settings
        others = [living.next() for _ in range(3)]
        assert living.next() is None
        # The machine was not lost, only silent: what it tells now counts no more.
        record.curve = [0.5]
        assert lost.should_stop(record)
        record.status = "pruned"
        lost.ended(record)
        for other in (retried, *others):
            complete(living, other)
        living.refresh()
        assert [other.status for other in living.records] == ["completed"] * 4
        assert lost.next() is None


def test_an_interrupted_machine_hands_its_trials_back(machine, url):
    interrupted, other = machine("a", url, trials=1), machine("b", url, trials=1)
    with interrupted.working():
        record = interrupted.next()
    with other.working():
        assert other.open_trials() == 1
        assert other.next().trial.settings == record.trial.settings
        assert other.next() is None


def test_a_silent_machine_hands_back_nothing_that_runs_elsewhere(machine, url):
    silent, living = machine("a", url, trials=1), machine("b", url, trials=1)
    with living.working():
        with silent.working():
            silent.next()
            lose(silent)
            retried = living.next()
        assert living.open_trials() == 0
        complete(living, retried)
        living.refresh()
        assert [record.status for record in living.records] == ["completed"]


def test_random_and_tpe_searches_share_a_storage_but_no_study(machine, url):
    for algorithm in ("random", "tpe"):
        search = machine(algorithm, url, trials=1, algorithm=algorithm)
        with search.working():
            complete(search, search.next())
            assert search.next() is None


def test_heartbeats_are_sent_while_a_trial_runs(machine, tmp_path, monkeypatch):
    sent = threading.Event()
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 0.01)
    server = storage.ServerStorage(sqlalchemy.make_url(f"sqlite:///{tmp_path}/study.db"))
    monkeypatch.setattr(search_module, "open_storage", lambda url, own_file: server)
    search = machine("a", "a server")
    with search.working():
        search.next()
        monkeypatch.setattr(server.storage, "record_heartbeat", lambda trial_id: sent.set())
        assert sent.wait(10)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere/study.journal", "the folder nowhere does not exist"),
        ("notes.txt", "is not an Optuna journal; SQLite is written as sqlite:///"),
        ("sqlite:///notes.txt", "file is not a database"),
        ("sqlite://", "has no file"),
        ("mongo://ann:s3cret@db/optuna", "is not a database URL that SQLAlchemy knows"),
        ("postgresql://ann:s3cret@db:port/optuna", "is not a database URL that SQLAlchemy knows"),
        ("postgresql://ann:s3/c@ret@db/optuna", "is not a database URL that SQLAlchemy knows"),
        (
            "postgresql://ann:s3cret@db/optuna",
            r"driver psycopg is not installed: pip install 'fuxictr-multimodal\[postgresql\]'",
        ),
    ],
)
def test_what_is_wrong_with_a_storage_is_one_line_without_the_password(tmp_path, monkeypatch, url, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    Path("notes.txt").write_text("these are notes, long enough to have a header of a file in them\n" * 40)
    with pytest.raises(ConfigError, match=message) as caught:
        storage.open_storage(url, own_file=tmp_path / "study.db")
    assert "\n" not in str(caught.value)
    assert "s3" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="study sqlite:.* cannot be reached: unable to open database file"):
        storage.ServerStorage(sqlalchemy.make_url(f"sqlite:///{tmp_path}/nowhere/study.db"))


def test_a_part_of_a_grid_has_no_storage(tmp_path):
    done = Sweep(tmp_path).tuner(SPACE).run("--storage", "study.journal", "--tag", "a")
    assert done.returncode == 2
    assert "--tag selects trials of one machine's grid: leave out --storage" in done.stderr
