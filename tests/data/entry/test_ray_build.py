"""Datasets that a Ray cluster builds are those of one process, byte for byte; so are its errors."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from fuxictr_multimodal.cli.dataset import build_main
from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.entry.log import columns as log_columns
from fuxictr_multimodal.data.entry.log import pieces as log_pieces
from fuxictr_multimodal.data.entry.samples import dataset as samples_dataset
from fuxictr_multimodal.data.entry.samples import pieces as sample_pieces
from fuxictr_multimodal.data.entry.tables.file_print import FilePrint
from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.system import ray_cluster
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.system.ray_cluster import in_order, ray_at
from tests.helpers import log_dataset, ready_samples

ROWS = 70


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine with one worker, as a command starts and ends it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray_cluster, "available_cores", lambda: 1)
        with ray_at(None) as started:
            yield started
    assert not started.is_initialized()


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of few rows, alike with and without Ray."""
    monkeypatch.setitem(Table.chunks.__kwdefaults__, "rows", ROWS)
    for module in (log_pieces, sample_pieces):
        monkeypatch.setattr(module, "CHUNK_ROWS", ROWS)
    for module in (log_pieces, log_columns):
        monkeypatch.setattr(module, "PIECE_ROWS", ROWS // 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def built_alike(entry: dict, tmp_path: Path, frames: dict | None = None) -> None:
    """Build by both engines; all files are the same."""
    stores = [
        build_entry(entry, data_root=tmp_path / engine, frames=frames, engine=engine) for engine in ("local", "ray")
    ]
    assert stores[1].manifest.hash == stores[0].manifest.hash
    one, many = (contents(store.dir) for store in stores)
    assert many == one
    assert sorted(path.name for path in (tmp_path / "ray").iterdir() if "building" in path.name) == []


def samples_entry(tmp_path: Path, *, kind: str = "parquet", **changes) -> dict:
    """Ready samples; those of train in parts whose numbers are of two widths."""
    rows = ready_samples.make_rows(0, 200)
    if kind == "parquet":
        (tmp_path / "train").mkdir()
        narrow = rows[:90].with_columns(pl.col("hour").cast(pl.Int16))
        narrow.write_parquet(tmp_path / "train/part-0.parquet", row_group_size=40)
        rows[90:].write_parquet(tmp_path / "train/part-1.parquet")
    else:
        text = pl.col("clicks").list.eval(pl.element().fill_null("")).list.join("^")
        rows.with_columns(text, brand=pl.col("item_id").str.slice(-1)).write_csv(tmp_path / "train.csv")
    for seed, (split, size) in enumerate((("valid", 50), ("test", 60)), 1):
        ready_samples.make_rows(seed, size).write_parquet(tmp_path / f"{split}.parquet")
    ready_samples.make_items().write_parquet(tmp_path / "items.parquet")
    ready_samples.make_users().write_parquet(tmp_path / "users.parquet")
    train = str(tmp_path / ("train" if kind == "parquet" else "train.csv"))
    return ready_samples.entry_of(tmp_path, train_data=train, data_format=kind, **changes)


CUT = {"valid_data": None, "test_data": None, "split": {"by": "user", "valid": 0.2, "test": 0.2, "seed": 3}}
FLAT = [column for column in ready_samples.COLUMNS if column.get("source") != "item"]


@pytest.mark.usefixtures("ray", "small_pieces")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("parquet", {}),
        ("parquet", CUT),
        ("csv", {**CUT, "item_data": None, "feature_cols": ready_samples.COLUMNS[:-2]}),
        ("parquet", {"item_data": None, "history_col": None, "feature_cols": FLAT}),
    ],
    ids=["files", "cut by users", "csv that shows its items", "flat"],
)
def test_ready_samples_are_those_of_one_process(tmp_path, kind, changes):
    built_alike(samples_entry(tmp_path, kind=kind, **changes), tmp_path)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_frames_are_sent_to_the_workers(tmp_path):
    rows = ready_samples.make_rows(0, 200).with_columns(
        ago=pl.col("clicks").list.eval(pl.element().str.len_chars().cast(pl.Float64))
    )
    frames = {"train_data": rows, "valid_data": rows[50:120], "item_data": ready_samples.make_items()}
    entry = ready_samples.entry_of(
        tmp_path, test_data=None, user_data=None, event_cols=[{"name": "length", "history": "ago", "bins": 4}],
        feature_cols=[c for c in ready_samples.COLUMNS if c["name"] != "city"],
    )  # fmt: skip
    built_alike(entry, tmp_path, frames)


