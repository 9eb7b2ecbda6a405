"""The picture of the learning curves: drawn, repeatable, and never the failure of a run."""

import pytest
from PIL import Image

from fuxictr_multimodal.training import curves
from fuxictr_multimodal.training.report import Report
from tests.helpers.empty_curves import DRAWN


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Elsewhere runs draw nothing."""
    monkeypatch.setattr(curves, "draw_curves", DRAWN)


def report(steps=(16, 32, 48), epochs=(1, 2, 3)):
    rows = [
        {"epoch": e, "step": s, "train_loss": 1 / s, "metrics": {"AUC": 0.6 + s / 1000, "logloss": 0.4}, "best": e == 2}
        for e, s in zip(epochs, steps, strict=True)
    ]
    return Report(expid="QIN_x_s1", model="QIN", dataset_id="D", seed=1, status="completed", curve=rows)


def test_picture_lies_beside_the_report_and_repeats(tmp_path):
    path = curves.draw_curves_beside(report(), tmp_path / "QIN_x_s1.report.json")
    assert path == tmp_path / "QIN_x_s1.curve.png"
    first = path.read_bytes()
    with Image.open(path) as picture:
        assert picture.width > picture.height > 200
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
    curves.draw_curves_beside(report(), tmp_path / "QIN_x_s1.report.json")
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["QIN_x_s1.curve.png"]


def test_a_run_draws_its_curves(run_qin, tmp_path):
    found, path = run_qin("epochs=2", seed=1)
    (picture,) = path.parent.glob("*.png")
    assert picture.name == "QIN_test@epochs=2_s1.curve.png"
    assert picture.read_bytes() == DRAWN(found, tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(("steps", "epochs"), [((16,), (1,)), ((5, 10, 16), (1, 1, 1))])
def test_one_evaluation_and_several_an_epoch(tmp_path, steps, epochs):
    assert curves.draw_curves(report(steps, epochs), tmp_path / "x.png").is_file()


def test_names_with_dollars_are_no_formula(tmp_path):
    odd = report()
    odd.expid, odd.dataset_id = "QIN_$x^$", "$\\frac{"
    assert curves.draw_curves(odd, tmp_path / "x.png").is_file()


def test_no_evaluation_no_picture(tmp_path):
    assert curves.draw_curves_beside(report((), ()), tmp_path / "x.report.json") is None
    assert list(tmp_path.iterdir()) == []


def test_failure_is_logged_and_swallowed(tmp_path, caplog):
    broken = report()
    del broken.curve[0]["train_loss"]
    assert curves.draw_curves_beside(broken, tmp_path / "x.report.json") is None
    assert "the run is not affected" in caplog.text
