"""Permutation importance: planted answers, tables that are as before, models of every layout, and the commands."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from fuxictr_multimodal.cli.explain import run_explain_main
from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.explain.block_importance import (
    CONTEXT,
    HISTORY,
    ITEM,
    TARGET,
    BlockFall,
    BlockImportance,
    BlockShuffler,
    exchanged_items,
    exchanged_rows,
)
from fuxictr_multimodal.explain.view import blocks_table, draw_blocks
from fuxictr_multimodal.training.checkpoint import save_checkpoint
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trainer import Trainer

BLOCKS = {
    ("likes_level", CONTEXT),
    ("views_level", CONTEXT),
    ("history", HISTORY),
    ("target item", TARGET),
    ("item_id", ITEM),
    ("item_tags", ITEM),
    ("item_emb_d128", ITEM),
}
SMALL = ["dataset_id=Synthetic_test", "batch_size=300", "embedding_dim=8"]


@pytest.fixture(scope="module")
def start(repository, data_root, tmp_path_factory):
    """Make a shuffler of an expid whose checkpoint holds large random weights, so that every input counts."""
    root = tmp_path_factory.mktemp("blocks")

    def make(expid: str, *settings: str) -> BlockShuffler:
        overrides = [f"data_root={data_root}", f"model_root={root}", "verbose=0", *SMALL, *settings]
        experiment = Experiment.load(repository / "config", expid, overrides=overrides)
        torch.manual_seed(1)
        model, _ = experiment.build_model(experiment.feature_map())
        with torch.no_grad():
            for table in model.modules():
                if isinstance(table, torch.nn.Embedding):
                    table.weight[1:].normal_()
        save_checkpoint(model)
        return BlockShuffler(experiment)

    return make


class ReadsOneBlock(torch.nn.Module):
    """A stand-in model whose score is one number of one block."""

    device = torch.device("cpu")

    def __init__(self, score) -> None:
        super().__init__()
        self.score = score

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"y_pred": self.score(batch).double()[:, None]}


def planted(shuffler: BlockShuffler, score) -> BlockShuffler:
    """The shuffler with a stand-in model; `score` takes a batch and the item table that the shuffler holds."""
    found = object.__new__(BlockShuffler)
    vars(found).update(vars(shuffler))
    found.model, found.to_inputs = ReadsOneBlock(lambda batch: score(batch, found.table)), lambda batch: batch
    return found


def newest(batch: Batch) -> torch.Tensor:
    return batch.history.values[batch.history.offsets[1:] - 1]


@pytest.mark.parametrize(
    ("score", "block"),
    [
        (lambda batch, _: batch.features["likes_level"], {"likes_level"}),
        (lambda batch, _: newest(batch), {"history"}),
        (lambda batch, _: batch.target, {"target item"}),
        # An item feature is read from the target, and so falls with either.
        (lambda batch, table: table.gather(batch.target)["item_emb_d128"][:, 0], {"target item", "item_emb_d128"}),
        (lambda batch, table: table.gather(newest(batch))["item_tags"][:, 0], {"history", "item_tags"}),
        (lambda batch, _: torch.ones(len(batch)), set()),
    ],
)
def test_only_what_is_read_falls(start, score, block):
    found = planted(start("QIN_test"), score).measure("test", repeats=2)
    assert {(one.block, one.kind) for one in found.blocks} == BLOCKS
    assert {one.block for one in found.blocks if any(one.falls)} == block
    assert {one.falls for one in found.blocks if one.block not in block} in ({(0.0, 0.0)}, set())
    assert [one.mean for one in found.blocks] == sorted((one.mean for one in found.blocks), reverse=True)


def test_the_fall_is_that_of_the_shuffled_column(start):
    """A perfect feature: AUC 1, and with the column shuffled that of the shuffled column."""
    from fuxictr_multimodal.metrics.classification import auc

    shuffler = start("QIN_test")
    loader = shuffler.experiment.split_loader("test", shuffler.feature_map, "cpu")
    labels = torch.cat([batch.features["label"] for batch in loader]).numpy()

    class Labelled:
        """The split, with the label as one of its features."""

        def __iter__(self):
            for batch in loader:
                yield replace(batch, features={**batch.features, "likes_level": batch.features["label"].int()})

    experiment = shuffler.experiment
    shuffler = planted(shuffler, lambda batch, _: batch.features["likes_level"])
    shuffler.experiment = type("Stub", (), {
        "split_loader": lambda self, *_: Labelled(), "params": experiment.params,
    })()  # fmt: skip
    found = shuffler.measure("test", repeats=3)
    assert found.auc == 1
    assert found.rows == len(labels)
    expected = []
    for repeat in range(3):
        order = np.random.default_rng((experiment.params["seed"], repeat)).permutation(len(labels))
        expected.append(1 - auc(labels, labels[order]))
    top = found.blocks[0]
    assert (top.block, top.falls) == ("likes_level", tuple(expected))
    assert top.mean == pytest.approx(0.5, abs=0.1)
    assert top.spread == pytest.approx(np.std(expected, ddof=1))
    assert shuffler.measure("test", repeats=3) == found


def test_items_are_exchanged_and_put_back():
    tags = torch.tensor([[0, 0], [1, 2], [3, 0], [4, 5]])
    table = ItemTable({"item_id": torch.arange(4), "item_tags": tags.clone()})
    seen = []
    order = torch.tensor([2, 0, 1])

    def stop() -> None:
        with exchanged_items(
            table, "item_tags", order, on_change=lambda: seen.append(table.features["item_tags"].tolist())
        ):
            assert table.features["item_tags"].tolist() == [[0, 0], [4, 5], [1, 2], [3, 0]]
            assert table.features["item_id"].tolist() == [0, 1, 2, 3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert torch.equal(table.features["item_tags"], tags)
    assert list(table.features) == ["item_id", "item_tags"]
    assert seen == [[[0, 0], [4, 5], [1, 2], [3, 0]], tags.tolist()]


def test_rows_exchange_one_block():
    history = Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3]))
    rows = Batch({"a": torch.tensor([1, 2, 3]), "b": torch.tensor([4, 5, 6])}, torch.tensor([10, 11, 12]), history)
    order = torch.tensor([2, 0, 1])

    def read(batch: Batch) -> list:
        return [
            *(v.tolist() for v in batch.features.values()),
            batch.target.tolist(),
            batch.history.to_padded().tolist(),
        ]

    before = read(rows)
    assert read(exchanged_rows(rows, "b", CONTEXT, order)) == [before[0], [6, 4, 5], *before[2:]]
    assert read(exchanged_rows(rows, "target item", TARGET, order)) == [*before[:2], [12, 10, 11], before[3]]
    assert read(exchanged_rows(rows, "history", HISTORY, order)) == [*before[:3], [[0, 9], [7, 8], [0, 0]]]
    assert read(rows) == before


@pytest.mark.parametrize("expid", ["QIN_test", "DIN_demo", "SIM_demo", "MeanMLP_demo"])
def test_a_model_is_as_before(start, expid):
    """With random weights every block moves the AUC; afterwards scores, weights and the item table are the old ones."""
    shuffler = start(expid)
    batch = next(iter(shuffler.experiment.split_loader("valid", shuffler.feature_map, "cpu")))
    weights = {name: value.clone() for name, value in shuffler.model.state_dict().items()}
    table = {name: value.clone() for name, value in shuffler.table.features.items()}
    with torch.no_grad():
        before = shuffler.model(shuffler.to_inputs(batch))["y_pred"]
    found = shuffler.measure("valid", repeats=1)
    assert {(one.block, one.kind) for one in found.blocks} == BLOCKS
    assert all(one.falls[0] for one in found.blocks)
    assert found.blocks[0].spread is None
    with torch.no_grad():
        assert torch.equal(shuffler.model(shuffler.to_inputs(batch))["y_pred"], before)
    assert all(torch.equal(value, weights[name]) for name, value in shuffler.model.state_dict().items())
    assert {name: value.tolist() for name, value in shuffler.table.features.items()} == {
        name: value.tolist() for name, value in table.items()
    }
    loader = shuffler.experiment.split_loader("valid", shuffler.feature_map, "cpu")
    scored = Trainer(shuffler.model, to_inputs=shuffler.to_inputs, epochs=1).predict(loader)
    assert scored.evaluate(["AUC"])["AUC"] == found.auc


def test_what_cannot_be_measured_is_refused(start, tmp_path):
    shuffler = start("QIN_test")
    with pytest.raises(ConfigError, match="--repeats 0 must be at least 1"):
        shuffler.measure("test", repeats=0)
    with pytest.raises(DataError, match="has no split 'future'"):
        shuffler.measure("future")
    with pytest.raises(DataError, match=r"the split 'test': row 0 has the score NaN"):
        planted(shuffler, lambda batch, _: torch.full((len(batch),), torch.nan)).measure("test")
    params = {**shuffler.experiment.params, "model_root": str(tmp_path)}
    with pytest.raises(DataError, match=r"QIN_test.model does not exist: train it first"):
        BlockShuffler(replace(shuffler.experiment, params=params))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda y: None, "has no column 'label'"), (lambda y: y * 3, "labels other than 0 and 1"),
     (lambda y: y * 0, "AUC is undefined: all 1000 samples have label 0")],
)  # fmt: skip
def test_a_split_without_auc_is_refused(start, change, message, monkeypatch):
    shuffler = start("QIN_test")
    batches = list(shuffler.experiment.split_loader("test", shuffler.feature_map, "cpu"))
    changed = []
    for batch in batches:
        features = {name: value for name, value in batch.features.items() if name != "label"}
        label = change(batch.features["label"])
        changed.append(replace(batch, features=features if label is None else {**features, "label": label}))
    monkeypatch.setattr(Experiment, "split_loader", lambda *_: changed)
    with pytest.raises(DataError, match=message):
        shuffler.measure("test")


def test_views(tmp_path):
    blocks = [BlockFall("history", HISTORY, (0.2, 0.1)), BlockFall("level", CONTEXT, (-0.075, -0.075))]
    found = BlockImportance("test", 1234, 0.75, blocks)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(blocks_table(found))
    text = console.export_text()
    assert "test, 1,234 rows: AUC 0.7500" in text
    lines = [line.split("│")[1:-1] for line in text.splitlines() if "│" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["history", "history", "0.1500", "0.0707", "█" * 24],
        ["level", "context", "-0.0750", "0.0000", "█" * 12],
    ]
    draw_blocks(found, "run", tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(start, repository, tmp_path, capsys):
    """`--blocks` on a model that has no attention weights, as DIN, and what the command refuses."""
    experiment = start("DIN_demo").experiment
    base = ["--config", str(repository / "config"), "--expid", "DIN_demo"]
    for name in ("data_root", "model_root"):
        base += ["--set", f"{name}={experiment.params[name]}"]
    for text in SMALL:
        base += ["--set", text]
    run_explain_main(
        [*base, "--blocks", "--repeats", "2", "--split", "valid", "--out", str(tmp_path / "blocks.svg"), "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["rows"], found["repeats"]) == ("valid", 1000, 2)
    assert {(one["block"], one["kind"]) for one in found["blocks"]} == BLOCKS
    assert all(one["fall"] == pytest.approx(np.mean(one["falls"])) for one in found["blocks"])
    assert (tmp_path / "blocks.svg").is_file()
    run_explain_main([*base, "--blocks", "--repeats", "1", "--json", str(tmp_path / "blocks.json")])
    assert "{" not in capsys.readouterr().out
    assert json.loads((tmp_path / "blocks.json").read_text())["blocks"][0]["spread"] is None
    for wrong, message in (
        (["--blocks", "--out", "blocks.docx"], "pictures must be .png, .svg or .pdf"),
        (["--blocks", "--repeats", "0"], "--repeats 0"),
        (["--blocks", "--fresh"], "--fresh needs --scales"),
        (["--blocks", "--sparsity"], "not allowed with argument"),
    ):
        with pytest.raises(SystemExit) as left:
            run_explain_main([*base, *wrong])
        assert left.value.code == 2
        assert message in capsys.readouterr().err