@pytest.mark.usefixtures("ray", "small_pieces")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("parquet", {"negatives": {"ratio": 2}, "event_cols": [{"name": "age"}, {"name": "rating", "bins": 3}]}),
        ("parquet", {"split": {"by": "user", "valid": 0.2, "test": 0.2}, "weight_col": "weight", "item_data": None,
                     "history": "all", "without": "brand"}),
        ("csv", {"split": {"by": "last_item", "test": 0.1}}),
        ("parquet", {"feature_cols": 3}),
    ],
    ids=["negatives", "users and weights", "csv", "no column of the log"],
)  # fmt: skip
def test_a_log_is_that_of_one_process(tmp_path, kind, changes):
    raw = log_dataset.make_raw()
    raw["log"] = raw["log"].with_columns(
        user=pl.when(pl.int_range(pl.len()) % 31 == 4).then(None).otherwise("user"),
        page=pl.concat_str(pl.lit("page "), pl.col("ts") // 7200 % 50),
    )
    entry = log_dataset.entry_of(log_dataset.written(tmp_path, raw, kind), kind=kind)
    changes = dict(changes)
    if "feature_cols" in changes:
        changes = {"feature_cols": [c for c in entry["feature_cols"] if c["name"] in ("user_id", "ts", "item_id")]}
    else:
        # Texts that get their codes as they come, which is split by split within a run of events.
        entry["feature_cols"].append({"name": "page", "active": True, "dtype": "str", "type": "meta"})
    without = changes.pop("without", None)
    entry["feature_cols"] = [c for c in entry["feature_cols"] if c["name"] != without]
    built_alike({key: value for key, value in {**entry, **changes}.items() if value is not None}, tmp_path)


@pytest.mark.usefixtures("ray", "small_pieces")
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item_id", None, "train: column 'item_id', row 155 (counted from 0): the sample has no item"),
        ("label", 0.5, "train.h5: row 155, column 'label': value 0.5 is not a label"),
    ],
)
def test_a_wrong_value_is_named_as_in_one_process(tmp_path, column, value, message):
    entry = samples_entry(tmp_path)
    rows = pl.read_parquet(tmp_path / "train/part-1.parquet")
    wrong = pl.when(pl.int_range(pl.len()) == 155 - 90).then(pl.lit(value)).otherwise(column)
    rows.with_columns(wrong.alias(column)).write_parquet(tmp_path / "train/part-1.parquet")
    told = []
    for engine in ("local", "ray"):
        with pytest.raises(DataError) as met:
            build_entry(entry, data_root=tmp_path / engine, engine=engine)
        told.append(str(met.value))
        assert [path.name for path in (tmp_path / engine).iterdir() if path.is_dir()] == []
    assert told[1] == told[0]
    assert message in told[1]


@pytest.mark.usefixtures("ray", "small_pieces")
def test_relative_paths_are_those_of_the_command(tmp_path, monkeypatch):
    """The cluster was started in another folder; a file of the same name is there."""
    entry = samples_entry(tmp_path, test_data=None)
    there = Path.cwd()
    monkeypatch.chdir(tmp_path)
    entry |= {"train_data": "./train", "valid_data": "valid.parquet"}
    assert there != tmp_path
    built_alike(entry, tmp_path)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_another_file_at_the_path_of_a_worker_is_refused(tmp_path, monkeypatch):
    entry = samples_entry(tmp_path, test_data=None)
    monkeypatch.setattr(samples_dataset, "SampleRows", OtherFile)
    with pytest.raises(
        InputError, match=r"this machine does not: \S+/part-0.parquet is another file than the one that"
    ):
        build_entry(entry, data_root=tmp_path / "ray", engine="ray")
    assert not (tmp_path / "ray/Shop").exists()


class OtherFile(sample_pieces.SampleRows):
    """A worker sees another file at the path; this process, which reads at the same time, does not."""

    def apart(self):
        return Replaced(super().apart())


class Replaced:
    def __init__(self, rows_of):
        self._rows_of = rows_of

    def __call__(self, piece):
        place = Path(self._rows_of.sources[0].files[0]).with_name("other")
        ready_samples.make_rows(9, 90).write_parquet(place, row_group_size=40)
        other = FilePrint.of(place)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(FilePrint, "of", lambda path: replace(other, path=path.absolute()))
            return list(self._rows_of(piece))


