"""The example that an exported folder has: a file of about 30 lines that ranks the request beside it."""

CLIENT = '''"""Ranks the request of request.json with this model: python client.py

It needs numpy, safetensors, and onnxruntime or torch.
"""

import json
import time
from pathlib import Path

started = time.perf_counter()
from runtime import Ranker, Request  # noqa: E402  the seconds below count from the first import

FOLDER = Path(__file__).resolve().parent

# All that the model reads: replace the values by your own.
request = Request(**json.loads((FOLDER / "request.json").read_text(encoding="utf-8")))

ranker = Ranker(FOLDER)
if request.candidates:
    ranked = ranker.rank(request, k=10)
    for item, score in zip(ranked.items, ranked.scores):
        print(f"{score:.6f}  {item}")
else:
    print(f"score {ranker.score(request).scores[0]:.6f}")
print(f"{ranker.name}: first score after {time.perf_counter() - started:.2f} s")
'''
