"""From training to HTTP: scores of served samples are those that training left for its test split."""

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.serving.http.settings import Settings
from tests.helpers.served import served

SAMPLES = 400
CONTEXT = ("likes_level", "views_level")


@pytest.mark.slow
def test_served_scores_are_those_of_training(run_qin, data_root, tmp_path, repository):
    run_qin(seed=5)
    folder = tmp_path / "model"
    settings = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}"]
    export(config_dir=repository / "config", expid="QIN_test", out=folder, seed=5, overrides=settings)
    with np.load(tmp_path / "checkpoints/Synthetic_test/QIN_test_s5.predictions.npz") as left:
        trained = left["test_scores"][:SAMPLES]
    with h5py.File(data_root / "Synthetic_test/test.h5") as file:
        columns = {name: file[name][:SAMPLES].tolist() for name in (*CONTEXT, "item_id")}
        values, offsets = file["history/values"][:].tolist(), file["history/offsets"][:].tolist()
    bodies = [
        {
            "context": {name: columns[name][row] for name in CONTEXT},
            "history": values[offsets[row] : offsets[row + 1]],
            "candidates": [columns["item_id"][row]],
        }
        for row in range(SAMPLES)
    ]
    # Several threads, so that requests meet in batches.
    with served(folder, Settings(threads=1, watch_seconds=None), load=None) as server, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda body: server.call("POST", "/score", body), bodies))
        page = server.call("GET", "/metrics").raw.decode()
    assert {reply.status for reply in replies} == {200}
    found = np.array([reply.content["scores"][0] for reply in replies])
    np.testing.assert_allclose(found, trained, atol=2e-6)
    assert trained.std() > 0.01
    batches = next(line for line in page.splitlines() if line.startswith("fxmm_batch_requests_count"))
    assert float(batches.split()[1]) < SAMPLES
