"""A state that is not of the run that resumes, or that contradicts itself, is refused before a step is trained."""

import re
import shutil

import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.optimizer_state import check_optimizer_state
from fuxictr_multimodal.training.state_owner import Owner
from fuxictr_multimodal.training.trainer import Trainer
from tests.training.test_states import kill_at_step, left_by, no_pictures, states

__all__ = ["kill_at_step", "no_pictures"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints/Synthetic_test"


@pytest.fixture
def untrained(monkeypatch):
    """Steps that a test must not come to."""

    def step(self, inputs):
        raise AssertionError("a step was trained")

    def forbid():
        monkeypatch.setattr(Trainer, "_train_step", step)

    return forbid


def test_a_state_of_another_run_is_refused_and_the_one_before_taken(run_qin, kill_at_step, folder, untrained):
    whole = left_by(*run_qin("epochs=1", name="whole"))
    kill_at_step(15, "epochs=1", "save_steps=5", name="own")
    kill_at_step(15, "epochs=1", "save_steps=5", "learning_rate=0.05", name="other", seed=6)
    other = folder / "other_s6.state"
    shutil.copy(other, folder / "own.state")
    report, path = run_qin("epochs=1", name="own", resume=True)
    assert left_by(report, path) == whole
    differing = "seed: 6 there, 20242025 here, learning_rate: 0.05 there, 0.002 here"
    said = f"own.state is of another run ({differing}): the run resumes from the state before"
    assert said in path.with_name("own.log").read_text()
    assert states(path) == ["other_s6.state", "other_s6.state.before"]
    kill_at_step(6, "epochs=1", "save_steps=5", name="alone")
    shutil.copy(other, folder / "alone.state")
    untrained()
    expected = r"alone\.state is of another run \(seed: 6 there, 20242025 here, .*\): --overwrite starts the run over$"
    with pytest.raises(DataError, match=expected):
        run_qin(name="alone", resume=True)


def test_another_build_is_named_and_what_may_differ_is_not(tmp_path):
    own = Owner({"rate": 1, "epochs": 3, "nested": {"a": (1, 2)}}, {"epochs"}.__contains__, data="one")
    path = tmp_path / "x.state"
    own.refuse_another(own.as_dict(), path)
    own.refuse_another(None, path)
    own.refuse_another({"settings": {"rate": 1, "epochs": 2, "nested": {"a": [1, 2]}}, "data": "one"}, path)
    said = "x.state is of another run (nested.a: [1, 3] there, [1, 2] here, it has read another build of the dataset)"
    with pytest.raises(DataError, match=re.escape(said)):
        own.refuse_another({"settings": {"rate": 1, "nested": {"a": [1, 3]}}, "data": "two"}, path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda state: state["loader"].update(batch=6), "it is after step 5, but its training loader after step 6"),
        (lambda state: state["progress"].update(step=8), "it is after step 8, but its training loader after step 5"),
        (lambda state: state["progress"].update(epoch=-1), "step 5 is not in its epoch 0: an epoch has 16 steps"),
        (lambda state: state.update(loss_sum=torch.tensor(float("nan"))), "its sum of losses is not finite"),
        (
            lambda state: state.update(epoch_steps=None) or state["loader"].update(batch=6),
            "it is after step 5, but its training loader after step 6",
        ),
        (
            lambda state: state["optimizer"]["param_groups"][0].pop("betas"),
            "its optimizer is not Adam: they differ in betas",
        ),
    ],
    ids=["loader", "step", "epoch", "loss", "earlier version", "optimizer"],
)
def test_a_state_that_contradicts_itself_is_damaged(run_qin, kill_at_step, folder, untrained, edit, said):
    kill_at_step(6, "epochs=1", "save_steps=5", name="edited")
    path = folder / "edited.state"
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    untrained()
    with pytest.raises(DataError, match=rf"edited\.state cannot be read \({said}.*\): --overwrite starts"):
        run_qin(name="edited", resume=True)


@pytest.mark.parametrize("name", ["own.state", "own.state.before"])
def test_a_folder_in_the_place_of_a_state_is_said_before_the_training(run_qin, kill_at_step, folder, untrained, name):
    kill_at_step(15, "epochs=1", "save_steps=5", name="own")
    (folder / name).unlink()
    (folder / name).mkdir()
    untrained()
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(DataError, match=rf"{re.escape(name)} is a folder, but .* keeps its state there: move it"):
            run_qin(name="own", **options)


def stepped(kind, **settings):
    """An optimizer of two weights after a step."""
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))]
    optimizer = kind(weights, lr=0.1, **settings)
    for weight in weights[:2]:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer


KINDS = {
    "Adam": {}, "AdamW": {"amsgrad": True}, "SGD": {"momentum": 0.9}, "Adagrad": {}, "RMSprop": {"centered": True},
    "Adadelta": {}, "Adamax": {}, "NAdam": {}, "Adafactor": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_takes_its_own_state_and_no_other(kind):
    own = stepped(getattr(torch.optim, kind), **KINDS[kind])
    check_optimizer_state(own.state_dict(), own)
    for other in KINDS.keys() - {kind}:
        if {kind, other} != {"Adam", "AdamW"}:
            state = stepped(getattr(torch.optim, other), **KINDS[other]).state_dict()
            with pytest.raises(ValueError, match=rf"its optimizer is not {kind}: they differ in \w+"):
                check_optimizer_state(state, own)
    state = own.state_dict()
    lost = sorted(name for name, value in state["state"][0].items() if isinstance(value, torch.Tensor))[0]
    state["state"][0] = {name: value for name, value in state["state"][0].items() if name != lost} | {"other": 1}
    with pytest.raises(ValueError, match=f"weight 0 lacks {lost}"):
        check_optimizer_state(state, own)


def test_moments_have_the_shape_of_their_weight():
    own = stepped(torch.optim.Adam)
    state = own.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(6)
    with pytest.raises(ValueError, match=r"exp_avg of weight 0 has shape \(6,\), its weight \(2, 3\)"):
        check_optimizer_state(state, own)
