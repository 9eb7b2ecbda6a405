"""From reports to tables: grouping, refusals, formats that parse back, and identical output."""

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main
from fuxictr_multimodal.comparison import columns, slices, tables
from fuxictr_multimodal.comparison.assemble import make_board
from fuxictr_multimodal.comparison.board import Board
from fuxictr_multimodal.comparison.collect import collect
from fuxictr_multimodal.comparison.page import page
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.training.report import Report
from tests.helpers.leaderboard_reports import write_run


def leaderboard(capsys, *arguments):
    run_leaderboard_main([str(argument) for argument in arguments])
    return capsys.readouterr().out


# Reports to groups


def test_seeds_of_an_expid_are_one_entry(board):
    assert [entry.name for entry in board.entries] == ["QIN_full", "DIN_x", "SIM_x"]
    assert board.entries[0].seeds == (1, 2, 10)
    assert board.entries[0].runs == ("QIN_full_s1", "QIN_full_s2", "QIN_full_s10")
    assert board.compared == "test"
    assert board.baseline == "DIN_x"


def test_no_run_is_dropped_silently(board, store, reports):
    listed = {run.run: run for run in board.unfinished}
    assert set(listed) == {"QIN_wide_s1", "DIN_x_s4", "QIN_odd_s1"}
    assert (listed["QIN_wide_s1"].status, listed["DIN_x_s4"].status) == ("failed", "incomplete")
    assert "in epoch 2" in listed["QIN_wide_s1"].reason
    assert listed["QIN_odd_s1"].status == "unreadable"
    for text in (tables.terminal(board), tables.markdown(board), tables.as_csv(board), page(board)):
        assert all(name in text for name in listed)
    assert all(tables.tex(name) in tables.latex(board) for name in listed)
    more = make_board(collect(reports), store=store, replicates=0, not_run=["DIN_x", "TWIN_x", "QIN_wide"])
    assert [run.run for run in more.unfinished if run.status == "not run"] == ["TWIN_x"]


def test_a_run_of_a_longer_name_is_no_run_of_the_shorter(store, tmp_path):
    write_run(tmp_path, store, expid="QIN_x_softmax", model="QIN", seed=1)
    more = make_board(collect(tmp_path), store=store, replicates=0, not_run=["QIN_x", "QIN_x_softmax"])
    assert [run.run for run in more.unfinished] == ["QIN_x"]


def test_configurations_of_one_expid_stay_apart_and_a_seed_counts_once(store, tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, store, expid="DIN_x", model="DIN", seed=seed)
    other = write_run(tmp_path, store, expid="DIN_x", model="DIN", seed=3, config={"learning_rate": 0.1})
    assert other.config["learning_rate"] == 0.1
    Report.read(tmp_path / "DIN_x_s2.report.json").write(tmp_path / "DIN_x.report.json")
    found = collect(tmp_path)
    assert sorted(group.seeds for group in found.groups) == [(1, 2), (3,)]
    assert [group.name for group in found.groups] == ["DIN_x", "DIN_x@learning_rate=0.1"]
    assert [(run.run, run.status) for run in found.unfinished] == [("DIN_x_s2", "repeated")]


def test_groups_of_one_name_say_the_settings_that_differ(store, tmp_path):
    settings = ({"learning_rate": 1e-3, "epochs": 3}, {"learning_rate": 2e-3, "epochs": 3}, {"learning_rate": 2e-3})
    for seed, config in enumerate(settings, start=1):
        write_run(tmp_path, store, expid="DIN_x", model="DIN", seed=seed, config=config)
    # A run whose name says its settings, beside one of an older version that was run with the same.
    write_run(tmp_path, store, expid="DIN_x@epochs=3+learning_rate=1e-3", model="DIN", seed=4, config=settings[0])
    names = {group.seeds[0]: group.name for group in collect(tmp_path).groups}
    assert re.fullmatch(r"DIN_x@[0-9a-f]{6}", names.pop(1))
    said = {2: "epochs=3+learning_rate=2e-3", 3: "epochs=6+learning_rate=2e-3", 4: "epochs=3+learning_rate=1e-3"}
    assert names == {seed: f"DIN_x@{settings}" for seed, settings in said.items()}


def test_an_interrupted_run_is_listed_with_its_way_on(store, tmp_path):
    report = write_run(tmp_path, store, expid="DIN_x", model="DIN")
    report.status, report.error = "interrupted", "interrupted by SIGTERM"
    report.write(tmp_path / "DIN_x_s1.report.json")
    (unfinished,) = collect(tmp_path).unfinished
    assert unfinished.status == "interrupted"
    assert unfinished.reason == "interrupted by SIGTERM after 6 evaluations; run it again with --resume"


