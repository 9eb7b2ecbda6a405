"""Scoring from the command line: order, new samples through the dataset's encoders, unknown values, submissions."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.data.recipes.microlens.challenge import build
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.scoring.submission import write_submission
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import challenge_files as files

EXPID = "QIN_MicroLens_1M_x1"
NAME = "small"
TEST = "raw/MicroLens_1M_x1/test.parquet"


def settings(folder):
    small = {"embedding_dim": 4, "num_layers": 2, "num_row": 2, "batch_size": 32, "epochs": 1, "verbose": 0}
    small |= {"data_root": folder / "data", "model_root": folder / "checkpoints"}
    return [f"{key}={value}" for key, value in small.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, repository):
    """The challenge data at small size, and a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("trained")
    build(
        raw=files.write_challenge(folder / "raw"), dataset_id="MicroLens_1M_x1", config_dir=repository / "config",
        data_root=folder / "data", any_size=True, progress=False,
    )  # fmt: skip
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        run_experiment(config_dir=repository / "config", expid=EXPID, overrides=settings(folder), name=NAME)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def score(trained, repository, tmp_path):
    def run(**arguments):
        arguments = {"out": tmp_path / "scores.parquet", "name": NAME, **arguments}
        overrides = [*settings(trained), *arguments.pop("overrides", [])]
        return predict(config_dir=repository / "config", expid=EXPID, overrides=overrides, **arguments)

    return run


def scores_of(scored):
    return pl.read_parquet(scored.out)["score"].to_numpy()


def test_the_test_split_is_scored_in_its_order(score, trained):
    found = pl.read_parquet(score(engine="model").out)
    raw = files.load(trained / TEST)
    for name in ("ID", "user_id", "item_id"):
        assert (found[name].to_numpy() == raw[name]).all()
    kept = np.load(trained / f"checkpoints/MicroLens_1M_x1/{NAME}.predictions.npz")
    assert found["score"].dtype == pl.Float32
    assert (found["score"].to_numpy() == kept["test_scores"]).all()
    assert found["score"].n_unique() > 50


def test_scores_go_beside_the_checkpoint_by_default_and_csv_reads_back(score, trained, tmp_path):
    expected = score(out=None)
    assert expected.out == trained / f"checkpoints/MicroLens_1M_x1/{NAME}.scores.parquet"
    table = pl.read_csv(score(out=tmp_path / "x/scores.csv").out, schema_overrides={"score": pl.Float32})
    assert table.equals(pl.read_parquet(expected.out))
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["scores.csv"]


def test_new_rows_score_as_the_same_rows_of_the_split(score, trained, tmp_path):
    expected = scores_of(score())
    same = score(data=trained / TEST)
    assert np.abs(scores_of(same) - expected).max() < 1e-6
    assert (same.rows, same.unknown, same.cut_histories) == (files.ROWS["test"], {}, 0)

    order = np.random.default_rng(0).permutation(len(expected))
    table = pq.read_table(trained / TEST).take(order)
    lists = pa.array([[i for i in row if i] for row in table["item_seq"].to_pylist()], pa.list_(pa.int64()))
    table = table.drop_columns(["ID", "user_id", "item_seq"]).append_column("clicks", lists)
    pq.write_table(table.append_column("unused", pa.array(["x"] * len(order))), tmp_path / "new.parquet")
    shuffled = score(data=tmp_path / "new.parquet", history_column="clicks")
    assert np.abs(scores_of(shuffled) - expected[order]).max() < 1e-6
    assert pl.read_parquet(shuffled.out).columns == ["item_id", "score"]


