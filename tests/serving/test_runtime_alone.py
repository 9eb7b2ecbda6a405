"""The runtime's folder, copied elsewhere, ranks by itself, quickly, and imports nothing heavy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from fuxictr_multimodal.serving import runtime
from tests.helpers.exported_folder import made_item, write_folder

CLIENT = """
import json, sys, time
start = time.perf_counter()
sys.path.insert(0, {place!r})
from runtime import Ranker
ranker = Ranker({folder!r}, threads=1)
ranked = ranker.rank({{"user_id": "ann", "price": 3}}, [], ["i1", "i2", "i3"], 2)
seconds = time.perf_counter() - start
print(json.dumps([ranked.items, ranked.scores.tolist(), seconds, sorted(sys.modules)]))
"""


def test_a_copy_ranks_without_this_project(tmp_path):
    folder = write_folder(tmp_path / "model", {f"i{n}": made_item(n) for n in range(4)})
    shutil.copytree(Path(runtime.__file__).parent, tmp_path / "elsewhere/runtime")
    client = CLIENT.format(place=str(tmp_path / "elsewhere"), folder=str(folder))
    # Isolated: neither the working directory nor PYTHONPATH gives the project.
    run = subprocess.run([sys.executable, "-I", "-c", client], capture_output=True, text=True, cwd=tmp_path, check=True)
    items, scores, seconds, modules = json.loads(run.stdout)
    here = runtime.Ranker(folder, threads=1).rank({"user_id": "ann", "price": 3}, [], ["i1", "i2", "i3"], 2)
    assert (items, scores) == (here.items, here.scores.tolist())
    heavy = {"torch", "fuxictr", "ray", "polars", "pandas", "onnx", "fuxictr_multimodal", "sklearn"}
    assert heavy.isdisjoint(modules)
    assert seconds < 3
