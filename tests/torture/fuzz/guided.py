"""`python -m tests.torture.fuzz.guided TARGET`: atheris keeps inputs that reach new code and mutates these.

For targets whose inputs are bytes, where `pip install atheris` is there (Python 3.11); the attack does not need it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
from pathlib import Path

from tests.torture.fuzz import targets
from tests.torture.fuzz.harness import Fault, Found, Target, attempt, random_of, shown

# Inputs of the fuzzer's own, to begin with.
SEEDS = 200
GUIDED = ("fuxictr_multimodal", "bilingual_embedding", "yaml", "json")


def main() -> int:
    """Run a target; 1 where an input brought an undocumented exception."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.fuzz.guided", description=__doc__)
    parser.add_argument("target", help="name of the target")
    parser.add_argument("--runs", type=int, default=100_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs")
    args = parser.parse_args()
    target = next(target for target in targets() if target.name == args.target)
    with tempfile.TemporaryDirectory(prefix="guided-") as temporary:
        work = Path(temporary)
        process = multiprocessing.get_context("fork").Process(target=_run, args=(target, work, args.runs, args.seed))
        process.start()
        process.join()
        found = Found.of((work / "found.json").read_text(encoding="utf-8"))
    print(f"{found.inputs:,} inputs or more, {len(found.faults)} faults, exit status {process.exitcode}")
    for key, fault in found.faults.items():
        print(f"{key}: {fault.message}\n    {fault.given}")
    return int(bool(found.faults))


def _run(target: Target, work: Path, runs: int, seed: int) -> None:
    import atheris

    # Code that is instrumented must not be imported before.
    with atheris.instrument_imports(include=list(GUIDED)):
        import fuxictr_multimodal.config.expids
        import fuxictr_multimodal.data.entry.build  # noqa: F401
    found, corpus, folder = Found(), work / "corpus", work / "target"
    corpus.mkdir()
    folder.mkdir()
    with contextlib.chdir(folder):
        make, call = target.prepare(folder)
        for number in range(SEEDS):
            (corpus / str(number)).write_bytes(make(random_of(target.name, seed, number)))

        def one(content: bytes) -> None:
            error = attempt(target, call, content)
            found.inputs += 1
            if error:
                found.add(Fault(error[1], error[0], error[2], target.name, found.inputs, shown(content)))
            if error or found.inputs % 1000 == 0:
                # The fuzzer ends the process.
                (work / "found.json").write_text(found.text(), encoding="utf-8")

        (work / "found.json").write_text(found.text(), encoding="utf-8")
        options = [f"-runs={runs}", f"-seed={seed}", "-timeout=60", "-verbosity=0", "-max_len=20000", str(corpus)]
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
