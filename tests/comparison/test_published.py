"""Published curves beside one's own: read, drawn, kept in the export, refused when malformed."""

from pathlib import Path

import pytest

from fuxictr_multimodal.comparison.board import Board, Curve, Entry, Spread
from fuxictr_multimodal.comparison.page import page
from fuxictr_multimodal.comparison.published import with_published
from fuxictr_multimodal.errors import DataError

SHIPPED = Path(__file__).resolve().parents[2] / "results/published_microlens_1m.csv"


@pytest.fixture
def board():
    metrics = {"valid": {"AUC": Spread((0.9,))}}
    curve = Curve(1, (1, 2, 3), (0.5, 0.4, 0.3), (0.8, 0.9, 0.85))
    entry = Entry(
        name="QIN_MicroLens_1M", model="QIN", runs=("QIN_MicroLens_1M",), seeds=(1,), metrics=metrics,
        parameters={"total": 1}, rows_per_s={}, minutes=Spread((1.0,)), curves=(curve,),
    )  # fmt: skip
    return Board("MicroLens_1M_x1", "0" * 64, "valid", {}, None, None, "epoch", (entry,))


def test_the_shipped_figures_are_drawn_and_kept(board, tmp_path):
    both = with_published(board, SHIPPED)
    assert [item.name for item in both.published] == ["QIN_9701", "QIN_9695"]
    best = max(both.published[0].curve.auc)
    assert best == pytest.approx(0.9701, abs=5e-5)
    text = page(both)
    assert text.count("QIN_9701, published\\u003cbr\\u003eepoch") == 2 * len(both.published[0].curve.x)
    assert f": {best:.4f}" in text
    assert "Published curve QIN_9701: https://" in text
    both.write(tmp_path / "board.json")
    assert page(Board.read(tmp_path / "board.json")) == text
    assert ", published" not in page(board)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_figures_as_a_spreadsheet_saves_them(board, tmp_path, encoding):
    text = SHIPPED.read_text(encoding="utf-8").replace("\n", "\r\n")
    commas = "," * (len(text.splitlines()[0].split(",")) - 1)
    (tmp_path / "curve.csv").write_bytes(f"{text}\r\n{commas}\r\n\r\n".encode(encoding))
    assert with_published(board, tmp_path / "curve.csv") == with_published(board, SHIPPED)


def test_malformed_files_are_refused(board, tmp_path):
    path = tmp_path / "curve.csv"
    with pytest.raises(DataError, match=r"curve\.csv does not exist"):
        with_published(board, path)
    path.write_bytes(b"run,epoch\na\xe9,1\n")
    with pytest.raises(DataError, match=r"curve\.csv: line 2 is not UTF-8 text"):
        with_published(board, path)
    with pytest.raises(DataError, match="is no regular file"):
        with_published(board, tmp_path)
    path.write_text("run,epoch,train_loss,source\na,1,0.5,paper\n")
    with pytest.raises(DataError, match="column 'valid_auc' is missing"):
        with_published(board, path)
    path.write_text("run,epoch,train_loss,valid_auc,source\na,1,0.5,high,paper\n")
    with pytest.raises(DataError, match="valid_auc of run 'a', epoch '1' is 'high', not a number"):
        with_published(board, path)
