"""AUC of QIN on synthetic data, trained in each precision, for `gpu_check.py`; the best possible one is known."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from _gpu_runner import Options, Report
from _gpu_timing import device_of, precisions_of
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.batch import Batch, Jagged, join
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.synthetic.rows import Block, blocks
from fuxictr_multimodal.data.synthetic.rule import expected_auc
from fuxictr_multimodal.data.synthetic.sizes import DerivedSizes
from fuxictr_multimodal.data.synthetic.world import EMBEDDING_WIDTH, LEVELS, TAG_SLOTS, World, make_world
from fuxictr_multimodal.metrics.classification import auc as area
from model_zoo.QIN import QIN

BATCH, EPOCHS = 1024, 3  # those of QIN_demo
TOLERANCE = 0.005  # seeds of one precision differ by about half as much


@dataclass
class Sizes(DerivedSizes):
    """Sizes of `Synthetic_demo`, whose settings need more than a GPU machine may have."""

    rows: int = 400_000
    valid_rows: int = 20_000
    test_rows: int = 40_000
    items: int = 3000
    seed: int = 1
    tags: int = 0
    interests: int = 0
    rows_per_user: int = 4
    mean_history: float = 9.6
    max_len: int = 64


def auc(options: Options, report: Report) -> None:
    """Test AUC by precision beside that of the true probabilities."""
    small = options.small
    spec = Sizes(rows=2048, valid_rows=64, test_rows=1024, items=100) if small else Sizes()
    device = device_of(options)
    started = time.perf_counter()
    world = make_world(spec)
    (train, _), (test, probability) = (_rows(spec, world, split) for split in ("train", "test"))
    labels = test.features["label"].numpy()
    report(samples=spec.rows, data_s=time.perf_counter() - started, auc_of_the_truth=expected_auc(probability))
    found: dict[str, float] = {}
    taken = 0.0
    for precision in reversed(precisions_of(device)):
        if found and report.left() < 1.5 * taken + 3:
            report(**{f"auc_{precision}": "no time was left"})
            continue
        started = time.perf_counter()
        model = _model(spec, world, precision, options.gpu)
        _train(model, train, device, epochs=1 if small else EPOCHS)
        found[precision] = area(labels, _scores(model, test, device))
        taken = time.perf_counter() - started
        report(**{f"auc_{precision}": found[precision], f"seconds_{precision}": taken})
    differences = {name: value - found["float32"] for name, value in found.items()}
    report(difference_to_float32=differences)
    if not small and max(map(abs, differences.values())) > TOLERANCE:
        raise AssertionError(f"AUC differs by precision by more than {TOLERANCE}: {found}")


def _rows(spec: DerivedSizes, world: World, split: str) -> tuple[Batch, np.ndarray]:
    """The samples of a split as one batch on the host, and their true probabilities."""
    parts: list[Block] = list(blocks(spec, world, split))

    def of(part: Block) -> Batch:
        return Batch(
            features={
                "likes_level": torch.from_numpy(part.columns["likes_level"]),
                "views_level": torch.from_numpy(part.columns["views_level"]),
                "label": torch.from_numpy(part.label).float(),
            },
            target=torch.from_numpy(part.columns["item_id"].astype(np.int32)),
            history=Jagged(
                torch.from_numpy(part.history_values.astype(np.int32)), torch.from_numpy(part.history_offsets)
            ),
        )

    return join([of(part) for part in parts]), np.concatenate([part.probability for part in parts])


def _model(spec: DerivedSizes, world: World, precision: str, gpu: int) -> QIN:
    """QIN as in QIN_demo."""
    level = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": LEVELS + 1}
    features = FeatureMap("synthetic", "")
    features.features = OrderedDict(
        likes_level=level,
        views_level=dict(level),
        item_id={"source": "item", "type": "categorical", "padding_idx": 0, "vocab_size": spec.items + 1},
        item_tags={
            "source": "item",
            "type": "sequence",
            "feature_encoder": "layers.MaskedAveragePooling()",
            "padding_idx": 0,
            "vocab_size": spec.num_tags + 1,
            "max_len": TAG_SLOTS,
        },
        item_emb_d128={"source": "item", "type": "embedding", "pretrain_dim": EMBEDDING_WIDTH},
    )
    features.labels = ["label"]
    torch.manual_seed(0)
    model = QIN(
        features,
        gpu=gpu,
        embedding_dim=16,
        num_layers=2,
        num_row=4,
        embedding_regularizer=1e-4,
        learning_rate=2e-3,
        precision=precision,
        verbose=0,
    )
    table = {"item_id": torch.arange(spec.items + 1, dtype=torch.int32)}
    table |= {"item_tags": torch.from_numpy(world.tags), "item_emb_d128": torch.from_numpy(world.embedding)}
    model.attach(ItemTable(table))
    return model


def _train(model: QIN, rows: Batch, device: torch.device, *, epochs: int) -> None:
    model.train()
    generator = np.random.default_rng(0)
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(len(rows)))
        for picked in order.split(BATCH):
            if len(picked) > 1:
                model.train_step(rows.take(picked).to(device))


@torch.no_grad()
def _scores(model: QIN, rows: Batch, device: torch.device) -> np.ndarray:
    model.eval()
    found = [model(batch.to(device))["y_pred"].view(-1) for batch in _batches(rows)]
    return torch.cat(found).double().cpu().numpy()


def _batches(rows: Batch) -> Iterator[Batch]:
    return (rows.take(range(start, min(start + 8192, len(rows)))) for start in range(0, len(rows), 8192))
