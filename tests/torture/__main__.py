"""`python -m tests.torture PART...`: long attacks on the project, one JSON object last; `make torture` runs all.

Each part is a module of this folder with `attack(*, count, seed, work)`: it attacks the project `count` times (None for
its own number), works in the folder `work`, prints progress on stderr, and returns what it counted. Its list `failed`
has one line for each fault: how to repeat it, and what happened. The tests of this folder run a small number of each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = ("damage", "builds", "kills", "disk", "hostile", "fuzz")


def main(argv: list[str] | None = None) -> int:
    """Run parts; 1 where one of them shows a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--count", type=int, metavar="N", help="attacks of each part, instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="of the random attacks (default: 0)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="work here and keep it, instead of a temporary folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write what is printed, part by part, as JSON")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"no part is named {unknown[0]!r}; known: {', '.join(PARTS)}")
    found: dict[str, Any] = {"machine": platform.platform(), "cores": os.cpu_count(), "seed": args.seed, "parts": {}}
    if args.out is not None and args.out.is_file():
        found["parts"] = json.loads(args.out.read_text(encoding="utf-8"))["parts"]
    for name in args.parts or PARTS:
        print(f"== {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as temporary:
            work = Path(temporary) if args.work is None else args.work / name
            work.mkdir(parents=True, exist_ok=True)
            counted = importlib.import_module(f"tests.torture.{name}").attack(
                count=args.count, seed=args.seed, work=work
            )
        found["parts"][name] = {**counted, "seconds": round(time.perf_counter() - started, 1)}
        if args.out is not None:
            args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return int(any(found["parts"][name]["failed"] for name in args.parts or PARTS))


if __name__ == "__main__":
    sys.exit(main())