def test_unknown_values_are_counted_and_scored_as_padding(score, trained, tmp_path):
    rows = {
        "item_id": [1, 999, 5, 0, 6, 7, 8],
        "likes_level": [3, 3, 77, 3, 3, 1, 1],
        "views_level": [1, 1, 1, -1, 1, 1, 1],
        "item_seq": [[7, 1234, 8], [7, 8], [0, 0, 9], [-5, 4], list(range(1, 40)) * 2, [], [0, 0]],
    }
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    found = score(data=tmp_path / "new.parquet")
    assert found.unknown == {"item_id": 2, "likes_level": 1, "views_level": 1, "item_seq": 2}
    assert found.cut_histories == 1
    known = {
        "item_id": [1, 999, 5, 0, 6, 7, 8],
        "likes_level": [3, 3, 0, 3, 3, 1, 1],
        "views_level": [1, 1, 1, 0, 1, 1, 1],
        "item_seq": [[7, 8], [7, 8], [9], [4], (list(range(1, 40)) * 2)[-64:], [], []],
    }
    pq.write_table(pa.table(known), tmp_path / "known.parquet")
    again = score(data=tmp_path / "known.parquet", out=tmp_path / "again.parquet")
    assert (scores_of(again) == scores_of(found)).all()
    assert pl.read_parquet(found.out)["item_id"].to_list() == rows["item_id"]


KEYS = {
    "text": pa.array(["req-1", "req-2", "req-2"]),
    "text with gaps": pa.array(["a", None, "c"]),
    "categories": pa.array(["a", "b", "a"]).dictionary_encode(),
    "numbers": pa.array([1.5, 2.0, 3.0]),
    "nothing": pa.nulls(3),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("suffix", [".parquet", ".PARQUET", ".csv", ".CSV"])
def test_keys_of_any_type_are_copied_and_cold_users_scored(score, tmp_path, keys, suffix):
    rows = {"ID": keys, "user_id": keys, "item_id": [3, 4, 5], "likes_level": [1, 2, 3], "views_level": [1, 2, 3]}
    pq.write_table(pa.table({**rows, "item_seq": [[], [], []]}), tmp_path / "new.parquet")
    found = score(data=tmp_path / "new.parquet", out=tmp_path / f"scores{suffix}").out
    table = pl.read_csv(found) if suffix.lower() == ".csv" else pl.read_parquet(found)
    assert table.columns == ["ID", "user_id", "item_id", "score"]
    assert table["ID"].to_list() == table["user_id"].to_list() == keys.to_pylist()
    assert table["score"].is_between(0, 1).all()


@pytest.mark.parametrize("keys", [[b"a"], [[1]], [{"a": 1}]], ids=["bytes", "lists", "structs"])
def test_keys_that_a_csv_file_cannot_hold(score, tmp_path, keys):
    rows = {"ID": keys, "user_id": [1], "item_id": [3], "likes_level": [1], "views_level": [1], "item_seq": [[2]]}
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"scores\.csv: a csv file cannot hold column 'ID' \(.*write \.parquet"):
        score(data=tmp_path / "new.parquet", out=tmp_path / "scores.csv")
    assert pl.read_parquet(score(data=tmp_path / "new.parquet", out=tmp_path / "x.parquet").out)["ID"].to_list() == keys


def test_keys_that_the_first_part_lacks(score, tmp_path):
    rows = {"user_id": [1], "item_id": [3], "likes_level": [1], "views_level": [1], "item_seq": [[2]]}
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "parts/part-0.parquet")
    pq.write_table(pa.table({**rows, "ID": [1]}), tmp_path / "parts/part-1.parquet")
    with pytest.raises(DataError, match=r"part-0\.parquet: column 'ID' is missing"):
        score(data=tmp_path / "parts", out=tmp_path / "x.parquet")


def test_a_folder_of_parts_scores_as_the_whole_file(score, trained, tmp_path):
    whole = score(data=trained / TEST)
    expected = pl.read_parquet(whole.out)
    table, folder = pq.read_table(trained / TEST), tmp_path / "parts"
    folder.mkdir()
    for part, (start, rows) in enumerate([(0, 7), (7, 40), (47, len(table))]):
        pq.write_table(table.slice(start, rows), folder / f"part-{part:05}.parquet")
    (folder / "_SUCCESS").touch()
    for data in (folder, folder / "part-*.parquet"):
        found = score(data=data, out=tmp_path / "x.parquet", submission=True)
        assert pl.read_parquet(found.out).drop("score").equals(expected.drop("score"))
        assert np.abs(scores_of(found) - expected["score"].to_numpy()).max() < 1e-6
        check_submission(found.submission, expected["ID"].to_numpy(), "Task2")


