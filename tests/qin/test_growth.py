"""The growth benchmark: its points, exponents and picture, and that its model is the challenge's."""

import argparse
import importlib
import itertools
from xml.etree import ElementTree

import pytest


@pytest.fixture
def growth(monkeypatch, repository):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("growth")


def test_exponents_are_those_of_power_laws(growth):
    assert growth.exponent([(x, 5 * x**1.5) for x in (1, 3, 10, 40)]) == {"all": 1.5, "last": 1.5}
    assert growth.exponent([(1, 2.0)]) is None
    assert growth.short(8192) == "8192"
    assert growth.short(91_700) == "91.7k"


def test_every_point_differs_from_the_base_in_its_axis_alone(growth):
    curves = growth.plan(growth.FULL, growth.FULL_VALUES, growth.AXES, max_items=3_000_000, vocabulary_dim=16)
    assert list(curves) == ["batch", "history", "items, dense", "items, rowwise", "tags", "layers"]
    for name, points in curves.items():
        axis = name.split(",")[0]
        assert [growth.value_of(name, p) for p in points] == [x for x in growth.FULL_VALUES[axis] if x <= 3_000_000]
        for one, other in itertools.pairwise(points):
            assert {k for k in vars(one) if vars(one)[k] != vars(other)[k]} == {axis}


def test_a_point_is_measured_and_both_updates_start_from_the_same_loss(growth):
    points = [growth.Point(batch=16, history=3, items=200, tags=2, layers=1, dim=4, update=u) for u in growth.UPDATES]
    dense, rowwise = (growth.measure_point(point, repeats=1, gpu=-1, ceiling=False) for point in points)
    assert dense["loss_before"] == pytest.approx(rowwise["loss_before"], abs=1e-6)
    assert dense["loss_before"] != dense["loss_after"]
    assert dense["s"] > 0


def test_the_shapes_are_what_the_point_says(growth):
    qin = importlib.import_module("_qin")
    sizes = {"batch_size": 7, "items": 50, "embedding_dim": 4, "num_row": 4, "mean_length": 1.0}
    options = argparse.Namespace(**sizes, precision="float32", compile=False, gpu=-1)
    model = qin.challenge_model(options, form="fast", tags_per_item=3, pretrained_dim=6, num_layers=2)
    table = model.item_table.features
    assert (table["item_tags"].shape, table["item_emb_d128"].shape) == ((50, 3), (50, 6))
    assert len(model.qnn.layer) == 2
    assert qin.challenge_batch(options, seed=0, length=11).history.lengths.tolist() == [11] * 7


def test_what_the_memory_does_not_hold_is_skipped(growth):
    point = growth.Point(batch=1, history=1, items=10**12, tags=1, layers=1, dim=16)
    assert "skipped: about" in growth.measure_apart(point, repeats=1, gpu=-1, ceiling=False)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture_has_the_exponents_and_is_the_same_twice(growth, tmp_path, suffix):
    rows = [{"value": x, "s": 0.01 * x, "mib": 100.0 + x} for x in (10, 100, 1000)]
    found = {"batch": rows, "items, dense": rows, "items, rowwise": rows[:1]}
    slopes = {
        n: {m: growth.exponent([(r["value"], r[m]) for r in p]) for m in growth.MEASURES} for n, p in found.items()
    }
    pictures = [tmp_path / f"{n}{suffix}" for n in "ab"]
    for path in pictures:
        growth.draw(found, slopes, path, title="A title")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    if suffix == ".svg":
        assert ElementTree.parse(pictures[0]).getroot().tag.endswith("svg")
        # Letters are drawn as shapes, with the text beside them as a comment.
        text = pictures[0].read_text(encoding="utf-8")
        assert "<!-- 1.00 (last two points 1.00) -->" in text
        assert "<!-- rowwise: one point -->" in text
