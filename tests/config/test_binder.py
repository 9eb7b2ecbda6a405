"""YAML and `--set` become typed settings; what is wrong is one line with file, entry, key, value and what to do."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from fuxictr_multimodal.config.binder import (
    AS_WRITTEN,
    ListOf,
    PlainName,
    Settings,
    UserPath,
    bind,
    bind_known,
    override,
)
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError


class Rate(Settings):
    """A rate."""

    low: Annotated[float, Field(gt=0, lt=1), AS_WRITTEN] = 0.5
    kind: Literal["linear", "cosine"] = "linear"


class Stage(Settings):
    """A stage."""

    steps: Annotated[int, Field(ge=1)] = Field(examples=[100])
    names: ListOf[str] = ()
    rate: Rate = Rate(low=0.25)
    by_name: dict[str, Rate] = Field({})
    lower: bool = False


class Whole(Settings):
    """All."""

    name: PlainName = "x"
    root: UserPath = "./data/"
    stage: Stage
    other: Stage | None = None

    @model_validator(mode="after")
    def _fit(self):
        if self.name == "bad":
            raise ConfigError("the name is bad")
        return self


GOOD = {"stage": {"steps": 3}}


def test_good_values_keep_their_types():
    whole = bind(Whole, {"stage": {"steps": 3, "names": ["a"], "rate": {"low": 0.5}}, "root": "~/x"}, "a.yaml")
    assert (whole.stage.names, whole.stage.steps, whole.root) == (("a",), 3, str(Path.home() / "x"))
    with pytest.raises(Exception, match="frozen"):
        whole.name = "y"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "a.yaml must be a mapping of settings, found [1]"),
        ({}, "a.yaml does not set `stage`"),
        ({"stage": {}}, "a.yaml: stage does not set `steps`; write for example steps: 100"),
        ({"stage": {"stepz": 3}}, "a.yaml: stage: unknown key 'stepz'. Did you mean 'steps'?"),
        ({"stage": {"steps": 3, 1: 2}}, "a.yaml: stage: unknown key 1."),
        ({"stage": {"steps": None}}, "a.yaml: stage does not set `steps`; write for example steps: 100"),
        ({"stage": {"steps": 0}}, "a.yaml: stage: steps must be a whole number from 1, found 0"),
        ({"stage": {"steps": True}}, "steps must be a whole number from 1, found True"),
        ({"stage": {"steps": 3.0}}, "steps must be a whole number from 1, found 3.0"),
        ({"stage": {"steps": 3, "names": "a"}}, "stage: names must be a list, found 'a'"),
        ({"stage": {"steps": 3, "names": {"a"}}}, "stage: names must be a list, found {'a'}"),
        ({"stage": {"steps": 3, "names": ["a", 5]}}, "stage: names must be text, found 5: write it in quotes"),
        ({"stage": {"steps": 3, "lower": 1}}, "stage: lower must be true or false, found 1"),
        ({"stage": {"steps": 3, "by_name": {5: {}}}}, "key 5 is read as int, not as text: write it in quotes"),
        ({"stage": {"steps": 3, "by_name": {"a": {"lo": 1}}}}, "stage: by_name: a: unknown key 'lo'. Did you mean"),
        ({"stage": {"steps": 3, "rate": {"low": 1}}}, "rate: low must be a positive number below 1, found 1"),
        ({"stage": {"steps": 3, "rate": {"low": float("nan")}}}, "low must be a positive number below 1, found nan"),
        (
            {"stage": {"steps": 3, "rate": {"kind": "cosin"}}},
            "kind 'cosin' is unknown; choose from linear, cosine. D",
        ),
        ({**GOOD, "name": "a/b"}, "a.yaml: name: the name 'a/b' holds '/'"),
        ({**GOOD, "name": "bad"}, "a.yaml: the name is bad"),
        ({**GOOD, "root": "~nobody-of-this-name/x"}, "a.yaml: root: '~nobody-of-this-name/x': there is no home folder"),
        ({**GOOD, "root": "x" * 999, "name": 5}, "name must be text, found 5"),
    ],
)
def test_what_is_wrong_is_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        bind(Whole, values, "a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_value_is_cut():
    with pytest.raises(ConfigError, match=r"steps must be .*x\.\.\.$"):
        bind(Stage, {"steps": "x" * 9999}, "a.yaml")


def test_a_number_stays_as_it_is_written():
    class One(Settings):
        number: Annotated[float, Field(ge=0), AS_WRITTEN]

    assert isinstance(bind(One, {"number": 1}, "a").number, int)
    assert isinstance(bind(One, {"number": 1.0}, "a").number, float)


def test_a_flat_mapping_has_other_keys_and_null_leaves_the_default():
    assert bind_known(Rate, {"low": None, "learning_rate": 3}, "a").low == 0.5


@pytest.mark.parametrize(
    ("texts", "path", "value"),
    [
        (["stage.steps=5", "stage.steps=7"], ("stage", "steps"), 7),
        (["stage.rate.low=1e-3"], ("stage", "rate"), {"low": 1e-3, "kind": "linear"}),
        (["stage.by_name={a: {low: 0.1}}", "stage.by_name.a.kind=cosine"], ("stage", "by_name"),
         {"a": {"low": 0.1, "kind": "cosine"}}),
        (["other.steps=5"], ("other", "steps"), 5),
        (["anything=[1, 2]"], ("anything",), [1, 2]),
    ],
)  # fmt: skip
def test_set(texts, path, value):
    given = {"stage": {"steps": 3}}
    values = dict(given)
    override(values, texts, Whole)
    assert given == {"stage": {"steps": 3}}
    for key in path:
        values = values[key]
    assert values == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stag.steps=5", "'stag' is not a group of settings here. Did you mean 'stage'?"),
        ("othr.steps=5", "'othr' is not a group of settings here. Did you mean 'other'?"),
        ("stage.rte.low=1", "'rte' is not a group of settings here. Did you mean 'rate'?"),
        ("stage.by_name.b.low=1", "'b' is not a group of settings here."),
        ("stage.step=1", "'stage' has no key 'step'. Did you mean 'steps'?"),
        ("stage.steps.x=1", "'steps' is not a group of settings here."),
        ("stage", "write key=value"),
        ("stage.steps={", "the value is not valid YAML"),
    ],
)
def test_a_wrong_set_names_the_text_and_the_nearest(text, message):
    with pytest.raises(ConfigError) as caught:
        override({"stage": {"steps": 3}}, [text], Whole)
    assert str(caught.value).startswith(f"--set {text!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1, b: 2}", "line 1: key 'b' is written twice"),
        ("a: 2025-13-01", "not valid YAML: month must be in 1..12"),
        ("a: 2025-01-01", "a: YAML reads 2025-01-01 as a date"),
        ("a: [1, [2.5e3]]", "a: YAML 1.1 reads 2.5e3 as text, not as a number; write 2.5e+3"),
        ("a: &a [*a]", "a: a list or mapping holds itself"),
        ("a: " + "[" * 50_000, "nested deeper than 100 levels"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{after}: &{after} [{','.join(['*' + before] * 10)}]\n" for before, after in pairwise("abcdefghi")
        ), "with its aliases written out it holds more than 1,000,000 values"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
