"""Texts of a configuration that FuxiCTR evaluates as code or looks up by name, and the values that may reach it.

FuxiCTR calls `eval` on some texts and `getattr` with others, so a downloaded YAML file could run code. `RULES` is the
one list of such keys: what FuxiCTR does with each, and which values pass. It holds for YAML, `--set`, tuner files and
the feature map of a dataset alike. Neither FuxiCTR nor torch is imported here: checking a configuration takes no time.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fuxictr_multimodal.errors import ConfigError, did_you_mean

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# Losses of torch.nn.functional that take (prediction, label, reduction=...), and FuxiCTR's names of the first.
LOSSES = (
    "binary_cross_entropy",
    "binary_crossentropy",
    "bce",
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
)
TASKS = ("binary_classification", "regression")
# Optimizers of torch that need parameters and a learning rate only.
OPTIMIZERS = ("Adam", "ASGD", "Adadelta", "Adagrad", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
METRICS = (
    *("AUC", "logloss", "binary_crossentropy", "ECE", "gAUC", "avgAUC", "MRR", "MAP"),
    *("NDCG(k=5)", "HR(k=5)", "MAP(k=5)", "Precision(k=5)", "Recall(k=5)"),
)
# Those of a list that is cut after k, any k.
METRIC_AT_K = re.compile(r"(?P<name>NDCG|HR|MAP|Precision|Recall)\((?:k *= *)?(?P<k>[1-9]\d{0,5})\)", re.ASCII)
INITIALIZERS = tuple(
    f"{name}_"
    for name in (
        "normal trunc_normal uniform constant ones zeros xavier_normal xavier_uniform kaiming_normal kaiming_uniform "
        "orthogonal"
    ).split()
)
INITIALIZER = re.compile(
    r"(?:partial\( *)?(?:torch\.)?nn\.init\.(?P<name>\w+)(?P<call>(?:, *[a-z]+ *= *" + NUMBER + r")* *\))?", re.ASCII
)
# Upper and lower case are the same in these names, then layers of torch.nn that need no argument.
ACTIVATIONS_OF_ANY_CASE = ("relu", "sigmoid", "tanh", "softmax", "prelu", "dice")
ACTIVATIONS = tuple(
    (
        "ReLU Sigmoid Tanh Softmax PReLU Dice CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity "
        "LeakyReLU LogSigmoid Mish RReLU ReLU6 SELU SiLU Softplus Softshrink Softsign Tanhshrink relu_mean"
    ).split()
)
REGULARIZER = re.compile(rf"l[12]\( *{NUMBER} *\)|l1_l2\( *{NUMBER} *, *{NUMBER} *\)")
DTYPES = ("int", "float", "str", "list")
NORMALIZERS = ("StandardScaler", "MinMaxScaler")
ENCODER_CALLS = frozenset(
    {
        "layers.MaskedAveragePooling",
        "layers.MaskedSumPooling",
        "layers.KMaxPooling",
        "nn.Linear",
        "nn.LayerNorm",
        "nn.BatchNorm1d",
        "nn.Dropout",
        "nn.Identity",
        "nn.ReLU",
        "nn.PReLU",
        "nn.LeakyReLU",
        "nn.GELU",
        "nn.SiLU",
        "nn.Sigmoid",
        "nn.Tanh",
    }
)
NO_ENCODER = (None, "None", "none", "null")


def check_known_values(settings: Mapping[str, Any], where: str, *, free: Iterable[str] | None = None) -> None:
    """Refuse a text that FuxiCTR would evaluate or look up and that is not known, on every level of `settings`.

    Args:
        settings: parameters of a run, an entry of a dataset, or a feature of a feature map.
        where: file and name of the entry, for the error.
        free: keys whose text no model evaluates. When given, a text under any other key, which a model may read in its
            own way, must not look like a call.

    Raises:
        ConfigError: naming the key, the value, and the nearest known one.

    >>> check_known_values({"loss": "binary_crossentropy", "metrics": ["AUC", "NDCG(k=5)"]}, "expid 'a'")
    >>> check_known_values({"loss": "binary_crossentrpy"}, "expid 'a'")
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: expid 'a': loss 'binary_crossentrpy' is not known. Did you mean ...
    """
    for key, value in settings.items():
        rule = next((rule for rule in RULES if re.fullmatch(rule.keys, str(key))), None)
        if rule is not None:
            problem = rule.problem(value)
            if problem:
                raise ConfigError(f"{where}: {key} {problem}")
            continue
        for inner in _mappings(value):
            inside = f"{where}: {key} of {inner['name']!r}" if "name" in inner else f"{where}: {key}"
            check_known_values(inner, inside, free=None if free is None or key in free else free)
        if free is not None and key not in free and (call := next(filter(_is_call, _texts(value)), None)):
            raise ConfigError(
                f"{where}: {key} {call!r} reads like code, which a model could run: write a name or a number"
            )


def check_feature_encoder(encoder: Any, where: str) -> None:
    """Refuse a `feature_encoder` that is not on the white-list, before FuxiCTR evaluates it.

    Allowed are none, one call such as `nn.Linear(128, 64, bias=False)` of a listed layer with literal numbers, or a
    list of such calls.

    Raises:
        ConfigError: anything else.

    >>> check_feature_encoder(["nn.Linear(128, 64, bias=False)", "nn.ReLU()"], "column 'emb'")
    >>> check_feature_encoder("print('hello')", "column 'emb'")
    Traceback (most recent call last):
        ...
    fuxictr_multimodal.errors.ConfigError: column 'emb': feature_encoder "print('hello')" is not allowed; ...
    """
    problem = _encoder_problem(encoder)
    if problem:
        raise ConfigError(f"{where}: feature_encoder {problem}")


@dataclass(frozen=True)
class Rule:
    """What may stand under some keys.

    Attributes:
        keys: pattern of the keys.
        fuxictr: what FuxiCTR does with the text.
        problem: says what is wrong with a value; None where nothing is.
    """

    keys: str
    fuxictr: str
    problem: Callable[[Any], str | None]


def _texts(value: Any) -> Iterator[str]:
    """All texts of a value, keys of mappings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """A mapping, or those of a list, however deep it is nested."""
    if isinstance(value, Mapping):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _mappings(inner)


