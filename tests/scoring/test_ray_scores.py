"""Scores by Ray Data are those of one process; what a worker meets is one sentence, with the rows of the file."""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.scoring import ray_scores, score_files
from fuxictr_multimodal.scoring.ray_scores import Piece, PieceScorer, pieces_of
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.scoring.trained_run import TrainedRun
from fuxictr_multimodal.system.ray_cluster import ray_at
from fuxictr_multimodal.training.runner import run_experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root, repository):
    """A trained QIN: the arguments of `predict`, and new samples as they are in the test split."""
    root = tmp_path_factory.mktemp("trained")
    settings = [f"data_root={data_root}", f"model_root={root}", "verbose=0"]
    run_experiment(config_dir=repository / "config", expid="QIN_test", overrides=settings)
    columns = ["user_id", "likes_level", "views_level", "item_id"]
    with SplitReader(data_root / "Synthetic_test/test.h5") as reader:
        frame = pl.DataFrame({name: reader.read(name, 0, reader.rows) for name in columns})
        values, offsets = reader.read_history(0, reader.rows)
    frame = frame.with_columns(pl.Series("item_seq", np.split(values, offsets[1:-1])))
    return {"config_dir": repository / "config", "expid": "QIN_test", "overrides": settings}, frame


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, as a command starts and ends it."""
    with ray_at(None) as started:
        yield started
    assert not started.is_initialized()


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(ray_scores, "LEAST_ROWS", 100)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_scores_are_those_of_one_process(trained, tmp_path, monkeypatch):
    arguments, frame = trained
    odd = frame.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) % 97 == 5).then(90_000).otherwise("item_id"),
        item_seq=pl.when(pl.int_range(pl.len()) % 211 == 7).then(pl.lit([3] * 70)).otherwise("item_seq"),
    )
    folder = tmp_path / "new"
    folder.mkdir()
    odd[:450].write_parquet(folder / "b1.parquet", row_group_size=60)
    odd[450:].write_parquet(folder / "b2.parquet")
    one = predict(**arguments, data=folder, out=tmp_path / "one.parquet")
    many = predict(**arguments, data=folder, out=tmp_path / "many.parquet", engine="ray")
    assert (many.rows, many.unknown, many.cut_histories) == (one.rows, one.unknown, one.cut_histories)
    assert many.unknown["item_id"] > 5
    assert many.cut_histories > 2
    expected, found = pl.read_parquet(tmp_path / "one.parquet"), pl.read_parquet(tmp_path / "many.parquet")
    assert found.drop("score").equals(expected.drop("score"))
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5, atol=1e-6)
    assert found["score"].n_unique() > 500

    monkeypatch.setattr(score_files, "PART_ROWS", 300)
    with_parts = predict(
        **arguments, data=folder, out=tmp_path / "parts", engine="ray", calibrate="platt", submission=False
    )
    assert with_parts.out == tmp_path / "parts"
    files = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert files == [f"part-{n:05d}.parquet" for n in range(-(-len(frame) // 300))]
    parts = pl.concat(pl.read_parquet(tmp_path / "parts" / name) for name in files)
    assert parts.drop("score", "score_raw").equals(expected.drop("score"))
    np.testing.assert_allclose(parts["score_raw"], expected["score"], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_a_wrong_value_is_named_with_its_row_in_the_file(trained, tmp_path, capsys):
    arguments, frame = trained
    hole = frame.with_row_index().with_columns(
        item_seq=pl.when(pl.col("index") == 777).then(pl.lit([1, 0])).otherwise("item_seq")
    )
    data, messages = tmp_path / "hole.parquet", []
    hole.drop("index").write_parquet(data, row_group_size=100)
    command = [
        "--config",
        str(arguments["config_dir"]),
        "--expid",
        "QIN_test",
    ]
    command += [word for setting in arguments["overrides"] for word in ("--set", setting)]
    for engine in ("folded", "ray"):
        out = tmp_path / f"{engine}.parquet"
        with pytest.raises(SystemExit) as ended:
            run_predict_main([*command, "--data", str(data), "--out", str(out), "--engine", engine])
        assert ended.value.code == 2
        assert not out.exists()
        messages.append(capsys.readouterr().err.strip().splitlines()[-1])
    assert messages[0] == messages[1]
    assert "hole.parquet: row 777, column 'item_seq': 0 after an item" in messages[1]


@pytest.mark.usefixtures("ray")
def test_what_a_worker_alone_meets_is_one_sentence(trained, tmp_path):
    """A cluster may lack what this machine has."""
    arguments, frame = trained
    frame.write_parquet(tmp_path / "new.parquet")
    here, there = (
        TrainedRun(config, arguments["expid"], overrides=tuple(arguments["overrides"]))
        for config in (arguments["config_dir"], tmp_path / "elsewhere")
    )
    rows = here.load(here.experiment()).samples(tmp_path / "new.parquet", None)
    with pytest.raises(
        InputError, match=r"^/\S*/elsewhere: found neither model_config.yaml nor \S+ pass the folder with --config$"
    ):
        ray_scores.score_with_ray(there, rows, tmp_path / "new.parquet")


class Dies(PieceScorer):
    """A worker that the system kills."""

    def __call__(self, piece):
        os._exit(1)


@pytest.mark.usefixtures("ray")
def test_a_worker_that_dies_is_one_sentence(trained, tmp_path, monkeypatch):
    arguments, frame = trained
    frame.write_parquet(tmp_path / "new.parquet")
    monkeypatch.setattr(ray_scores, "PieceScorer", Dies)
    with pytest.raises(InputError, match="a worker's process ended while it scored"):
        predict(**arguments, data=tmp_path / "new.parquet", out=tmp_path / "scores.parquet", engine="ray")
    assert not (tmp_path / "scores.parquet").exists()


def test_pieces_are_whole_row_groups_in_order(tmp_path, small_pieces):
    sizes = {"a": (240, 60), "b": (40, 40), "c": (150, 150)}
    for name, (rows, group) in sizes.items():
        pl.DataFrame({"x": range(rows)}).write_parquet(tmp_path / f"{name}.parquet", row_group_size=group)
    a, b, c = sorted(tmp_path.iterdir())
    assert pieces_of([a, b, c], workers=2) == [
        Piece(str(a), [0, 1], 120),
        Piece(str(a), [2, 3], 120),
        Piece(str(b), [], 40),
        Piece(str(c), [], 150),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": None}, "--engine ray reads parquet: pass samples with --data"),
        ({"gpu": 0}, "--engine ray scores on the cores of its workers"),
        ({"engine": "folded", "ray_address": "auto"}, "--ray-address is for --engine ray, not folded"),
        ({"out": "here.json"}, "scores are written as"),
        ({"out": "taken"}, "taken exists: name a new folder"),
        ({"ray_address": "127.0.0.1:1"}, "--ray-address 127.0.0.1:1: Ray cannot be reached there"),
        ({"data": "new.csv"}, "--engine ray reads parquet: write the samples as parquet"),
    ],
)
def test_what_ray_does_not_do_is_said_at_once(trained, tmp_path, monkeypatch, changes, reason):
    arguments, frame = trained
    monkeypatch.chdir(tmp_path)
    frame[:5].write_parquet("new.parquet")
    frame[:5].with_columns(pl.col("item_seq").cast(pl.List(pl.String)).list.join("^")).write_csv("new.csv")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    given = {**arguments, "data": "new.parquet", "engine": "ray", **changes}
    for name in ("data", "out"):
        if given.get(name) is not None:
            given[name] = tmp_path / given[name]
    with pytest.raises((ConfigError, DataError, InputError), match=reason):
        predict(**given)
