"""What a model attended to: against its own forward pass, by row, by user, over a split, as text and as a picture."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fuxictr_multimodal.cli.explain import run_explain_main
from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.store import SplitReader, read_item_table
from fuxictr_multimodal.data.store.reader import TITLES_FILE
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.explain.attention import Explainer, ItemNames, RowExplanation, read_titles
from fuxictr_multimodal.explain.view import draw_rows, row_table, sparsity_table
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import shop


@pytest.fixture(scope="module")
def arguments(repository, data_root, tmp_path_factory):
    """Train QIN_test once; return the arguments that name it."""
    root = tmp_path_factory.mktemp("explain")
    settings = [f"data_root={data_root}", f"model_root={root}", "verbose=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # where the result line is written
        run_experiment(config_dir=repository / "config", expid="QIN_test", overrides=settings)
    return {"config_dir": repository / "config", "expid": "QIN_test", "overrides": settings}


@pytest.fixture(scope="module")
def explainer(arguments):
    return Explainer(Experiment.load(**arguments))


def as_text(table) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_row_is_that_of_the_split(explainer):
    found = explainer.row("valid", 300)  # in the second batch
    with SplitReader(explainer.experiment.store.split_path("valid")) as reader:
        assert found.items == reader.read_history(300, 301)[0].tolist()
        stored = {name: reader.read(name, 300, 301)[0] for name in ("item_id", "user_id", "label")}
    assert (found.row, found.target, found.group, found.label) == (300, *stored.values())
    assert len(found.weights) == len(found.items) > 0
    assert min(found.weights) >= 0


def test_items_without_weight_do_not_change_the_score(explainer):
    """Taking out what has a weight of 0 leaves the score as it is; taking out the rest does not."""
    model, rows = explainer.model, explainer.user("test", explainer.row("test", 0).group)
    changed = 0
    for found in rows:
        kept = [item for item, weight in zip(found.items, found.weights, strict=True) if weight]
        with SplitReader(explainer.experiment.store.split_path("test")) as reader:
            columns = ("likes_level", "views_level")
            features = {n: torch.from_numpy(reader.read(n, found.row, found.row + 1)) for n in columns}
        for items, same in ((kept, True), ([], not kept)):
            history = Jagged(torch.tensor(items, dtype=torch.int32), torch.tensor([0, len(items)]))
            batch = Batch(features, torch.tensor([found.target], dtype=torch.int32), history)
            with torch.no_grad():
                score = float(model(batch)["y_pred"])
            assert (abs(score - found.score) < 1e-6) >= same
            changed += abs(score - found.score) > 1e-6
    assert changed


def test_the_rows_of_a_user(explainer):
    group = explainer.row("test", 5).group
    with SplitReader(explainer.experiment.store.split_path("test")) as reader:
        users = reader.read("user_id", 0, reader.rows)
    found = explainer.user("test", group)
    assert [row.row for row in found] == np.flatnonzero(users == group).tolist()
    assert [row.weights for row in found] == [
        pytest.approx(explainer.row("test", row.row).weights, abs=1e-7) for row in found
    ]
    assert explainer.user("test", group, limit=1) == found[:1]


def test_sparsity_counts_every_item_once(explainer):
    found = explainer.sparsity("test")
    with SplitReader(explainer.experiment.store.split_path("test")) as reader:
        lengths = np.diff(reader.read_history(0, reader.rows)[1])
    zeros = []  # of each row, by its own weights
    for batch in explainer.experiment.split_loader("test", explainer.feature_map, "cpu"):
        weights = explainer.model.attention_weights(batch)
        spans = zip(weights.offsets[:-1].tolist(), weights.offsets[1:].tolist(), strict=True)
        zeros += [sum(weight == 0 for weight in weights.values[a:b].tolist()) for a, b in spans]
    zeros = np.array(zeros)
    assert sum(row.items for row in found) == lengths.sum()
    assert sum(row.rows for row in found) == (lengths > 0).sum()
    for row in found:
        inside = (lengths >= row.shortest) & (lengths <= row.longest)
        assert (row.rows, row.items) == (inside.sum(), lengths[inside].sum())
        assert (row.zeros, row.rows_all_zero) == (zeros[inside].sum(), (zeros == lengths)[inside].sum())
        assert row.share_of_zeros == zeros[inside].sum() / lengths[inside].sum()
    assert 0.05 < zeros.sum() / lengths.sum() < 0.95
    assert [(row.shortest, row.longest) for row in found][:4] == [(1, 1), (2, 2), (3, 4), (5, 8)]


def test_softmax_has_no_zeros(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [*arguments["overrides"], f"model_root={tmp_path}", "attention_activation=softmax"]
    run_experiment(**{**arguments, "overrides": settings})
    explainer = Explainer(Experiment.load(**{**arguments, "overrides": settings}))
    assert sum(row.zeros for row in explainer.sparsity("valid")) == 0
    assert sum(explainer.row("valid", 300).weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.row("test", 1000), "--row 1000: the split 'test' has rows 0 to 999"),
        (lambda e: e.row("test", -1), "--row -1"),
        (lambda e: e.user("test", -5), "--user -5: the split 'test' has no sample of this group"),
        (lambda e: e.row("future", 0), "has no split 'future'"),
    ],
)
def test_what_is_not_there_is_refused(explainer, ask, message):
    with pytest.raises(DataError, match=message):
        ask(explainer)


def test_an_untrained_run_and_a_model_without_weights_are_refused(arguments, tmp_path):
    untrained = {**arguments, "overrides": [*arguments["overrides"], f"model_root={tmp_path}"]}
    with pytest.raises(DataError, match=r"QIN_test.model does not exist: train it first with run_expid.py"):
        Explainer(Experiment.load(**untrained))
    din = {**arguments, "expid": "DIN_demo", "overrides": [*arguments["overrides"], "dataset_id=Synthetic_test"]}
    with pytest.raises(ConfigError, match="DIN has no method attention_weights"):
        Explainer(Experiment.load(**din))


def names(explainer, titles=None):
    store = explainer.experiment.store
    return ItemNames(store, explainer.feature_map, read_item_table(store.dir), titles)


def test_rows_speak_of_the_users_own_ids(repository, tmp_path, monkeypatch, capsys):
    """Users and items are named, and asked for, as they are in the user's files."""
    import polars as pl

    from fuxictr_multimodal.api import build_dataset, train
    from fuxictr_multimodal.config.of_settings import config_folder, parts_of

    monkeypatch.chdir(tmp_path)
    ready = shop.samples(600)
    entry = {
        "dataset_id": "Shop", "split": {"by": "order"}, "history_col": "click_history", "max_len": 8,
        "group_id": "user_id", "label_col": {"name": "click", "dtype": "float"},
        "feature_cols": [
            {"name": "user_id", "dtype": "str", "type": "meta"},
            {"name": "item_id", "dtype": "str", "type": "categorical", "source": "item"},
            {"name": "brand", "dtype": "str", "type": "categorical", "source": "item"},
        ],
    }  # fmt: skip
    store = build_dataset(entry, frames={"train_data": ready, "item_data": shop.items()})
    report = train({"model": "QIN", "dataset": store, "epochs": 1, "embedding_dim": 4, "verbose": 0})
    row = ready[540 + 7]
    shop.items().select("item_id", title=pl.lit("Thing ") + pl.col("brand")).write_csv("titles.csv")
    with config_folder(report.experiment, *parts_of(report.config)) as folder:
        arguments = ["--config", str(folder), "--expid", report.experiment]
        capsys.readouterr()
        run_explain_main([*arguments, "--row", "7", "--json"])
        found = json.loads(capsys.readouterr().out)[0]
        assert (found["group"], found["target"]) == (row["user_id"][0], row["item_id"][0])
        assert found["items"] == row["click_history"].to_list()[0][-8:]
        assert found["names"] == [f"item {item}" for item in found["items"]]
        run_explain_main([*arguments, "--user", found["group"], "--limit", "9", "--titles", "titles.csv", "--json"])
        of_user = json.loads(capsys.readouterr().out)
        own = ready[540:].filter(user_id=found["group"])
        assert [sample["target"] for sample in of_user] == own["item_id"].to_list()
        assert all(name.startswith("Thing brand") for sample in of_user for name in sample["names"])
        with pytest.raises(SystemExit):
            run_explain_main([*arguments, "--user", "nobody"])
        assert "--user nobody: the split 'test' has no sample of this group" in capsys.readouterr().err