def test_builds_of_the_dataset_do_not_mix(store, tmp_path):
    write_run(tmp_path, store, expid="DIN_x", model="DIN")
    older = write_run(tmp_path, store, expid="QIN_x", model="QIN")
    older.manifest_hash = "0" * 64
    older.write(tmp_path / "QIN_x_s1.report.json")
    with pytest.raises(DataError, match=rf"{store.manifest.hash[:12]}: DIN_x_s1; 000000000000: QIN_x_s1"):
        collect(tmp_path)
    with pytest.raises(DataError, match="was built again since these runs"):
        make_board(collect(tmp_path, expids=["QIN_*"]), store=store)


def test_predictions_of_another_run_are_refused(store, tmp_path):
    for expid in ("DIN_x", "QIN_x"):
        write_run(tmp_path, store, expid=expid, model="DIN")
    (tmp_path / "QIN_x_s1.predictions.npz").replace(tmp_path / "DIN_x_s1.predictions.npz")
    with pytest.raises(DataError, match=r"DIN_x_s1.predictions.npz does not belong to DIN_x_s1.report.json"):
        make_board(collect(tmp_path), store=store)


# The numbers


def test_numbers_are_those_of_the_reports(board, reports):
    own = [Report.read(reports / f"QIN_full_s{seed}.report.json") for seed in (1, 2, 10)]
    of_base = [Report.read(reports / f"DIN_x_s{seed}.report.json") for seed in (1, 2, 10)]
    entry = board.entries[0]
    for split in ("valid", "test"):
        for metric in ("AUC", "gAUC", "logloss"):
            values = [report.metrics[split][metric] for report in own]
            assert entry.value(split, metric).mean == pytest.approx(np.mean(values), abs=1e-6)
            assert entry.value(split, metric).std == pytest.approx(np.std(values, ddof=1), abs=2e-6)
    differences = [a.metrics["test"]["AUC"] - b.metrics["test"]["AUC"] for a, b in zip(own, of_base, strict=True)]
    assert entry.difference.mean == pytest.approx(np.mean(differences), abs=1e-6)
    assert entry.difference.shared_seeds == 3
    assert entry.difference.rows.low < entry.difference.mean < entry.difference.rows.high
    assert entry.difference.seeds.low < entry.difference.mean < entry.difference.seeds.high
    assert entry.auc_rows.low < entry.value("test", "AUC").mean < entry.auc_rows.high
    assert board.entries[1].difference is None
    assert board.best("test", "AUC") == {"QIN_full"}
    assert board.best("test", "logloss") == {"QIN_full"}


def test_further_metrics_of_the_reports_have_columns(store, tmp_path):
    for expid, (values, loss) in {"QIN_x": ((0.5, 0.25), 0.4), "DIN_x": ((0.75, 0.125), 0.3)}.items():
        report = write_run(tmp_path, store, expid=expid, model=expid[:3], predictions=False)
        extra = dict(zip(("NDCG(k=5)", "HR(k=10)"), values, strict=True)) | {"binary_crossentropy": loss}
        report.metrics = {split: extra | found | {"MAP": None} for split, found in report.metrics.items()}
        report.write(tmp_path / f"{report.expid}.report.json")
    board = make_board(collect(tmp_path), store=store)
    titles = {column.title: column for column in columns.columns(board)}
    assert [title for title in titles if title.startswith("test ")] == [
        *("test AUC", "test gAUC", "test logloss"),
        *("test NDCG(k=5)", "test HR(k=10)", "test binary_crossentropy"),
    ]
    best = {"NDCG(k=5)": "DIN_x", "HR(k=10)": "QIN_x", "binary_crossentropy": "DIN_x"}
    for metric, name in best.items():
        assert titles[f"test {metric}"].best == {name}
    frame = list(csv.DictReader(tables.as_csv(board).splitlines()))
    assert {row["experiment"]: row["test_HR(k=10)_mean"] for row in frame if row["kind"] == "experiment"} == {
        "QIN_x": "0.25",
        "DIN_x": "0.125",
    }


def test_an_entry_too_close_to_the_best_is_named(store, tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, store, expid="A", model="QIN", seed=seed, strength=0.6, config={"learning_rate": seed})
    write_run(tmp_path, store, expid="C", model="QIN", strength=0.1)
    board = make_board(collect(tmp_path), store=store, replicates=100)
    assert [entry.tied_with_best for entry in board.entries] == [None, True, False]
    assert any(text.startswith("Not separated from") for text in columns.explanations(board))


