"""Fixtures that several test files share."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
