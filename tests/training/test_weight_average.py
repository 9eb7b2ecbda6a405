"""The average of weights: by hand, in training, and its absence; `test_runner` kills a run that has one."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.trainer import Trainer
from fuxictr_multimodal.training.weight_average import WeightAverage


def by_hand(values, decay):
    """The formula on the weights of each step, first those before any step; exact fractions."""
    average = values[0].double()
    for step, value in enumerate(values[1:], start=1):
        kept = float(min(Fraction(decay), Fraction(1 + step, 10 + step)))
        average = kept * average + (1 - kept) * value.double()
    return average


@pytest.fixture
def steps_of(monkeypatch):
    """The state of the model before its first step and after each one, filled while it trains."""
    states = []

    def start(self, *arguments):
        states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return fit(self, *arguments)

    def step(self, inputs):
        loss = train_step(self, inputs)
        states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return loss

    fit, train_step = Trainer.fit, Trainer._train_step
    monkeypatch.setattr(Trainer, "fit", start)
    monkeypatch.setattr(Trainer, "_train_step", step)
    return states


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_checkpoint_holds_the_average_of_all_steps(run_qin, steps_of, decay):
    report, path = run_qin("epochs=2", f"weight_averaging={decay}", "save_best_only=False", "batch_norm=True", seed=3)
    kept = torch.load(path.with_name(f"{report.run}.model"), weights_only=True)
    assert len(steps_of) == 1 + 2 * 16
    assert any("running_var" in name for name in kept)
    for name, value in kept.items():
        if value.is_floating_point():
            expected = by_hand([state[name] for state in steps_of], decay)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
            # Whatever training moves, the average is behind.
            moved = not torch.equal(steps_of[0][name], steps_of[-1][name])
            assert moved == (not torch.allclose(value, steps_of[-1][name], rtol=1e-5, atol=1e-9))
    # What was evaluated while training is what the checkpoint scores.
    assert report.metrics["valid"]["AUC"] == pytest.approx(report.curve[-1]["metrics"]["AUC"], abs=1e-9)


def test_training_is_the_same_and_scoring_is_not(run_qin):
    plain, _ = run_qin("epochs=2", seed=1)
    averaged, _ = run_qin("epochs=2", "weight_averaging=0.9", seed=1, overwrite=True)
    assert [row["train_loss"] for row in averaged.curve] == [row["train_loss"] for row in plain.curve]
    assert averaged.metrics["valid"] != plain.metrics["valid"]
    none, _ = run_qin("epochs=2", "weight_averaging=0", seed=1, overwrite=True)
    assert (none.curve[0]["metrics"], none.metrics) == (plain.curve[0]["metrics"], plain.metrics)


def test_models_of_the_zoo_are_averaged(run_qin, steps_of):
    averaged, path = run_qin("epochs=1", "weight_averaging=0.8", "dataset_id=Synthetic_test", expid="DIN_demo")
    kept = torch.load(path.with_name(f"{averaged.run}.model"), weights_only=True)
    name = next(name for name in kept if name.endswith("weight"))
    torch.testing.assert_close(
        kept[name].double(), by_hand([state[name] for state in steps_of], 0.8), rtol=1e-5, atol=1e-7
    )
    assert averaged.status == "completed"


@pytest.mark.parametrize("state", [None, {"steps": 3, "averages": {"bias": torch.zeros(1)}}])
def test_a_state_without_these_averages_is_not_gone_on_from(state):
    """The runner refuses it by the report; this is what is left where the report is gone."""
    average = WeightAverage(nn.Linear(2, 1), 0.9)
    with pytest.raises(ConfigError, match="another `weight_averaging`.*without --resume"):
        average.load_state_dict(state)
    assert average.steps == 0


def test_after_a_score_that_fails_training_has_its_own_weights():
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.9)
    nn.init.ones_(model.weight)
    average.update()

    def score():
        assert not torch.equal(model.weight, torch.ones(1, 2))
        raise RuntimeError("scoring failed")

    with pytest.raises(RuntimeError, match="scoring"), average.in_place():
        score()
    assert torch.equal(model.weight, torch.ones(1, 2))


def test_a_tensor_of_two_layers_is_averaged_once_and_a_frozen_or_whole_one_never():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    model["a"].weight = model["b"].weight
    model["norm"].weight.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    before = model["b"].weight.detach().clone()
    with torch.no_grad():
        model["b"].weight.add_(11.0)
        model["norm"].running_mean.add_(11.0)
        model["norm"].num_batches_tracked.add_(1)
    average.update()  # keeps 2/11
    with average.in_place():
        torch.testing.assert_close(model["b"].weight.detach(), before + 9)
        assert model["a"].weight is model["b"].weight
        torch.testing.assert_close(model["norm"].running_mean, torch.full((2,), 9.0))
        assert model["norm"].num_batches_tracked == 1
    torch.testing.assert_close(model["b"].weight.detach(), before + 11)
    names = average.state_dict()["averages"]
    assert set(names) == {"b.weight", "b.bias", "norm.bias", "norm.running_mean", "norm.running_var"}


@pytest.mark.parametrize("decay", [1, -0.1, "0.9", True])
def test_a_decay_that_does_not_fit(run_qin, decay):
    with pytest.raises(ConfigError, match=r"weight_averaging must be a number from 0 to below 1"):
        run_qin(f"weight_averaging={decay!r}")


def test_a_smooth_average_of_noise_is_nearer_to_its_centre():
    rng, model = np.random.default_rng(0), nn.Linear(50, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.99)
    for _ in range(2000):
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(1 + rng.normal(size=(1, 50))))
        average.update()
    with average.in_place():
        # Variance of an exponential average: (1 - d) / (1 + d) = 1/199 of the noise.
        error = (model.weight - 1).square().mean().item()
    assert 0.5 / 199 < error < 2 / 199