def test_resampling_users_widens_the_interval_or_not_but_differs(store, reports, board):
    grouped = make_board(collect(reports), store=store, replicates=60, unit="groups")
    assert grouped.bootstrap["unit"] == "groups"
    assert grouped.entries[0].difference.rows != board.entries[0].difference.rows
    for one, drawn in ((board, "samples"), (grouped, "users")):
        assert one.resampled == drawn
        assert f"| 95 % over {drawn} |" in tables.markdown(one)
        assert any(f"; over {drawn} by the paired bootstrap" in text for text in columns.explanations(one))


def test_a_test_split_without_labels_leaves_valid_to_decide(store, tmp_path):
    for expid in ("DIN_x", "QIN_x"):
        write_run(tmp_path, store, expid=expid, model=expid[:3], splits=("valid",))
    board = make_board(collect(tmp_path), store=store, replicates=20)
    assert board.compared == "valid"
    assert board.entries[0].auc_rows is not None
    assert "valid AUC" in tables.markdown(board)


@pytest.mark.parametrize("spoilt", ["gAUC", "AUC"])
def test_a_metric_that_is_not_defined_on_test(store, tmp_path, spoilt):
    for strength, expid in ((0.5, "QIN_a"), (0.2, "DIN_a")):
        report = write_run(tmp_path, store, expid=expid, model=expid[:3], strength=strength)
        report.metrics["test"][spoilt] = None
        report.write(tmp_path / f"{report.expid}.report.json")
    board = make_board(collect(tmp_path), store=store, replicates=5)
    assert board.compared == ("test" if spoilt == "gAUC" else "valid")
    assert board.entries[0].value("test", spoilt) is None
    assert board.entries[0].value("valid", spoilt) is not None
    for form in (tables.terminal, tables.markdown, tables.latex, tables.as_csv, page):
        assert "None" not in form(board)


def test_auc_that_is_defined_nowhere_cannot_rank(store, tmp_path):
    report = write_run(tmp_path, store, expid="QIN_a", model="QIN")
    for values in report.metrics.values():
        values["AUC"] = None
    report.write(tmp_path / f"{report.expid}.report.json")
    with pytest.raises(DataError, match="AUC ranks the runs, but is not defined on the valid split"):
        make_board(collect(tmp_path), store=store, replicates=5)


def test_without_dataset_or_predictions_the_table_still_stands(store, tmp_path):
    write_run(tmp_path, store, expid="DIN_x", model="DIN", predictions=False)
    alone = make_board(collect(tmp_path))
    assert alone.entries[0].auc_rows is None
    assert any("dataset was not found" in note for note in alone.notes)
    unkept = make_board(collect(tmp_path), store=store)
    assert any("No saved predictions for DIN_x_s1" in note for note in unkept.notes)
    for board in (alone, unkept):
        assert "DIN_x" in page(board)


# Slices


def test_slices_partition_the_rows_and_match_plain_counting(store):
    with store.reader("test") as rows:
        labels = rows.read("label", 0, rows.rows)
        target = rows.read("item_id", 0, rows.rows)
        lengths = np.diff(rows.read_history(0, rows.rows)[1])
    with store.reader("train") as rows:
        trained = rows.read("item_id", 0, rows.rows)
        in_history = set(rows.read_history(0, rows.rows)[0].tolist())
    found = {partition.name: partition for partition in slices.partitions(store, "test")}
    assert set(found) == {"history", "frequency", "cold", "tags"}
    for partition in found.values():
        sizes = slices.counts(partition, labels)
        assert sum(rows for _, rows, _ in sizes) == len(labels)
        assert sum(positives for _, _, positives in sizes) == labels.sum()
        assert all(rows > 0 for _, rows, _ in sizes)
    history = found["history"]
    chosen = np.array([history.labels[b] == "4-7" for b in history.bins])
    assert np.array_equal(chosen, (lengths >= 4) & (lengths <= 7))
    cold = found["cold"]
    expected = [
        "as target" if t in set(trained.tolist()) else "in histories" if t in in_history else "never" for t in target
    ]
    assert [cold.labels[b] for b in cold.bins] == expected


def test_sliced_auc_is_the_auc_of_the_rows(store):
    with store.reader("test") as rows:
        labels = rows.read("label", 0, rows.rows)
    scores = np.random.default_rng(0).random(len(labels)).astype(np.float32)
    bins = np.arange(len(labels)) // 1000
    bins[-3:] = 2
    partition = slices.Partition("x", "", ("a", "b", "c"), bins)
    first, second, third = slices.sliced_aucs(partition, labels, [scores])
    assert first.values == (auc(labels[:1000], scores[:1000]),)
    assert second is not None
    assert third is None


