"""The example that an exported folder has: a file of about 30 lines that ranks a made-up request."""

CLIENT = '''"""Ranks a made-up request with this model: python client.py

It needs numpy, safetensors, and onnxruntime or torch.
"""

import json
import time
from pathlib import Path

started = time.perf_counter()
from runtime import Ranker, Request  # noqa: E402  the seconds below count from the first import

FOLDER = Path(__file__).resolve().parent


def made_up(column):
    """A value of a column of the context: one that training saw, or a missing one."""
    if column.get("tokens"):
        return column["tokens"][0]
    other = {"embedding": [0.0] * column.get("width", 0), "encoded_sequence": []}
    return None if "missing" in column else other.get(column["kind"], 0)


vocabulary = json.loads((FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
events, items = vocabulary["events"], vocabulary["items"] or {"ids": [], "rows": 1}
known = items["ids"][1:30] if items["ids"] else list(range(1, min(items["rows"], 30)))
context = {event["column"]: 0 for event in events if event.get("column") and not event.get("of_request")}
context |= {column.get("from", column["name"]): made_up(column) for column in vocabulary["context"]}
# A history may come with features of its events, which cannot be made up; yours go into `events`.
history = [] if events else known[:5]
request = Request(context=context, history=history, candidates=known[5:], time=0 if events else None)

ranker = Ranker(FOLDER)
if known:
    ranked = ranker.rank(request, k=10)
    for item, score in zip(ranked.items, ranked.scores):
        print(f"{score:.6f}  {item}")
else:
    print(f"score {ranker.score(request).scores[0]:.6f}")
print(f"{ranker.name}: first score after {time.perf_counter() - started:.2f} s")
'''
