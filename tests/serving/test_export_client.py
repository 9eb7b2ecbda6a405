"""The example of an exported folder runs where neither FuxiCTR nor Ray nor this package can be imported."""

import os
import shutil
import subprocess
import sys

import pytest

from fuxictr_multimodal.serving.client import CLIENT

BLOCKER = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fuxictr", "fuxictr_multimodal", "model_zoo", "ray", "torch", "onnx", "polars"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/client.py", run_name="__main__")
"""


@pytest.mark.parametrize("model", ["qin", "din"])
def test_the_client_ranks_with_numpy_and_an_engine_alone(model, request, tmp_path):
    # Somebody else's machine has the folder under another name.
    out = shutil.copytree(request.getfixturevalue(f"{model}_export").out, tmp_path / "elsewhere")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, out], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *ranked, last = done.stdout.splitlines()
    assert len(ranked) == 10
    scores = [float(line.split()[0]) for line in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert all(line.split()[1].startswith("sku-") for line in ranked)
    assert last.startswith(f"{model.upper()}_shop: first score after ")
    assert float(last.split()[-2]) < 30


def test_the_client_is_short():
    assert len(CLIENT.splitlines()) <= 50
    compile(CLIENT, "client.py", "exec")