# Formats


def test_output_is_identical_for_the_same_reports(store, reports, board, tmp_path):
    again = make_board(collect(reports), store=store, replicates=60)
    assert again == board
    board.write(tmp_path / "results/board.json")
    read = Board.read(tmp_path / "results/board.json")
    assert read == board
    for form in (tables.terminal, tables.markdown, tables.latex, tables.as_csv, page):
        assert form(read) == form(again) == form(board)
    read.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "results/board.json").read_bytes()


def test_csv_reads_back(board):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(board))))
    assert [row["kind"] for row in rows].count("experiment") == 3
    assert {row["kind"] for row in rows} >= {"experiment", "ceiling", "missing"}
    first = rows[0]
    assert None not in first
    assert float(first["test_AUC_mean"]) == pytest.approx(board.entries[0].value("test", "AUC").mean, abs=1e-6)
    assert float(first["difference_rows_low"]) == pytest.approx(board.entries[0].difference.rows.low, abs=1e-6)
    assert first["seeds"] == "1 2 10"
    missing = next(row for row in rows if row["experiment"] == "QIN_wide_s1")
    assert (missing["status"], missing["reason"]) == ("failed", "TrainingDiverged: the loss is nan in epoch 2 | why")


@pytest.mark.parametrize("short", [False, True])
def test_markdown_rows_have_the_columns_of_their_head(board, short):
    lines = tables.markdown(board, short=short).splitlines()
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2 : 2 + 2 + 3 + len(board.references)]]
    assert len({len(cells) for cells in table}) == 1
    head = [cell.strip() for cell in table[0]]
    assert {"experiment", "valid AUC", "test AUC", "vs DIN_x", "95 % over samples", "parameters"} <= set(head)
    best = table[2][head.index("test AUC")].strip()
    assert re.fullmatch(r"\*\*0\.\d{4} ± 0\.\d{4}\*\*", best)
    assert r"why" in tables.markdown(board)
    assert r"epoch 2 \| why" in tables.markdown(board)


def test_latex_is_escaped_and_balanced(board):
    text = tables.latex(board)
    body = text.split("\\midrule", 1)[1].split("\\bottomrule")[0]
    counts = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith("\\\\")}
    assert len(counts) == 1
    assert not re.search(r"(?<!\\)[_%#]", text.split("\n", 1)[1])
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert "QIN\\_full" in text
    assert "\\textsuperscript{a}" in text


def test_terminal_stars_the_best_and_shows_references_and_footnotes(board):
    text = tables.terminal(board)
    line = next(line for line in text.splitlines() if line.strip().startswith("QIN_full"))
    assert re.search(r"0\.\d{4} ± 0\.\d{4}\*", line)
    assert "best possible (Bayes-optimal)" in text
    assert "SIM_x [a]" in text
    assert "one position off" in text
    assert tables.terminal(board, color=True) != text
    assert max(map(len, tables.terminal(board, width=100).splitlines())) <= 100


def test_settings_that_differ_are_named(store, tmp_path):
    write_run(tmp_path, store, expid="DIN_x", model="DIN", seed=1, config={"batch_size": 128, "embedding_dim": 8})
    write_run(tmp_path, store, expid="QIN_x", model="QIN", seed=2, config={"batch_size": 256, "embedding_dim": 8})
    notes = make_board(collect(tmp_path)).notes
    assert "Same for all: epochs 6; embedding_dim 8." in notes
    assert any(note.startswith("Not the same for all: batch_size: ") and "128 for DIN_x" in note for note in notes)
    assert any(note.startswith("Not the same for all: seeds: ") for note in notes)
    assert not any("warm_start" in note for note in notes)
    write_run(tmp_path, store, expid="SIM_x", model="SIM", config={"warm_start": "DIN_x_s1"})
    notes = make_board(collect(tmp_path)).notes
    (note,) = (note for note in notes if "warm_start" in note)
    assert note.startswith("Not the same for all: warm_start: ")
    assert "DIN_x_s1 for SIM_x" in note
    assert "not set for " in note


# The command