def _is_call(text: str) -> bool:
    return "(" in text


def _one_of(names: Iterable[str], known: Callable[[str], bool], *, several: bool = True) -> Callable[[Any], str | None]:
    """A rule for one name, or, with `several`, a list of names too."""

    def problem(value: Any) -> str | None:
        for one in value if several and isinstance(value, list) else [value]:
            if not (isinstance(one, str) and known(one)):
                return f"{one!r} is not known. {did_you_mean(str(one), names)}"
        return None

    return problem


def _names(*names: str, several: bool = False) -> Callable[[Any], str | None]:
    return _one_of(names, frozenset(names).__contains__, several=several)


def _is_metric(name: str) -> bool:
    return name in METRICS or bool(METRIC_AT_K.fullmatch(name))


def _is_activation(name: str) -> bool:
    return name in ACTIVATIONS or name.lower() in ACTIVATIONS_OF_ANY_CASE


def _metrics_problem(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"{value!r} is not a list: write [{value}]"
    return _one_of(METRICS, _is_metric)(value)


def _monitor_problem(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return _one_of(METRICS, _is_metric, several=False)(value)
    if not value:
        return "contains no metric: write a name, or {name: weight}"
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            return f"gives {name} the weight {weight!r}: write a number"
    return _one_of(METRICS, _is_metric)(list(value))


def _activation_problem(value: Any) -> str | None:
    # A switch such as `use_activation: True` is not looked up.
    texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    return _one_of(ACTIVATIONS, _is_activation)(texts)


def _initializer_problem(value: Any) -> str | None:
    if value is None:
        return None
    found = INITIALIZER.fullmatch(str(value))
    # `partial(` and the parenthesis that closes it come together.
    if not found or str(value).startswith("partial") != bool(found["call"]):
        return (
            f"{value!r} would be run as code by FuxiCTR; write partial(nn.init.<name>_, key=number) or nn.init.<name>_"
        )
    if found["name"] not in INITIALIZERS:
        return f"{value!r}: {found['name']!r} is not known. {did_you_mean(found['name'], INITIALIZERS)}"
    return None


def _regularizer_problem(value: Any) -> str | None:
    for text in _texts(list(value.values()) if isinstance(value, Mapping) else value):
        if not REGULARIZER.fullmatch(text):
            return f"{text!r} is neither a number (write 1.e-4, not 1e-4) nor l1(x), l2(x) or l1_l2(x,y)"
    return None


def _encoder_problem(encoder: Any) -> str | None:
    for call in encoder if isinstance(encoder, list) and encoder else [encoder]:
        if call in NO_ENCODER and not isinstance(encoder, list):
            continue
        if not isinstance(call, str) or not _is_literal_call(call):
            return (
                f"{call!r} is not allowed; write a call such as 'nn.Linear(128, 64, bias=False)' with literal numbers, "
                f"of one of {', '.join(sorted(ENCODER_CALLS))}"
            )
    return None


def _is_literal_call(text: str) -> bool:
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    if not isinstance(call.func.value, ast.Name) or f"{call.func.value.id}.{call.func.attr}" not in ENCODER_CALLS:
        return False
    arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg is not None)]
    if any(keyword.arg is None for keyword in call.keywords):
        return False
    return all(isinstance(a, ast.Constant) and isinstance(a.value, bool | int | float) for a in arguments)


RULES = (
    Rule("loss", "looked up in torch.nn.functional, else evaluated", _names(*LOSSES, several=True)),
    Rule("task", "compared with its own list; anything else ends the run", _names(*TASKS, several=True)),
    Rule(
        r"(\w+_)?optimizer",
        "looked up in torch.optim and called",
        _one_of(OPTIMIZERS, lambda name: name in OPTIMIZERS or name.lower() == "adam", several=False),
    ),
    Rule("metrics", "grouped ones are evaluated", _metrics_problem),
    Rule("monitor", "its metrics are computed as `metrics` are", _monitor_problem),
    Rule("monitor_mode", "compared with max and min; anything else keeps no checkpoint", _names("max", "min")),
    Rule(r"(\w+_)?initializer", "evaluated", _initializer_problem),
    Rule(r"(\w+_)?activations?", "looked up in torch.nn and called", _activation_problem),
    Rule(r"(\w+_)?regularizer", "read at the first training step", _regularizer_problem),
    Rule("feature_encoder", "evaluated", _encoder_problem),
    Rule("dtype", "evaluated", _names(*DTYPES)),
    Rule("normalizer", "compared with its own list; anything else ends the build", _names(*NORMALIZERS)),
)
