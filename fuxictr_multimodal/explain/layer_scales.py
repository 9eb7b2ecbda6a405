"""Scales of activations and gradients by layer, to find badly scaled initial or trained weights."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbedding
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.at_once import refuse_explanation
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.training.trainer import fit_batches

# The optimized implementation reads the weights of its layers without calling them: hooks would see nothing.
SEEN_BY_HOOKS = {"form": "plain", "compile": False}


@dataclass(frozen=True)
class LayerScale:
    """Scales of one module over some batches; RMS is the root of the mean square over all numbers.

    Attributes:
        name: as `named_modules()` has it.
        kind: its class.
        output: RMS of the output.
        zeros: fraction of exact zeros in the output.
        output_gradient: RMS of the gradient of the loss, a mean over the batch, with respect to the output; None where
            no gradient arrives.
        weights: RMS of all parameters of the module and of what is in it; None if there are none.
        weight_gradient: RMS of their gradient.
    """

    name: str
    kind: str
    output: float
    zeros: float
    output_gradient: float | None
    weights: float | None
    weight_gradient: float | None

    @property
    def ratio(self) -> float | None:
        """Gradient of the weights over the weights: a step of plain descent at rate 1. None where these are all 0."""
        if not self.weights or self.weight_gradient is None:
            return None
        return self.weight_gradient / self.weights

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, for JSON, which has no infinity: what is not finite is written as text."""
        values = {**vars(self), "ratio": self.ratio}
        bad = {name: str(v) for name, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
        return {**values, **bad}


@dataclass(frozen=True)
class Scales:
    """Layers in the order in which they are done, over `batches` batches; `loss` is the mean of theirs.

    `loss` is None where a prediction is not a number: then no gradient was taken.
    """

    fresh: bool
    batches: int
    loss: float | None
    layers: list[LayerScale]


@dataclass
class _Sums:
    squares: float = 0.0
    numbers: int = 0

    def add(self, values: Tensor) -> None:
        # float32 at least: squares of half precision overflow.
        self.squares += float(torch.linalg.vector_norm(values.detach().float())) ** 2
        self.numbers += values.numel()

    @property
    def rms(self) -> float | None:
        return math.sqrt(self.squares / self.numbers) if self.numbers else None


@dataclass
class _Seen:
    module: nn.Module
    output: _Sums = field(default_factory=_Sums)
    gradient: _Sums = field(default_factory=_Sums)
    zeros: int = 0


def experiment_scales(experiment: Experiment, *, batches: int = 4, fresh: bool = False) -> Scales:
    """Scales over the first batches that training sees, with its seed.

    QIN runs in its reference implementation (`form: plain`), which has the same values and gradients: the optimized one
    does not call the modules of quadratic layers, attention and tags, so hooks would see neither outputs nor gradients.
    The reference implementation computes every slot of a history, padding too: it needs more memory, and a lower
    `batch_size` may be necessary.

    Args:
        experiment: loaded.
        batches: how many, fewer where an epoch has fewer.
        fresh: initial weights in place of the checkpoint.

    Raises:
        ConfigError: batches is below 1.
        DataError: it is not trained, and not `fresh`.
    """
    if batches < 1:
        raise ConfigError(f"--batches {batches} must be at least 1")
    # Keys that the constructor names; one that it does not name is none of the model's.
    known = inspect.signature(experiment.zoo_model.model_class).parameters
    seen_by_hooks = {key: value for key, value in SEEN_BY_HOOKS.items() if key in known}
    experiment = replace(experiment, params={**experiment.params, **seen_by_hooks})
    # Seeded as in the runner, so that training starts with the same weights.
    seed_everything(seed=experiment.params["seed"])
    feature_map = experiment.feature_map()
    model, to_inputs = experiment.build_model(feature_map)
    refuse_explanation(model)
    if not fresh:
        load_trained(experiment, model, otherwise="add --fresh for the initial weights")
    loader = experiment.split_loader("train", feature_map, model.device, shuffle=True)
    fit_batches(loader, model)
    found = layer_scales(model, to_inputs, itertools.islice(loader, batches), seed=experiment.params["seed"])
    return replace(found, fresh=fresh)


def layer_scales(model: BaseModel, to_inputs: Callable[[Batch], Any], batches: Iterable[Batch], *, seed: int) -> Scales:
    """Forward and backward passes in training mode, without a step.

    Listed are modules that are called and return a tensor: those with parameters, in themselves or below, and the
    activations of torch. A container of torch speaks through its members. A module that is called several times counts
    all calls. Embedding layers and maps without a bias count without their rows of zeros, which are padding. The loss
    is that of training, with the penalties: they are in the gradients of the weights, not in those of the outputs.

    Weights stay; running statistics of batch norm move as in training.

    Args:
        model: its gradients are dropped, and it is left in training mode.
        to_inputs: turns a batch into what its `forward` reads.
        batches: with labels, on the model's device.
        seed: of the dropout.
    """
    model.train()
    torch.manual_seed(seed)
    seen: dict[str, _Seen] = {}
    hooks = [
        module.register_forward_hook(_watch(name, seen))
        for name, module in model.named_modules()
        if name and _is_listed(module)
    ]
    weight_gradients: dict[Tensor, _Sums] = {parameter: _Sums() for parameter in model.parameters()}
    losses: list[float] = []
    finite = True
    try:
        for batch in batches:
            model.zero_grad(set_to_none=True)
            loss = _loss(model, to_inputs(batch))
            if loss is None:
                finite = False
                break
            loss.backward()
            losses.append(float(loss.detach()))
            for parameter, sums in weight_gradients.items():
                # A row-wise table has a sparse gradient: 0 in all other rows.
                gradient = parameter.grad
                if gradient is not None:
                    sums.add(gradient.coalesce().values() if gradient.is_sparse else gradient)
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
    mean_loss = sum(losses) / len(losses) if finite and losses else None
    layers = [
        _scale(name, one, weight_gradients, 0 if mean_loss is None else len(losses)) for name, one in seen.items()
    ]
    return Scales(False, len(losses) + (not finite), mean_loss, layers)


def _is_listed(module: nn.Module) -> bool:
    if type(module) is nn.Sequential:
        return False
    return type(module).__module__ == "torch.nn.modules.activation" or next(module.parameters(), None) is not None


def _watch(name: str, seen: dict[str, _Seen]) -> Callable[[nn.Module, Any, Any], None]:
    def look(module: nn.Module, _: tuple, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        one = seen.setdefault(name, _Seen(module))
        values = output.detach()
        real = (values != 0).any(dim=-1) if _shows_padding(module) else ...
        values = values[real]
        one.output.add(values)
        one.zeros += values.numel() - int(torch.count_nonzero(values))
        if output.requires_grad:
            output.register_hook(lambda gradient: one.gradient.add(gradient[real]))

    return look


def _shows_padding(module: nn.Module) -> bool:
    """Whether rows of zeros in its output are padding: of lookups, and of maps without a bias, which give 0 for 0.

    No gradient reaches a weight from there, but a large one may arrive: FuxiCTR's mean of nothing divides by 1e-12.
    """
    if isinstance(module, nn.Linear):
        return module.bias is None
    return isinstance(module, nn.Embedding | FeatureEmbedding)


def _loss(model: BaseModel, inputs: Any) -> Tensor | None:
    """The loss of training; None where a prediction is not a number, of which torch's cross-entropy complains."""
    found = model(inputs)
    if not bool(torch.isfinite(found["y_pred"]).all()):
        return None
    return model.compute_loss(found, model.get_labels(inputs))


def _scale(name: str, one: _Seen, weight_gradients: dict[Tensor, _Sums], batches: int) -> LayerScale:
    parameters = list(one.module.parameters())
    weights, gradients = _Sums(), 0.0
    for parameter in parameters:
        weights.add(parameter)
        gradients += weight_gradients[parameter].squares
    return LayerScale(
        name=name,
        kind=type(one.module).__name__,
        output=one.output.rms or 0.0,
        zeros=one.zeros / max(one.output.numbers, 1),
        output_gradient=one.gradient.rms if batches else None,
        weights=weights.rms,
        # Over the batches, also where a parameter took no part.
        weight_gradient=math.sqrt(gradients / (weights.numbers * batches)) if weights.numbers and batches else None,
    )