def test_command_exports_and_reads_back(written, tmp_path, capsys):
    kept = tmp_path / "results/x.json"
    common = ("--model-root", written, "--bootstrap", 20)
    direct = leaderboard(capsys, *common, "--format", "markdown", "--export", kept)
    assert leaderboard(capsys, "--from", kept, "--format", "markdown") == direct
    for name in ("t.md", "t.tex", "t.csv", "t.html", "t.txt"):
        assert leaderboard(capsys, "--from", kept, "--out", tmp_path / "out" / name).strip().endswith(name)
    leaderboard(capsys, "--from", kept, "--out", tmp_path / "out/U.HTML")
    assert (tmp_path / "out/U.HTML").read_bytes() == (tmp_path / "out/t.html").read_bytes()
    assert (tmp_path / "out/t.md").read_text() == direct
    assert (tmp_path / "out/t.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads(kept.read_text())["format_version"] == 1


def test_command_filters_and_chooses_the_baseline(reports, capsys):
    common = ("--reports", reports, "--bootstrap", 0, "--format", "csv")
    text = leaderboard(capsys, *common, "--expid", "QIN_full,SIM*", "--baseline", "SIM_x")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["experiment"] for row in rows if row["kind"] != "ceiling"] == ["QIN_full", "SIM_x"]
    assert rows[0]["baseline"] == "SIM_x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "DINN_x"], "--baseline 'DINN_x' is not a completed experiment here. Did you mean 'DIN_x'?"),
        (["--expid", "QIM_full_s1"], "Did you mean 'QIN_full_s1'?"),
        (["--dataset", "Nothing"], "Nothing has no report"),
        (["--bootstrap", "-1"], "cannot be negative"),
        (["--from", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(written, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run_leaderboard_main(["--model-root", str(written), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_exported_board_keeps_its_baseline(written, tmp_path, capsys):
    kept = tmp_path / "x.json"
    leaderboard(capsys, "--model-root", written, "--bootstrap", 0, "--export", kept)
    with pytest.raises(SystemExit):
        run_leaderboard_main(["--from", str(kept), "--baseline", "SIM_x"])
    assert "exported with baseline DIN_x" in capsys.readouterr().err


@pytest.mark.parametrize("values", ["[]", '["x"]', "3", "[true]"])
def test_values_of_an_exported_board_that_are_no_numbers_are_refused(board, tmp_path, values):
    board.write(tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    entry = content["entries"][0]
    split, metrics = next(iter(entry["metrics"].items()))
    metrics[next(iter(metrics))] = json.loads(values)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"metrics.{split}.*must be a list of numbers, one a seed"):
        Board.read(tmp_path / "x.json")


def test_a_report_of_wrong_types_is_one_error(store, tmp_path):
    write_run(tmp_path, store, expid="QIN_x", model="QIN")
    path = tmp_path / "QIN_x_s1.report.json"
    content = json.loads(path.read_text())
    for key, value in (("seconds", "long"), ("rows_per_s", {"train": "fast"}), ("curve", {}), ("parameters", [1])):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(DataError, match=f"report.json is not a report of this version: {key}: "):
            Report.read(path)


@pytest.mark.parametrize("change", [{"seconds": 1e308}, {"metrics": {"valid": {"AUC": 1e308}}}])
def test_numbers_that_no_run_has_are_one_error(store, tmp_path, change):
    write_run(tmp_path, store, expid="QIN_x", model="QIN")
    path = tmp_path / "QIN_x_s1.report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"the reports of QIN_x have a damaged .* \(a number is too large\)"):
        make_board(collect(tmp_path))


def test_a_json_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"format_version": 1, "entries": [{}]}')
    with pytest.raises(DataError, match="is not a leaderboard of this version"):
        Board.read(tmp_path / "x.json")
    head = '{"format_version": 1, "dataset_id": "x", "manifest_hash": "x", "compared": "test", '
    curve = '{"curve": {"seed": 1, "x": [1, 2], "loss": [1.0], "auc": [null]}, "name": "a", "source": "b"}'
    for key, value, said in (
        ("bootstrap", '{"unit": "rows"}', "bootstrap must have replicates, seed and unit"),
        ("published", f"[{curve}]", "x, loss and auc of a curve must be equally long"),
    ):
        (tmp_path / "x.json").write_text(f'{head}"{key}": {value}}}')
        with pytest.raises(DataError, match=rf"\(.*: {said}\)|\(: {said}\)"):
            Board.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match="export it again"):
        Board.read(tmp_path / "x.json")


def test_several_models_of_one_name_need_a_choice(store, tmp_path):
    for expid in ("DIN_a", "DIN_b"):
        write_run(tmp_path, store, expid=expid, model="DIN")
    assert make_board(collect(tmp_path)).baseline is None
    with pytest.raises(ConfigError, match="choose one of DIN_"):
        make_board(collect(tmp_path), baseline="DIN")


def test_help_comes_without_the_heavy_imports(repository):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", repository / "run_leaderboard.py", "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "usage:" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "fuxictr", "numpy", "rich", "polars"} & imported
