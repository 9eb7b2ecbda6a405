"""Fixtures that several test files share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.empty_curves import leave_curves_empty

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("no deadlines", deadline=None)
hypothesis.settings.load_profile("no deadlines")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while all test files are imported: what they make stays, and is a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a long file that starts last is waited for with one core idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _empty_curves() -> None:
    """Runs draw no curves, but for the tests of curves."""
    leave_curves_empty()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """One data root for the session: the synthetic test dataset is built there on first use."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run_qin(data_root, tmp_path, monkeypatch):
    """Call `run_experiment` on QIN_test, in a working folder and model root of the test's own."""
    from fuxictr_multimodal.training.runner import run_experiment

    def run(*overrides, expid="QIN_test", **arguments):
        monkeypatch.chdir(tmp_path)
        settings = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0", *overrides]
        arguments = {"config_dir": REPOSITORY / "config", **arguments}
        return run_experiment(expid=expid, overrides=settings, **arguments)

    return run
