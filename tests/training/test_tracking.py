"""Settings, evaluations and final metrics reach a tracker once each, a resumed run included; failures end no run."""

import importlib
import json
import struct
import subprocess
import sys

import pytest

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training import tracking
from fuxictr_multimodal.training.run_names import RunFiles
from tests.helpers.typed_command import type_command

CURVE = [
    {"step": step, "train_loss": 1 / step, "learning_rate": 0.1, "metrics": {"AUC": 0.5 + step / 100}}
    for step in (4, 8, 12)
]
SETTINGS = {"epochs": 3, "synthetic": {"rows": 9}, "feature_cols": [{"name": "item_id"}]}


class Sink:
    """Records what it receives."""

    def __init__(self, last_step=-1):
        self.last_step, self.told = last_step, []

    def settings(self, values):
        self.told.append(("settings", values))

    def scalars(self, values, step):
        self.told.append((step, values))

    def final(self, values):
        self.told.append(("final", values))

    def close(self, *, completed):
        self.told.append(("close", completed))


@pytest.fixture
def files(tmp_path):
    """Of a run in a model root of its own."""
    directory = tmp_path / "checkpoints" / "Shop"
    directory.mkdir(parents=True)
    return RunFiles(directory, "QIN_x_s3")


def tell(tracker, curve=CURVE, metrics=None):
    """A whole run, whose curve grows."""
    tracker.started(SETTINGS)
    for count in range(1, len(curve) + 1):
        tracker.evaluated(curve[:count])
    tracker.evaluated(curve)
    if metrics is not None:
        tracker.finished(metrics)
    tracker.close()


def test_everything_is_logged_once():
    sink = Sink()
    tell(tracking.Tracking(sink), metrics={"test": {"AUC": 0.7, "gAUC": None}})
    assert [what for what, _ in sink.told] == ["settings", 4, 8, 12, "final", "close"]
    assert sink.told[0][1] == {"epochs": 3, "synthetic.rows": 9, "feature_cols": '[{"name": "item_id"}]'}
    assert sink.told[2][1] == {"train/loss": 0.125, "train/learning_rate": 0.1, "valid/AUC": 0.58}
    assert sink.told[-2:] == [("final", {"final_test/AUC": 0.7}), ("close", True)]


def test_a_resumed_run_tells_what_is_new_and_a_failed_one_is_not_complete():
    sink = Sink(last_step=8)
    tell(tracking.Tracking(sink))
    assert [what for what, _ in sink.told] == ["settings", 12, "close"]
    assert sink.told[-1] == ("close", False)


def test_a_tracker_that_fails_ends_no_run(caplog):
    class Full(Sink):
        def scalars(self, values, step):
            raise OSError(28, "No space left on device")

    sink = Full()
    tell(tracking.Tracking(sink), metrics={"test": {"AUC": 0.7}})
    assert [record.getMessage() for record in caplog.records] == [
        "the tracker failed and receives no further values ([Errno 28] No space left on device); the result "
        "is not affected"
    ]
    assert [what for what, _ in sink.told] == ["settings"]


def test_a_tracker_that_cannot_begin_ends_no_run(files, caplog, monkeypatch):
    class Module:
        @staticmethod
        def open_sink(files, *, resumed):
            raise ConnectionError("no server")

    monkeypatch.setattr(importlib, "import_module", lambda name: Module)
    tell(tracking.make_tracker("mlflow", files), metrics={})
    assert [record.getMessage() for record in caplog.records] == [
        "the tracker failed and receives no further values (no server); the result is not affected"
    ]


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_missing_package_names_the_extra(monkeypatch, files, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, tracking.TRACKERS[name], raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'fuxictr-multimodal\[{name}\]'"):
        tracking.make_tracker(name, files)


def test_unknown_tracker_and_none(files):
    with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
        tracking.make_tracker("tensorbord", files)
    tell(tracking.make_tracker(None, files), metrics={})


def test_the_command_knows_all_trackers_and_imports_none(repository, tmp_path):
    (tmp_path / "imported.py").write_text(
        "import sys\nfrom fuxictr_multimodal.training import runner\n"
        "print([name for name in ('tensorboard', 'mlflow', 'wandb') if name in sys.modules])"
    )
    assert type_command(["imported.py"], folder=tmp_path).out.splitlines()[-1] == "[]"
    command = [sys.executable, repository / "run_expid.py", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=True).stdout
    assert f"--tracker {{{','.join(tracking.TRACKERS)}}}" in said


# With the packages themselves, where they are installed; their own warnings are theirs.


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_the_run(files):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tracking.make_tracker("tensorboard", files), CURVE[:2])
    tell(tracking.make_tracker("tensorboard", files, resumed=True), metrics={"test": {"AUC": 0.7}})
    found = EventAccumulator(str(files.tracker("tensorboard"))).Reload()
    assert [event.step for event in found.Scalars("valid/AUC")] == [4, 8, 12]
    assert [event.value for event in found.Scalars("final_test/AUC")] == [pytest.approx(0.7)]
    assert "settings/text_summary" in found.Tags()["tensors"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_run(files, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tell(tracking.make_tracker("mlflow", files), CURVE[:2])
    tell(tracking.make_tracker("mlflow", files, resumed=True), metrics={"test": {"AUC": 0.7}})
    client = MlflowClient(tracking_uri=f"sqlite:///{files.directory.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("Shop").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["synthetic.rows"]) == ("QIN_x_s3", "FINISHED", "9")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [4, 8, 12]
    assert run.data.metrics["final_test/AUC"] == 0.7
    tell(tracking.make_tracker("mlflow", files))  # a run that is replaced is another one
    assert len(client.search_runs([run.info.experiment_id])) == 2


def wandb_records(path):
    """Records of a `.wandb` file: after 7 bytes blocks of 32 KiB in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def values(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_the_run_offline(files, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # what it has read of the environment
    monkeypatch.setenv("WANDB_MODE", "offline")
    tell(tracking.make_tracker("wandb", files), metrics={"test": {"AUC": 0.7}})
    wandb.teardown()  # its process writes the last records
    (path,) = files.tracker("wandb").glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(path))
    history = [values(record.history.item) for record in records if record.HasField("history")]
    assert [(row["_step"], row["valid/AUC"]) for row in history] == [(4, 0.54), (8, 0.58), (12, 0.62)]
    told = [values([*record.summary.update, *record.run.config.update]) for record in records]
    told += [values(record.config.update) for record in records]
    assert [row["final_test/AUC"] for row in told if "final_test/AUC" in row] == [0.7]
    assert [row["synthetic.rows"] for row in told if "synthetic.rows" in row] == [9]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_login_is_one_error(files, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--tracker wandb needs a login: run `wandb login`.*WANDB_MODE=offline"):
        tracking.make_tracker("wandb", files)
    assert not files.tracker("wandb").exists()
