"""Sampling, optimiser and the stage loop: pure functions of the step, same trace after a kill, divergence is named."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from bilingual_embedding.training.mining import mine_negatives
from bilingual_embedding.training.optimisation import OptimiserSettings, make_optimiser
from bilingual_embedding.training.sampling import RowBatches, SourceSchedule, TokenBatches
from bilingual_embedding.training.stage_trainer import StageTrainer, Step, TrainingDiverged
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.training.state_file import SaveTimes
from fuxictr_multimodal.training.state_owner import Owner


def test_sources_come_at_their_rates_and_are_counted():
    schedule = SourceSchedule([0.7, 0.3], steps=5000, seed=1)
    assert (schedule.sources == 0).mean() == pytest.approx(0.7, abs=0.02)
    seen = {0: 0, 1: 0}
    for step in range(200):
        source, number = schedule.at(step)
        assert number == seen[source]
        seen[source] += 1
    with pytest.raises(ConfigError, match="rates"):
        SourceSchedule([0.0], steps=5, seed=0)


def test_row_batches_are_epochs_without_doubles():
    batches = RowBatches(25, batch_size=8, seed=3)
    epoch = np.concatenate([batches.batch(i) for i in range(3)])
    assert len(set(epoch.tolist())) == 24
    assert not np.array_equal(batches.batch(0), batches.batch(3))
    assert np.array_equal(batches.batch(5), RowBatches(25, batch_size=8, seed=3).batch(5))
    assert len(RowBatches(5, batch_size=8, seed=0).batch(7)) == 5


def test_token_batches_hold_every_row_once_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    batches = TokenBatches(lengths, batch_tokens=300, seed=3)
    for epoch in range(2):
        rows = [batches.batch(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]
        assert sorted(np.concatenate(rows)) == list(range(500))
        sizes = [lengths[r].sum() for r in rows]
        assert min(sizes) > 0
        assert max(sizes) < 300 * 1.1 + 100
    with pytest.raises(ConfigError, match="batch_tokens 50 is below the longest row"):
        TokenBatches(lengths, batch_tokens=50, seed=0)


def test_norms_and_biases_are_not_decayed():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, free = make_optimiser(model, OptimiserSettings(learning_rate=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert len(free["params"]) == 3
    assert free["weight_decay"] == 0.0


class Regression:
    """A model with dropout on a stream that is a function of the step."""

    def __init__(self, state_file=None, steps=30, die_at=None, learning_rate=0.05, name="toy"):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.die_at = die_at
        settings = OptimiserSettings(learning_rate=learning_rate, warmup_steps=5)
        self.trainer = StageTrainer(
            name=name, model=self.model, take_step=self.step, steps=steps, settings=settings, state_file=state_file,
            save_steps=10,
        )  # fmt: skip

    def step(self, number):
        if number == self.die_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(number))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return Step(loss.detach(), texts=16, tokens=96, task="square")


def test_a_killed_run_repeats_the_trace(tmp_path):
    whole = Regression()
    expected = whole.trainer.run().losses
    with pytest.raises(KeyboardInterrupt):
        Regression(tmp_path / "state.pt", die_at=27).trainer.run()
    torch.manual_seed(99)
    again = Regression(tmp_path / "state.pt")
    assert again.trainer.resume()
    assert again.trainer.progress.step == 20
    found = again.trainer.run()
    assert found.losses == expected
    assert found.tokens == 30 * 96
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    again.trainer.discard_state()
    assert not list(tmp_path.iterdir())
    assert not again.trainer.resume()


def test_the_last_two_states_are_kept_and_a_damaged_one_falls_back(tmp_path, caplog):
    expected = Regression().trainer.run().losses
    with pytest.raises(KeyboardInterrupt):
        Regression(tmp_path / "state.pt", die_at=27).trainer.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.pt", "state.pt.before"]
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-999])
    again = Regression(tmp_path / "state.pt")
    assert again.trainer.resume()
    assert again.trainer.progress.step == 10
    assert f"the run resumes from the state before, {tmp_path / 'state.pt.before'}" in caplog.text
    assert again.trainer.run().losses == expected
    again.trainer.discard_state()
    assert not list(tmp_path.iterdir())


def test_states_by_minutes_and_at_a_signal_change_nothing(tmp_path):
    expected = Regression().trainer.run().losses
    regression = Regression(tmp_path / "state.pt")
    regression.trainer.saving = SaveTimes(minutes=1e-9)
    take_step = regression.trainer.take_step

    def signalled(number):
        if number == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(number)

    regression.trainer.take_step = signalled
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted), raised_on_signals():
            regression.trainer.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    steps = [torch.load(tmp_path / f"state.pt{end}", weights_only=True)["progress"]["step"] for end in (".before", "")]
    assert steps == [13, 14]
    again = Regression(tmp_path / "state.pt")
    assert again.trainer.resume()
    assert again.trainer.run().losses == expected


def test_curve_has_means_by_task():
    progress = Regression().trainer.run()
    curve = progress.curve()
    assert len(curve) == 15
    assert curve[-1]["step"] == 30
    assert curve[-1]["loss"]["square"] == pytest.approx(np.mean(progress.losses[-2:]))
    assert curve[-1]["loss"]["square"] < curve[0]["loss"]["square"]


def test_state_of_another_stage_is_refused(tmp_path):
    Regression(tmp_path / "state.pt").trainer.run()
    with pytest.raises(DataError, match="is of stage 'toy' with 30 steps, not 'other' with 30"):
        Regression(tmp_path / "state.pt", name="other").trainer.resume()


def test_a_state_of_another_run_is_refused_and_the_one_before_taken(tmp_path, caplog):
    def owner(seed):
        return Owner({"seed": seed}, may_differ=lambda key: False)

    path = tmp_path / "state.pt"
    for seed, name in ((1, "own"), (2, "other")):
        run = Regression(tmp_path / name, die_at=27)
        run.trainer.owner = owner(seed)
        with pytest.raises(KeyboardInterrupt):
            run.trainer.run()
    (tmp_path / "other").replace(path)
    (tmp_path / "own.before").replace(tmp_path / "state.pt.before")
    again = Regression(path)
    again.trainer.owner = owner(1)
    assert again.trainer.resume()
    assert again.trainer.progress.step == 10
    assert f"{path} is of another run (seed: 2 there, 1 here): the run resumes from the state before" in caplog.text
    (tmp_path / "other.before").replace(tmp_path / "state.pt.before")
    with pytest.raises(DataError, match=r"before is of another run \(seed: 2 there, 1 here\): --overwrite starts"):
        again.trainer.resume()
    # Versions before wrote no owner.
    state = torch.load(path, weights_only=True)
    del state["run"]
    torch.save(state, path)
    assert again.trainer.resume()
    assert again.trainer.progress.step == 20


def test_a_state_whose_losses_are_of_other_steps_is_damaged(tmp_path):
    path = tmp_path / "state.pt"
    Regression(path, steps=5).trainer.run()
    state = torch.load(path, weights_only=True)
    state["progress"]["step"] = 4
    torch.save(state, path)
    with pytest.raises(DataError, match=r"cannot be read \(it is after step 4 of 5, but has 5 losses of 5 steps\)"):
        Regression(path, steps=5).trainer.resume()


def test_divergence_is_named():
    regression = Regression()
    regression.trainer.take_step = lambda number: Step(torch.tensor(float("nan")), 1, 1, "nan")
    with pytest.raises(TrainingDiverged, match="loss of stage toy is not finite before step 10"):
        regression.trainer.run()


def test_mined_negatives_are_near_but_not_the_answer():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = np.arange(50) // 2  # each text twice
    found = mine_negatives(vectors, vectors, negatives=3, groups=groups)
    score = vectors @ vectors.T
    for row in range(50):
        assert (groups[found[row]] != groups[row]).all()
        allowed = np.where((groups != groups[row]) & (score[row] <= 1 - 0.05), score[row], -9)
        assert found[row].tolist() == np.argsort(-allowed, kind="stable")[:3].tolist()
    skipped = mine_negatives(vectors, vectors, negatives=2, skip=1, groups=groups)
    assert np.array_equal(skipped, found[:, 1:])
