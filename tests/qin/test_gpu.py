"""QIN on a GPU: kernels equal to PyTorch's, forms equal, no waiting in a step, precisions near. Skipped without one."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from model_zoo.QIN import QIN, sparse_attend
from model_zoo.QIN.row_items import RowItems
from tests.helpers import loader_store
from tests.helpers.reference_qin import feature_map, item_table, random_batch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here"),
    # PyTorch says these once a process, of its own doings: a mode that is a prototype, and the first product of a
    # thread of the backward pass.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode", "ignore:Attempting to run cuBLAS"),
]


@contextlib.contextmanager
def no_waits():
    """The host waiting for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def example(*, items: int = 500, rows: int = 300, **options):
    torch.manual_seed(0)
    features = feature_map(items=items)
    model = QIN(features, gpu=0, embedding_dim=16, num_layers=2, verbose=0, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding_layers" in name:
                parameter[1:] = torch.randn_like(parameter[1:])
    model.attach(ItemTable(item_table(features, np.random.default_rng(0)).features))
    batch = random_batch(features, np.random.default_rng(1), rows=rows, max_len=30)
    return model.train(), batch.to(model.device)


def gradients(model: QIN, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    logit = model(batch)["logit"]
    model.compute_loss({"y_pred": logit.sigmoid()}, model.get_labels(batch)).backward()
    return {"logit": logit.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


def largest_error(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of a tensor, as a fraction of its length; what should be 0 is measured against the others."""
    least = max(value.norm().item() for value in other.values()) / 100
    return max(((one[k] - v).norm() / v.norm().clamp(min=least)).item() for k, v in other.items())


@pytest.mark.parametrize("width", [48, 384])
def test_triton_runs_and_agrees(width):
    pytest.importorskip("triton")
    device = torch.device("cuda", 0)
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("Triton needs compute capability 8.0")
    from model_zoo.QIN import sparse_attend_triton

    assert sparse_attend_triton.usable(device, torch.float32, width)
    assert sparse_attend_triton._error_on_example(device, torch.float32, width) < 2e-5
    assert sparse_attend_triton._error_on_example(device, torch.float64, width) < 1e-9


@pytest.mark.parametrize("items", [60, 20_000])
@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_fast_equals_plain(activation, triton, items, monkeypatch):
    """The tolerance of float32 sums in another order; both forms draw the same dropout masks."""
    if not triton:
        monkeypatch.setattr(sparse_attend, "_kernels_run_on", lambda *_: False)
    model, batch = example(items=items, attention_activation=activation)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    assert largest_error(gradients(model, batch), gradients(plain, batch)) < 1e-3


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_dropout": 0.1},
        {"attention_activation": "softmax"},
        {
            "attention_similarity": True,
            "feature_dropout": {"likes_level": 0.5},
            "first_order": ["likes_level", "item_tags"],
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("items", [60, 20_000])
def test_the_host_does_not_wait_in_a_step(items, options, precision):
    model, batch = example(items=items, precision=precision, **options)
    model.train_step(batch)  # the first step compiles the kernels and checks them
    with no_waits():
        for _ in range(3):
            model.train_step(batch)
        model.eval()
        with torch.no_grad():
            model(batch)


def test_similarities_are_those_of_the_host():
    model, batch = example(attention_similarity=True)
    on_gpu = model.similarity(RowItems.of_batch(batch, model.item_table))
    model.similarity.cpu()
    on_host = model.similarity(RowItems.of_batch(batch.to("cpu"), model.item_table.to("cpu")))
    torch.testing.assert_close(on_gpu.cpu(), on_host, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 0.05), ("bf16", 0.15)])
def test_other_precisions_are_near(precision, tolerance):
    exact, rounded = (gradients(*example(precision=name)) for name in ("float32", precision))
    assert largest_error(rounded, exact) < tolerance
    assert not torch.equal(rounded["logit"], exact["logit"])


def test_adam_is_fused():
    model, batch = example()
    model.train_step(batch)
    assert model.optimizer.defaults["fused"]
    assert all(state["step"].is_cuda for state in model.optimizer.state.values())


def test_folded_scores_are_those_of_the_model():
    model, batch = example()
    folded = model.eval().fold()
    with torch.no_grad():
        expected = model(batch)["y_pred"]
        torch.testing.assert_close(folded(batch)["y_pred"], expected, rtol=1e-4, atol=1e-5)
        with no_waits():
            folded(batch)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_on_the_gpu_are_those_of_the_host_and_come_without_a_wait(shuffle, tmp_path):
    path = loader_store.write_split(tmp_path, rows=300)

    def loader(device: str) -> MultimodalDataLoader:
        found = MultimodalDataLoader(
            loader_store.feature_map(), path, batch_size=64, shuffle=shuffle, shuffle_window=2, device=device, seed=1
        )
        assert found.mode == "resident"
        return found

    on_gpu = loader("cuda:0")
    assert on_gpu._resident.target.is_cuda
    with no_waits():
        batches = list(on_gpu)
    for batch, expected in zip(batches, loader("cpu"), strict=True):
        assert batch.target.is_cuda
        assert not batch.group.is_cuda
        assert torch.equal(batch.target.cpu(), expected.target)
        assert torch.equal(batch.history.values.cpu(), expected.history.values)
        assert torch.equal(batch.history.offsets.cpu(), expected.history.offsets)
        assert batch.features.keys() == expected.features.keys()
        assert all(torch.equal(values.cpu(), expected.features[name]) for name, values in batch.features.items())
