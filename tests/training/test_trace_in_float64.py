"""Several processes train QIN as one does, with rounding too small to matter.

BatchNorm amplifies rounding: in float32 two sums in another order show in the loss after a few steps, in one process
with another `form` too. In float64 the same steps agree to 1e-8.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Share
from fuxictr_multimodal.data.shares import deal
from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.training.data_parallel import DataParallel
from model_zoo.QIN import QIN
from tests.helpers.forked_ranks import run_forked
from tests.helpers.reference_qin import feature_map, item_table, random_batch

STEPS, ROWS = 8, 90


def losses(rank: int | None, *, few_rows: int, form: str) -> list[float]:
    """The loss of each step of all processes; two batches have `few_rows` rows."""
    torch.manual_seed(0)
    features = feature_map(items=80, given={})
    options = {"net_dropout": 0, "contrastive_loss": 1.0, "first_order": ["likes_level"], "accumulation_steps": 2}
    model = QIN(features, embedding_dim=8, num_layers=2, num_row=2, form=form, gpu=-1, verbose=0, **options).double()
    model.attach(item_table(features, np.random.default_rng(0)))
    model.train()
    model._max_gradient_norm, model._steps_per_epoch = 10.0, STEPS
    parallel = None if rank is None else DataParallel(model, sync_batch_norm=True)
    found = []
    for step in range(STEPS):
        model._batch_index = step
        rows = few_rows if step in (2, 3) else ROWS
        batch = random_batch(features, np.random.default_rng(step), rows=rows, max_len=20)
        if parallel is None or rank is None:
            found.append(model.train_step(batch).item())
            continue
        lengths = np.diff(batch.history.offsets.numpy())
        own = deal(lengths, ranks.current().world_size)[rank]
        share = Share(len(own), rows, int(lengths.max()))
        # A rank without a row computes with a stand-in.
        taken = torch.from_numpy(own) if len(own) else torch.zeros(1, dtype=torch.long)
        part = replace(batch.take(taken), share=share)
        loss = parallel.step(part, lambda part=part: model.train_step(part))
        found.append(ranks.sum_over_ranks(loss * bool(len(own))).item())
    return found


@pytest.mark.parametrize(("form", "few_rows"), [("fast", 90), ("fast", 2), ("plain", 2)])
def test_the_trace_of_three_processes_is_that_of_one(form, few_rows):
    def body(rank):
        with ranks.joined():
            return losses(rank, few_rows=few_rows, form=form)

    for found in run_forked(3, body):
        np.testing.assert_allclose(found, losses(None, few_rows=few_rows, form=form), rtol=1e-8)
