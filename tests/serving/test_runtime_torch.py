"""A package of AOTInductor answers as the ONNX graph of the same formula does."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fuxictr_multimodal.serving.runtime import FolderError, Ranker, Request
from tests.helpers.exported_folder import write_flat_folder
from tests.helpers.small_compile import small_compile

# torch uses what torch itself calls deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Formula(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(a + 2 * b)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_flat_folder(tmp_path_factory.mktemp("torch") / "model")
    requests = torch.export.Dim("requests", min=1, max=4096)
    sample = (torch.zeros(3), torch.ones(3))
    graph = torch.export.export(Formula(), sample, dynamic_shapes=({0: requests}, {0: requests}))
    with small_compile():
        torch._inductor.aoti_compile_and_package(graph, package_path=str(folder / "model.pt2"))
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | {"engine": "torch"}))
    return folder


def test_it_scores_as_the_onnx_graph(folder, tmp_path):
    onnx = Ranker(write_flat_folder(tmp_path / "onnx"), threads=1)
    compiled = Ranker(folder, threads=1)
    requests = [Request({"a": a, "b": b}) for a in (-1.0, 0.0, 3.5) for b in (0.25, -2)]
    for one in requests:
        np.testing.assert_allclose(compiled.score(one).scores, onnx.score(one).scores, atol=1e-6)
    for one, other in zip(compiled.score_many(requests), onnx.score_many(requests), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_threads_share_it(folder):
    ranker = Ranker(folder, threads=1)
    requests = [Request({"a": a / 50, "b": 0.5}) for a in range(200)]
    alone = [ranker.score(one).scores[0] for one in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: ranker.score(one).scores[0], requests))
    assert together == alone


def test_a_damaged_package_is_refused(folder, tmp_path):
    content = (folder / "model.pt2").read_bytes()
    other = write_flat_folder(tmp_path / "other")
    (other / "model.json").write_text((folder / "model.json").read_text())
    for damaged in (content[: len(content) // 2], b"", b"no package"):
        (other / "model.pt2").write_bytes(damaged)
        with pytest.raises(FolderError, match=r"model\.pt2 cannot be loaded"):
            Ranker(other)