def test_scores_do_not_replace_a_folder(score, tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*x\.csv is a folder: pass a file"):
        score(out=tmp_path / "x.csv")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the folder .*file cannot be created \(.*\): choose another one"):
        score(out=tmp_path / "file/x.csv")


def test_a_submission_needs_whole_ids(score, trained, tmp_path):
    table = pq.read_table(trained / TEST)
    table = table.set_column(table.column_names.index("ID"), "ID", table["ID"].cast(pa.string()))
    pq.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"column 'ID': a submission needs a whole number in every row"):
        score(data=tmp_path / "new.parquet", submission=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: files.drop(p, "views_level"), "test.parquet: column 'views_level' is missing"),
        (lambda p: files.drop(p, "item_seq"), "no column of histories: it must be named item_seq or history"),
        (lambda p: files.twice(p, "views_level"), "test.parquet: column 'views_level' occurs 2 times"),
        (lambda p: files.twice(p, "ID"), "test.parquet: column 'ID' occurs 2 times"),
        (lambda p: files.spoil(p, "item_seq", 11, (63, 0)), "row 11, column 'item_seq': 0 after an item"),
        (lambda p: files.spoil(p, "likes_level", 11, None), "row 11, column 'likes_level': the value is missing"),
        (lambda p: files.cut(p), "test.parquet: damaged, truncated or not a parquet file"),
        (lambda p: p.unlink(), "test.parquet does not exist"),
        (lambda p: pq.write_table(pq.read_table(p)[:0], p), "the file has no samples to score"),
    ],
)
def test_wrong_new_rows(score, trained, tmp_path, spoil, message):
    path = tmp_path / "test.parquet"
    path.write_bytes((trained / TEST).read_bytes())
    spoil(path)
    with pytest.raises(DataError, match=message):
        score(data=path)
    assert not list(tmp_path.glob("scores*"))


def check_submission(path, ids, task):
    """The rules, as the challenge's page states them: one csv file, these columns, every id once, probabilities."""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["prediction.csv"]
        assert archive.testzip() is None
        lines = archive.read("prediction.csv").decode().split("\n")
    assert lines.pop() == ""
    assert lines[0].split(",") == ["ID", task]
    rows = [line.split(",") for line in lines[1:]]
    assert [int(row[0]) for row in rows] == list(ids)
    assert len({row[0] for row in rows}) == len(rows)
    scores = np.array([float(row[1]) for row in rows])
    assert ((scores >= 0) & (scores <= 1)).all()
    return scores


@pytest.mark.parametrize("task", ["Task1", "Task2", "Task1&2"])
def test_submission_follows_the_rules(score, trained, task):
    scored = score(submission=True, task=task)
    ids = files.load(trained / TEST, "ID")["ID"]
    assert scored.submission.name == "scores.zip"
    scores = check_submission(scored.submission, ids, task)
    assert (scores.astype(np.float32) == scores_of(scored)).all()


def test_submission_of_new_rows_needs_ids(score, trained, tmp_path):
    path = tmp_path / "new.parquet"
    path.write_bytes((trained / TEST).read_bytes())
    assert score(data=path, submission=True).submission is not None
    files.drop(path, "ID")
    with pytest.raises(DataError, match="a submission needs the column 'ID', which .*new.parquet lacks"):
        score(data=path, submission=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 4}, "needs 4 rows; there are 3 ids and 3 scores"),
        ({"ids": np.array([5, 6, 5])}, "ID 5 is in rows 0 and 2"),
        ({"scores": np.float32([0.1, 1.5, 0.2])}, "row 1, ID 8: score 1.5 is not in 0 to 1"),
        ({"scores": np.float32([0.1, 0.2, np.nan])}, "row 2, ID 9: score nan"),
        ({"task": "Task3"}, "task 'Task3' is unknown"),
    ],
)
def test_wrong_submissions(tmp_path, changes, message):
    arguments = {"ids": np.array([7, 8, 9]), "scores": np.float32([0.1, 0.2, 1e-9]), "task": "Task2", "rows": 3}
    write_submission(tmp_path / "good.zip", **arguments)
    check_submission(tmp_path / "good.zip", [7, 8, 9], "Task2")
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path / "x.zip", **(arguments | changes))
    assert not (tmp_path / "x.zip").exists()


