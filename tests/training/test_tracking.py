"""Scalars reach the tracker once each, a resumed run included, and a missing package is named."""

import sys
import types

import pytest

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training import tracking

CURVE = [
    {"step": step, "train_loss": 1 / step, "learning_rate": 0.1, "metrics": {"AUC": 0.5 + step / 100}}
    for step in (4, 8, 12)
]


@pytest.fixture
def writers(monkeypatch):
    """Stands for `torch.utils.tensorboard`, which is an extra; keeps the writers that were made."""
    made = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step):
            self.log_dir, self.purge_step, self.scalars, self.closed = log_dir, purge_step, [], False
            made.append(self)

        def add_scalar(self, name, value, global_step):
            self.scalars.append((name, value, global_step))

        def flush(self):
            pass

        def close(self):
            self.closed = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def test_each_evaluation_is_written_once(writers, tmp_path):
    tracker = tracking.make_tracker("tensorboard", tmp_path / "events")
    for count in (1, 2, 2, 3):
        tracker.evaluated(CURVE[:count])
    tracker.finished({"test": {"AUC": 0.7}})
    tracker.close()
    (writer,) = writers
    assert [step for name, _, step in writer.scalars if name == "train/loss"] == [4, 8, 12]
    assert ("valid/AUC", 0.58, 8) in writer.scalars
    assert writer.scalars[-1] == ("final_test/AUC", 0.7, 0)
    assert writer.closed


def test_a_resumed_run_voids_what_was_written(writers, tmp_path):
    tracker = tracking.make_tracker("tensorboard", tmp_path / "events")
    tracker.evaluated(CURVE)
    assert writers[0].purge_step == 0
    assert len([name for name, _, _ in writers[0].scalars if name == "valid/AUC"]) == 3


def test_a_tracker_that_fails_ends_no_run(writers, tmp_path, caplog, monkeypatch):
    tracker = tracking.make_tracker("tensorboard", tmp_path / "events")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers[0], "add_scalar", full)
    for _ in range(2):
        tracker.evaluated(CURVE)
    tracker.finished({"test": {"AUC": 0.7}})
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the tracker failed and is not told any more ([Errno 28] No space left on device); the result is not affected"
    ]


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'fuxictr-multimodal\[tensorboard\]'"):
        tracking.make_tracker("tensorboard", tmp_path)


def test_unknown_tracker_and_none(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
        tracking.make_tracker("tensorbord", tmp_path)
    tracker = tracking.make_tracker(None, tmp_path)
    tracker.evaluated(CURVE)
    tracker.finished({})
    tracker.close()