def test_a_user_that_is_no_number(explainer):
    with pytest.raises(DataError, match="--user ann: the groups of this dataset are whole numbers"):
        explainer.user("test", "ann")


def test_items_are_named_by_title_and_tags(explainer):
    store = explainer.experiment.store
    item = int(np.flatnonzero(read_item_table(store.dir)["item_tags"].any(axis=1))[0])
    tags = ", ".join(str(tag) for tag in read_item_table(store.dir)["item_tags"][item] if tag)
    assert names(explainer)(item) == f"item {item} (item_tags {tags})"
    assert names(explainer, {item: "Toy Story"})(item) == f"Toy Story (item_tags {tags})"
    titles = store.dir / TITLES_FILE
    titles.write_text(json.dumps(["", *(f"title {number}" for number in range(1, item + 1))]), encoding="utf-8")
    try:
        assert names(explainer)(item) == f"title {item} (item_tags {tags})"
    finally:
        titles.unlink()


@pytest.mark.parametrize(
    ("suffix", "separator"),
    [(".csv", ","), (".tsv", "\t"), (".parquet", ""), (".CSV", ","), (".TSV", "\t"), (".PARQUET", "")],
)
def test_titles_are_read_from_tables(tmp_path, suffix, separator):
    import polars as pl

    path, frame = tmp_path / f"titles{suffix}", pl.DataFrame({"item": [3, 1], "title": ["Heat", None]})
    if separator:
        frame.write_csv(path, separator=separator)
    else:
        frame.write_parquet(path)
    assert read_titles(path) == {3: "Heat", 1: ""}


