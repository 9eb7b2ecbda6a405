"""`python -m tests.torture.fuzz TARGET`: attack some targets, or repeat one input with its traceback."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from tests.torture.fuzz import attack, targets


def main() -> int:
    """Attack or repeat; 1 where an input brought an undocumented exception."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", default="", help="text in the name of the targets; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--count", type=int, help="inputs of each target")
    parser.add_argument("--at", type=int, metavar="N", help="call the target once, with its input N, in this process")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        work = Path(temporary)
        if args.at is None:
            found = attack(count=args.count, seed=args.seed, work=work, only=args.target)
            print(json.dumps({"inputs": found["inputs"], "targets": found["targets"]}, indent=1))
            for fault, line in zip(found["faults"], found["failed"], strict=True):
                print(line, f"    {fault['given'][:600]}", sep="\n")
            return int(bool(found["failed"]))
        from tests.torture.fuzz.harness import random_of, shown

        target = next(target for target in targets() if target.name == args.target)
        with contextlib.chdir(work):
            make, call = target.prepare(work)
            given = make(random_of(target.name, args.seed, args.at))
            print(shown(given))
            call(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