class KilledOnce(sample_pieces.SampleRows):
    """Ends its process once, as the system does."""

    def __call__(self, piece):
        mark = Path(self.entry.settings.data_root, "killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(piece)


@pytest.mark.usefixtures("ray", "small_pieces")
def test_a_killed_worker_costs_nothing_but_time(tmp_path, monkeypatch):
    entry = samples_entry(tmp_path, test_data=None, data_root=str(tmp_path))
    expected = build_entry(entry, data_root=tmp_path / "local").manifest.hash
    monkeypatch.setattr(samples_dataset, "SampleRows", KilledOnce)
    assert build_entry(entry, data_root=tmp_path / "ray", engine="ray").manifest.hash == expected
    assert (tmp_path / "killed").exists()


class Elsewhere(sample_pieces.SampleRows):
    """Finds the files in this process only."""

    def apart(self):
        return Lost()


class Lost:
    def __call__(self, piece):
        raise DataError("train.parquet does not exist")


@pytest.mark.usefixtures("ray", "small_pieces")
def test_what_a_worker_alone_meets_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_dataset, "SampleRows", Elsewhere)
    with pytest.raises(InputError, match=r"that this machine does not: train.parquet does not exist; every machine"):
        build_entry(samples_entry(tmp_path), data_root=tmp_path / "ray", engine="ray")
    assert not (tmp_path / "ray/Shop").exists()


def test_pieces_are_taken_as_they_are_needed(ray):
    taken = []
    answers = in_order(ray, str, (taken.append(n) or n for n in range(50)), what="counted")
    assert next(answers) == (0, "0")
    assert taken == [0, 1]
    assert [answer for _, answer in answers] == [str(n) for n in range(1, 50)]


def test_a_piece_that_ends_every_worker_is_one_sentence(ray, monkeypatch):
    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    with pytest.raises(
        InputError, match="process ended while it counted, 2 times for one piece, most often for want of memory"
    ):
        next(in_order(ray, os._exit, [1], what="counted"))


def test_a_cluster_that_asks_for_a_token_says_so():
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    plain = str(ray_cluster._unreachable("10.0.0.1:6379", error))
    assert plain.endswith("Ray cannot be reached there: Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = RuntimeError("Failed to connect to GCS. RPC error: InvalidAuthToken: Authentication token")
    assert "set RAY_AUTH_MODE=token" in str(ray_cluster._unreachable("10.0.0.1:6379", error))


def test_a_cluster_that_died_is_not_waited_for(tmp_path, monkeypatch):
    for empty in ("", " "):
        with pytest.raises(InputError, match="--ray-address is empty"), ray_at(empty):
            pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"^--ray-address auto: Ray cannot be reached at 127.0.0.1:1, where it ran"):
        ray_cluster._check_address(ray_cluster._found(), named="auto")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", list)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: "127.0.0.1:2")
    assert ray_cluster._found().rpartition(":")[2] == "2"
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: None)
    with pytest.raises(InputError, match="auto: this machine belongs to no Ray cluster"):
        ray_cluster._found()


def test_a_signal_while_ray_starts_ends_as_everywhere(monkeypatch, capfd):
    """Ray puts a handler of its own in place of ours."""
    import ray

    def starts(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", starts)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, command(), ray_at(None):
        pass
    assert ended.value.code == 143
    assert "interrupted by SIGTERM" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_ray_does_not_build_is_said_at_once(tmp_path, repository, capsys):
    config = str(repository / "config")
    for options, reason in (
        (
            ["--engine", "ray"],
            "dataset 'Synthetic_test': --engine ray encodes a log of events or samples that are ready",
        ),
        (["--ray-address", "auto"], "--ray-address is for --engine ray, not local"),
    ):
        with pytest.raises(SystemExit) as ended:
            build_main(
                ["--dataset-id", "Synthetic_test", "--data-root", str(tmp_path), *options],
                prog="fxmm build",
                config=config,
            )
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
    entry = samples_entry(tmp_path)
    with pytest.raises(ConfigError, match="engine 'rays' is not known. Did you mean 'ray'"):
        build_entry(entry, engine="rays")
    with pytest.raises(InputError, match="--ray-address 127.0.0.1:1: Ray cannot be reached there"):
        build_entry(entry, engine="ray", ray_address="127.0.0.1:1")
    assert not any(tmp_path.glob("*/Shop"))