def test_titles_with_a_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "titles.csv"
    path.write_bytes("\ufeffitem,title\r\n3,L\u00e9on\r\n\r\n,\r\n".encode())
    assert read_titles(path) == {3: "L\u00e9on"}


def test_wrong_titles_are_refused(tmp_path):
    path = tmp_path / "titles.csv"
    path.write_bytes(b"item,title\n3,L\xe9on\n")
    with pytest.raises(DataError, match=r"titles\.csv: line 2 is not UTF-8 text"):
        read_titles(path)
    with pytest.raises(DataError, match=r"titles\.PARQUET cannot be read as a table"):
        read_titles(path.rename(tmp_path / "titles.PARQUET"))
    with pytest.raises(DataError, match="does not exist"):
        read_titles(path)
    with pytest.raises(DataError, match="is not a file"):
        read_titles(tmp_path)
    path.write_text("item,title,title\n1,a,b\n")
    with pytest.raises(DataError, match="column 'title' occurs more than once"):
        read_titles(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has the columns a, b: item_id"):
        read_titles(path)
    path.write_text("item_id,title\n1,Heat\nx,Toy Story\n")
    with pytest.raises(DataError, match=r"row 2: item_id is not a whole number"):
        read_titles(path)


def test_the_table_puts_the_greatest_weight_first():
    row = RowExplanation(4, 7, 9, 0.5, 1.0, [11, 12, 13], [0.0, 0.5, 2.0])
    text = as_text(row_table(row, lambda item: f"item {item}"))
    assert "row 4, user 7: item 9, score 0.5000, label 1" in text
    lines = [line for line in text.splitlines() if "│" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["1", "2", "3"]
    assert [line.count("█") for line in lines] == [24, 6, 0]
    assert "3 history items, 1 with a weight of exactly 0" in text
    assert "2 more not shown" in " ".join(as_text(row_table(row, str, top=1)).split())
    nothing = RowExplanation(4, None, 9, 0.5, None, [], [])
    assert "0 history items" in as_text(row_table(nothing, str))


def test_the_sparsity_table_adds_up(explainer):
    rows = explainer.sparsity("test")
    text = as_text(sparsity_table(rows))
    assert f"{sum(row.items for row in rows):,}" in text
    assert "3 to 4" in text


def test_pictures_are_drawn_or_refused(tmp_path, monkeypatch):
    rows = [RowExplanation(4, 7, 9, 0.5, 1.0, [11, 12], [0.0, -0.5]), RowExplanation(5, 7, 9, 0.5, 1.0, [], [])]
    draw_rows(rows, str, tmp_path / "made/rows.png")
    assert (tmp_path / "made/rows.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"pictures must be .png, .svg or .pdf"):
        draw_rows(rows, str, tmp_path / "rows.docx")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="drawing needs matplotlib"):
        draw_rows(rows, str, tmp_path / "rows.png")


def test_the_command(arguments, tmp_path, capsys):
    base = ["--config", str(arguments["config_dir"]), "--expid", "QIN_test"]
    for text in arguments["overrides"]:
        base += ["--set", text]
    run_explain_main([*base, "--row", "3", "--out", str(tmp_path / "row.png"), "--json", str(tmp_path / "row.json")])
    assert "row 3, user" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "row.json").read_text())
    assert len(row["names"]) == len(row["items"]) == len(row["weights"])
    run_explain_main([*base, "--row", "3"])
    assert "{" not in capsys.readouterr().out
    run_explain_main([*base, "--row", "3", "--json", "--out", str(tmp_path / "row.svg")])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [row]
    assert str(tmp_path / "row.svg") in printed.err
    run_explain_main([*base, "--sparsity", "--split", "valid", "--out", str(tmp_path / "zeros.svg")])
    text = capsys.readouterr().out
    assert "rows with no weight at all" in text
    assert "{" not in text
    assert (tmp_path / "zeros.svg").is_file()
    run_explain_main([*base, "--sparsity", "--split", "valid", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["expid"], found["split"]) == ("QIN_test", "valid")
    assert found["share_of_zeros"] == pytest.approx(
        sum(one["zeros"] for one in found["by_length"]) / sum(one["items"] for one in found["by_length"])
    )
    with pytest.raises(SystemExit) as left:
        run_explain_main([*base, "--row", "1000000"])
    assert left.value.code == 2
    assert "rows 0 to 999" in capsys.readouterr().err


def test_the_command_on_blocks_and_scales_of_a_trained_model(arguments, tmp_path, capsys):
    base = ["--config", str(arguments["config_dir"]), "--expid", "QIN_test"]
    for text in arguments["overrides"]:
        base += ["--set", text]
    run_explain_main([*base, "--blocks", "--repeats", "2", "--json", str(tmp_path / "blocks.json")])
    run_explain_main([*base, "--scales", "--batches", "2", "--json", str(tmp_path / "scales.json")])
    text = capsys.readouterr().out
    assert "drop in AUC" in text
    assert "trained weights, 2 batches of train" in text
    blocks, scales = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("blocks", "scales"))
    report = json.loads(next(Path(settings_of(arguments)["model_root"]).rglob("*.report.json")).read_text())
    assert blocks["AUC"] == pytest.approx(report["metrics"]["test"]["AUC"], abs=1e-5)
    assert {"history", "target item", "likes_level", "item_tags"} <= {block["block"] for block in blocks["blocks"]}
    # Of trained weights, not of those that a run starts with.
    table = next(layer for layer in scales["layers"] if layer["name"].endswith("embedding_layers.views_level"))
    assert table["weights"] > 1e-3


def settings_of(arguments) -> dict[str, str]:
    return dict(text.split("=", 1) for text in arguments["overrides"])
