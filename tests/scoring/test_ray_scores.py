"""Scores by Ray Data are those of one process; what a worker meets is one sentence, with the rows of the file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.scoring import ray_scores, score_files
from fuxictr_multimodal.scoring.ray_scores import PieceScorer, Rows, as_files, pieces_of
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.scoring.trained_run import TrainedRun
from fuxictr_multimodal.system import ray_cluster
from fuxictr_multimodal.system.machine import cpu_threads
from fuxictr_multimodal.system.ray_cluster import ray_at
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import shop, trained_shop


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
    """Of few rows, but whole batches."""
    monkeypatch.setattr(ray_scores, "LEAST_ROWS", 256)
    # A sum of floats depends on the number of threads.
    with monkeypatch.context() as patched:
        patched.delenv("OMP_NUM_THREADS", raising=False)
        with cpu_threads(1):
            yield


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
    assert found["score"].equals(expected["score"])
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
    assert parts["score_raw"].equals(expected["score"].alias("score_raw"))


class KilledOnce(PieceScorer):
    """Ends its process once, as the system does."""

    def __call__(self, piece):
        mark = Path(self._run.config_dir, "killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(piece)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_samples_of_a_log_whose_worker_is_killed(tmp_path, monkeypatch):
    """Histories come off the log; a piece has rows of two files, as one process reads them."""
    trained = trained_shop.train(tmp_path)
    data = tmp_path / "new"
    data.mkdir()
    log = shop.log(1200).select("user_id", "item_id", "timestamp", "device")
    log[:500].write_parquet(data / "a.parquet", row_group_size=90)
    log[500:].write_parquet(data / "b.parquet")
    arguments = {"config_dir": trained.config, "expid": trained.expid, "data": data}
    one = predict(**arguments, out=tmp_path / "one.parquet")
    monkeypatch.setattr(ray_scores, "PieceScorer", KilledOnce)
    many = predict(**arguments, out=tmp_path / "many.parquet", engine="ray")
    assert (trained.config / "killed").exists()
    assert (many.rows, many.unknown, many.cut_histories) == (one.rows, one.unknown, one.cut_histories)
    assert pl.read_parquet(tmp_path / "many.parquet").equals(pl.read_parquet(tmp_path / "one.parquet"))


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
    monkeypatch.setattr(ray_cluster, "RETRIES", 0)
    with pytest.raises(InputError, match="a worker's process ended while it scored"):
        predict(**arguments, data=tmp_path / "new.parquet", out=tmp_path / "scores.parquet", engine="ray")
    assert not (tmp_path / "scores.parquet").exists()


def test_another_file_at_the_path_of_a_worker_is_not_scored(tmp_path):
    file = tmp_path / "new.parquet"
    pl.DataFrame({"x": [1, 2]}).write_parquet(file)
    (piece,) = pieces_of([file], workers=1, across=True)
    pl.DataFrame({"x": [1, 3]}).write_parquet(file)
    scorer = PieceScorer(TrainedRun(tmp_path, "run"), None, str(tmp_path))
    with pytest.raises(DataError, match=r"new\.parquet is another file than the one that was opened first"):
        scorer(piece)


@pytest.mark.usefixtures("small_pieces")
def test_pieces_are_whole_batches_in_order(tmp_path):
    sizes = {"a": (700, 90), "b": (40, 40), "c": (300, 150), "d": (200, 70)}
    values = iter(range(10_000))
    for name, (rows, group) in sizes.items():
        frame = pl.DataFrame({"x": [next(values) for _ in range(rows)]})
        frame.write_parquet(tmp_path / f"{name}.parquet", row_group_size=group)
    files = sorted(tmp_path.iterdir())
    a, b, c, d = map(str, files)
    apart = pieces_of(files, workers=2, across=False)
    assert apart == [
        (Rows(a, 0, 256, all=False),),
        (Rows(a, 256, 256, all=False),),
        (Rows(a, 512, 188, all=False),),
        (Rows(b, 0, 40, all=True),),
        (Rows(c, 0, 256, all=False),),
        (Rows(c, 256, 44, all=False),),
        (Rows(d, 0, 200, all=True),),
    ]
    across = pieces_of(files, workers=2, across=True)
    assert [sum(rows.rows for rows in piece) for piece in across] == [256, 256, 256, 256, 216]
    assert across[2] == (Rows(a, 512, 188, all=False), Rows(b, 0, 40, all=True), Rows(c, 0, 28, all=False))
    assert len(pieces_of(files, workers=1, across=True)) == 3
    for pieces in (apart, across):
        read = []
        for piece in pieces:
            with as_files(piece) as place:
                read += pl.read_parquet(place)["x"].to_list()
        assert read == list(range(1240))


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