def test_equal_scores_give_equal_bytes(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_submission(tmp_path / name, ids=np.arange(3), scores=np.float32([0, 1, 0.5]), task="Task2", rows=3)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"seed": 9},
            DataError,
            r"_s9.model does not exist: train it first with run_expid.py --expid QIN_MicroLens_1M",
        ),
        (
            {"overrides": ["num_row=3"]},
            DataError,
            "qnn.layer.0.linear.0.weight' has shape .64, 32., but the model needs .96, 32",
        ),
        ({"out": "scores.txt"}, ConfigError, "--out scores.txt: scores are written as .parquet or .csv"),
        ({"overrides": ["data_root=nowhere"]}, DataError, "dataset 'MicroLens_1M_x1' is not in nowhere"),
    ],
)
def test_what_cannot_be_scored(score, arguments, error, message):
    if "out" in arguments:
        arguments = {"out": Path(arguments["out"])}
    with pytest.raises(error, match=message):
        score(**arguments)


def test_a_named_run_is_scored_by_its_own_settings(score, trained, repository, tmp_path):
    folders = [text for text in settings(trained) if "_root=" in text]
    named = {"config_dir": repository / "config", "expid": EXPID, "overrides": folders, "name": NAME}
    expected = scores_of(score())
    assert np.array_equal(scores_of(predict(**named, out=tmp_path / "named.parquet")), expected)
    with pytest.raises(DataError, match=r"smal\.model does not exist: .* --expid QIN_.* Did you mean 'small'"):
        predict(**{**named, "name": "smal"})


def test_a_run_is_found_by_the_settings_that_it_was_given(trained, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"config_dir": repository / "config", "expid": EXPID, "overrides": [*settings(trained), "num_row=3"]}
    report, path = run_experiment(**given)
    assert report.run.startswith(f"{EXPID}@batch_size=32+embedding_dim=4+epochs=1+")
    assert predict(**given).out == path.with_name(f"{report.run}.scores.parquet")
    # The size of a batch changes no score: it may be another one.
    assert predict(**{**given, "overrides": [*given["overrides"], "batch_size=64"]}).out.parent == path.parent


def test_a_checkpoint_of_another_build_is_refused(score, trained, repository, tmp_path):
    build(
        raw=files.write_challenge(tmp_path / "raw", seed=3), dataset_id="MicroLens_1M_x1",
        config_dir=repository / "config", data_root=tmp_path / "data", any_size=True, progress=False,
    )  # fmt: skip
    with pytest.raises(DataError, match="was trained on another build of dataset 'MicroLens_1M_x1'"):
        score(overrides=[f"data_root={tmp_path / 'data'}"])


def test_command(trained, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = [part for setting in settings(trained) for part in ("--set", setting)]
    shared = ["--config", str(repository / "config"), "--name", NAME, *overrides]
    new = {"item_id": [99], "likes_level": [1], "views_level": [1], "item_seq": [[*range(1, 40)] * 2]}
    pq.write_table(pa.table(new), "new.parquet")
    run_predict_main(["--expid", EXPID, "--data", "new.parquet", "--out", "scores.parquet", *shared])
    shown = capsys.readouterr()
    assert "1 samples in " in shown.out
    assert "unknown: 1 values of 'item_id'\n1 histories were cut" in shown.err
    run_predict_main(["--expid", EXPID, "--export-weights", "x.model", *shared])
    assert capsys.readouterr().out == "weights: x.model\n"
    run_predict_main(["--expid", EXPID, "--import-weights", "x.model", "--submission", "--out", "y.csv", *shared])
    assert "submission: y.zip" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.parquet", "scores.parquet", "x.model", "y.csv", "y.zip"]
    with pytest.raises(SystemExit, match="2"):
        run_predict_main(["--expid", "QIN_MicroLens_1M_x2", *shared])
    assert "Did you mean 'QIN_MicroLens_1M_x1'?" in capsys.readouterr().err


def test_help_is_quick(repository):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", repository / "run_predict.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(repository)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "fuxictr", "ray", "polars", "numpy"} & imported


def test_a_dataset_without_a_test_split(score, monkeypatch):
    monkeypatch.setattr(Store, "split_path", lambda self, split: None)
    with pytest.raises(InputError, match="has no test split: pass samples with --data"):
        score()
