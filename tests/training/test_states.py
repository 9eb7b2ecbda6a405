"""States in the middle of an epoch: a killed run ends as one that was not killed, whatever it had going on."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch

from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.errors import ConfigError, DataError, TrainingDiverged
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.state_file import (
    SaveTimes,
    StateFile,
    host_random_state,
    set_host_random_state,
    set_random_state,
)
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.training.trainer import Trainer

QIN = (
    "epochs=1", "weight_averaging=0.9", "contrastive_loss=0.1", "accumulation_steps=3", "eval_steps=10",
    "net_dropout=0.1", 'feature_dropout={"likes_level": 0.2}', "early_stop_patience=9", "save_steps=2",
)  # fmt: skip
STREAMED = (
    "epochs=1", "loader_mode=streaming", "embedding_update=rowwise", "rowwise_min_rows=9", "accumulation_steps=2",
    "first_order=[item_id]", "first_order_averaging=0.9", "save_steps=5",
)  # fmt: skip
# The rate is so high that the second evaluation is worse: the rate decays, and the run stops early.
DIN = (
    "dataset_id=Synthetic_test", "batch_size=256", "epochs=2", "eval_steps=5", "learning_rate=0.3", "save_steps=3",
    "net_dropout=0.2", "batch_norm=True", "early_stop_patience=1", "accumulation_steps=2", "cpu_threads=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("fuxictr_multimodal.training.runner.draw_curves_beside", lambda *arguments: None)


@pytest.fixture
def kill_at_step(run_qin, monkeypatch):
    """Run, and end before so many steps in a way that nothing catches."""

    class Killed(BaseException):
        pass

    def run(count, *settings, **options):
        steps = 0
        step = Trainer._train_step

        def killed(self, inputs):
            nonlocal steps
            steps += 1
            if steps == count:
                raise Killed
            return step(self, inputs)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_train_step", killed)
            with pytest.raises(Killed):
                run_qin(*settings, **options)

    return run


def left_by(report, path):
    """All that a run leaves, but times."""
    curve = [{key: value for key, value in row.items() if key != "seconds"} for row in report.curve]
    weights = torch.load(path.with_name(f"{report.run}.model"), weights_only=True)
    scores = np.load(path.with_name(f"{report.run}.predictions.npz"))
    return (
        (curve, report.metrics, report.best_epoch),
        {name: weight.numpy().tobytes() for name, weight in weights.items()},
        {name: values.tobytes() for name, values in scores.items()},
    )


def states(path):
    return sorted(file.name for file in path.parent.iterdir() if ".state" in file.name)


@pytest.mark.parametrize(
    ("expid", "settings", "kills"),
    [("QIN_test", QIN, (6, 10)), ("QIN_test", STREAMED, (9,)), ("DIN_demo", DIN, (5, 9))],
    ids=["QIN", "streamed", "DIN"],
)
def test_a_run_killed_within_an_epoch_ends_the_same(run_qin, kill_at_step, expid, settings, kills):
    whole = left_by(*run_qin(*settings, expid=expid, name="whole"))
    options = {"expid": expid, "name": "killed"}
    for place, nth in enumerate(kills):
        # What the process drew besides has no part in it.
        torch.manual_seed(place)
        kill_at_step(nth, *settings, **options, resume=place > 0)
    report, path = run_qin(*settings, **options, resume=True)
    assert left_by(report, path) == whole
    assert "Resume in epoch" in path.with_name("killed.log").read_text()
    assert states(path) == []


def test_when_states_are_saved_is_no_setting_of_the_result(run_qin, kill_at_step):
    whole, _ = run_qin("epochs=2", name="whole")
    kill_at_step(21, "epochs=2", "save_steps=9", name="killed")
    resumed, _ = run_qin("epochs=2", "save_minutes=null", name="killed", resume=True)
    assert [row["train_loss"] for row in resumed.curve] == [row["train_loss"] for row in whole.curve]
    assert resumed.config_hash == whole.config_hash == config_hash({**whole.config, "save_steps": 7})


def test_states_are_saved_by_minutes_and_the_last_two_are_kept(run_qin, kill_at_step, monkeypatch, tmp_path):
    saved = []
    write = StateFile.write
    monkeypatch.setattr(
        StateFile, "write", lambda self, state: (saved.append(state["progress"]["step"]), write(self, state))
    )
    run_qin("epochs=1", name="by_evaluations")
    assert saved == [16]
    saved.clear()
    run_qin("epochs=1", "save_minutes=1.e-9", name="by_minutes")
    assert saved == list(range(1, 17))
    kill_at_step(15, "epochs=1", "save_steps=5", name="left")
    kept = tmp_path / "checkpoints/Synthetic_test/left.state"
    steps = [torch.load(file, weights_only=True)["progress"]["step"] for file in (f"{kept}.before", kept)]
    assert steps == [5, 10]


def test_a_clock_says_when_a_state_is_due(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fuxictr_multimodal.training.state_file.time.monotonic", lambda: now[0])
    times = SaveTimes(minutes=10, steps=4)
    assert [times.due(step) for step in (3, 4, 5)] == [False, True, False]
    now[0] = 600.0
    assert times.due(5)
    times.saved()
    assert not times.due(5)
    assert not SaveTimes().due(4)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "not finite"])
def test_a_damaged_state_falls_back_to_the_one_before(run_qin, kill_at_step, tmp_path, damage):
    whole = left_by(*run_qin("epochs=1", name="whole"))
    kill_at_step(15, "epochs=1", "save_steps=5", name="damaged")
    state = tmp_path / "checkpoints/Synthetic_test/damaged.state"
    content = bytearray(state.read_bytes())
    if damage == "not finite":
        stored = torch.load(state, weights_only=True)
        stored["model"]["qnn.fc.bias"][0] = float("nan")
        torch.save(stored, state)
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    else:
        state.write_bytes(content[: len(content) // 3] if damage == "cut" else b"")
    report, path = run_qin("epochs=1", "save_steps=5", name="damaged", resume=True)
    assert left_by(report, path) == whole
    log = path.with_name("damaged.log").read_text()
    assert f"{state}" in log
    assert f"the run resumes from the state before, {state}.before" in log
    assert states(path) == []


def test_a_damaged_state_does_not_take_the_place_of_a_good_one(tmp_path, caplog):
    file = StateFile(tmp_path / "x.state")
    for step in (1, 2):
        file.write({"step": step})
    (tmp_path / "x.state").write_bytes(b"damaged")
    again, seen = StateFile(tmp_path / "x.state"), []
    assert again.take_up(lambda state, path: seen.append((state["step"], path.name)))
    assert seen == [(1, "x.state.before")]
    assert "x.state cannot be read (it is not a file of torch.save, or its beginning is damaged)" in caplog.text
    again.write({"step": 3})
    assert StateFile(tmp_path / "x.state").take_up(lambda state, path: seen.append(state["step"]))
    (tmp_path / "x.state").unlink()
    assert StateFile(tmp_path / "x.state").take_up(lambda state, path: seen.append(state["step"]))
    assert seen[1:] == [3, 1]
    (tmp_path / "x.state.before").write_bytes(b"damaged too")
    with pytest.raises(DataError, match=r"x\.state\.before cannot be read .*: --overwrite starts the run over"):
        again.take_up(lambda state, path: None)
    again.remove()
    assert not list(tmp_path.iterdir())
    assert not again.take_up(lambda state, path: None)


def test_a_run_of_which_only_the_state_before_is_left_is_unfinished(run_qin, kill_at_step, tmp_path):
    whole, _ = run_qin("epochs=1", name="whole")
    kill_at_step(15, "epochs=1", "save_steps=5")
    folder = tmp_path / "checkpoints/Synthetic_test"
    (folder / "QIN_test.state").unlink()
    with pytest.raises(ConfigError, match=r"QIN_test\.state\.before belongs to an unfinished run: --resume"):
        run_qin("epochs=1")
    report, path = run_qin(resume=True)
    assert [row["train_loss"] for row in report.curve] == [row["train_loss"] for row in whole.curve]
    kill_at_step(15, "epochs=1", "save_steps=5", overwrite=True)
    assert states(path) == ["QIN_test.state", "QIN_test.state.before"]
    kill_at_step(1, "epochs=1", overwrite=True)
    assert states(path) == []


def test_a_signal_saves_the_step_that_it_came_in(run_qin, monkeypatch, tmp_path):
    whole, _ = run_qin("epochs=1", name="whole")
    step, calls = Trainer._train_step, []

    def interrupted(self, inputs):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, inputs)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    try:
        with pytest.raises(Interrupted) as caught, raised_on_signals():
            run_qin("epochs=1")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(calls) == 6
    state = tmp_path / "checkpoints/Synthetic_test/QIN_test.state"
    said = f"interrupted by SIGTERM: {state} holds its last saved step, the same command with --resume continues it"
    assert str(caught.value) == said
    assert torch.load(state, weights_only=True)["progress"]["step"] == 6
    assert Report.read(state.with_name("QIN_test.report.json")).status == "interrupted"
    resumed, path = run_qin("epochs=1", resume=True)
    assert [row["train_loss"] for row in resumed.curve] == [row["train_loss"] for row in whole.curve]
    assert "Resume in epoch 1 after step 6" in path.with_name("QIN_test.log").read_text()


def test_a_training_that_diverges_saves_no_state_of_it(run_qin, monkeypatch, tmp_path):
    step = Trainer._train_step

    def diverging(self, inputs):
        loss = step(self, inputs)
        with torch.no_grad():
            self.model.qnn.fc.bias.fill_(float("nan") if self.progress.step >= 7 else 0.0)
        return loss

    monkeypatch.setattr(Trainer, "_train_step", diverging)
    with pytest.raises(TrainingDiverged, match="is not a number in epoch 1"):
        run_qin("epochs=1", "save_steps=1")
    state = torch.load(tmp_path / "checkpoints/Synthetic_test/QIN_test.state", weights_only=True)
    assert state["progress"]["step"] == 7


def test_random_numbers_of_gpus_are_taken_up_by_those_that_are_here(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: taken.append((device, state.item())))
    for before in (0, 1, 4):
        set_random_state(torch.get_rng_state(), [torch.tensor(10 * gpu) for gpu in range(before)])
    assert taken == [(0, 0), (0, 0), (1, 10)]


def test_random_numbers_of_python_and_numpy_are_part_of_a_state(tmp_path):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002, which leaves the second one of a pair
    torch.save(host_random_state(), tmp_path / "state")
    drawn = [random.random(), np.random.normal(), np.random.rand()]  # noqa: NPY002
    random.seed(4)
    np.random.seed(4)  # noqa: NPY002
    set_host_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [random.random(), np.random.normal(), np.random.rand()] == drawn  # noqa: NPY002


def test_a_state_of_an_earlier_version_resumes(run_qin, kill_at_step, tmp_path):
    whole, _ = run_qin("epochs=2", name="whole")
    kill_at_step(20, "epochs=2", name="older")
    path = tmp_path / "checkpoints/Synthetic_test/older.state"
    state = torch.load(path, weights_only=True)
    for key in ("rng_host", "loss_sum", "loss_steps", "gradients"):
        state.pop(key)
    torch.save(state, path)
    resumed, _ = run_qin("epochs=2", name="older", resume=True)
    assert [row["train_loss"] for row in resumed.curve] == [row["train_loss"] for row in whole.curve]


def test_moments_of_other_weights_are_refused(run_qin, kill_at_step, tmp_path):
    kill_at_step(8, "epochs=1", "save_steps=6", name="other")
    path = tmp_path / "checkpoints/Synthetic_test/other.state"
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2, 2)
    torch.save(state, path)
    with pytest.raises(DataError, match=r"other\.state cannot be read \(exp_avg of weight 0 has shape \(2, 2\)"):
        run_qin("epochs=1", name="other", resume=True)
    assert json.loads(path.with_name("other.report.json").read_text())["status"] == "failed"


def test_weights_that_are_not_finite_are_never_used(run_qin, data_root, tmp_path, repository):
    _, path = run_qin("epochs=1", name="trained")
    file = path.with_name("trained.model")
    weights = torch.load(file, weights_only=True)
    weights["qnn.fc.bias"][0] = float("nan")
    torch.save(weights, file)
    overrides = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0"]
    experiment = Experiment.load(repository / "config", expid="QIN_test", overrides=overrides, name="trained")
    model, _ = experiment.build_model(experiment.feature_map())
    said = r"trained\.model: the weight 'qnn.fc.bias' holds a value that is not finite \(NaN or infinite\)"
    with pytest.raises(DataError, match=said):
        load_trained(experiment, model)
    with pytest.raises(DataError, match=said):
        model.load_weights(file)
    with pytest.raises(DataError, match=said):
        run_qin("epochs=1", "warm_start=trained", name="second")
