"""TPE against random search: the best validation value of as many trials, and how much of the slots' time is training.

The peak is every slot training all the time at the rate that the trials themselves report; a trial also starts a
process, imports, evaluates and reads the test split. Small by default (QIN_test); the comparison is

    python benchmarks/tuner_search.py --config config/tuner/QIN_demo_search.yaml --trials 20 --repeats 3 --gpu -1 -1
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from _common import emit
from rich.console import Console

from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.run import tune

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
base_config: {config}
base_expid: QIN_test
tuner_space:
    model_root: {folder}/checkpoints
    learning_rate: {{low: 1.e-4, high: 1.e-2, log: true}}
    num_row: {{low: 1, high: 4}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="a tuner file with ranges; without it QIN_test, small")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="seeds of each search")
    parser.add_argument("--gpu", nargs="+", type=int, default=[-1])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = arguments.config
        if config is None:
            config = Path(folder) / "small.yaml"
            config.write_text(SMALL.format(config=json.dumps(str(ROOT / "config")), folder=folder))
        run(config, trials=arguments.trials, repeats=arguments.repeats, gpus=arguments.gpu)


def run(config: Path, *, trials: int, repeats: int, gpus: list[int]) -> None:
    """Search with both, once a seed, without pruning, and print the comparison."""
    best: dict[str, list[float]] = {"random": [], "tpe": []}
    so_far: dict[str, list[list[float]]] = {"random": [], "tpe": []}
    rows = wall = 0.0
    rates: list[float] = []
    for seed in range(repeats):
        for search in best:
            started = time.perf_counter()
            console = Console(stderr=True)
            (records,) = tune(
                config, [None], gpus=gpus, search=search, trials=trials, prune=False, seed=seed, console=console
            )
            values = [record.value for record in records if record.value is not None]
            best[search].append(max(values))
            so_far[search].append([max(values[:count]) for count in range(1, len(values) + 1)])
            fresh = [record for record in records if record.status == "completed" and not record.reused]
            if fresh:
                wall += time.perf_counter() - started
                trained = [trained_rows(record) for record in fresh]
                rows += sum(count for count, _ in trained)
                rates += [rate for _, rate in trained]
    wins = sum(tpe >= random for tpe, random in zip(best["tpe"], best["random"], strict=True))
    means = {search: statistics.fmean(values) for search, values in best.items()}
    measured = bool(rates)
    emit(
        name="tuner_search",
        shapes={"config": config.name, "trials": trials, "repeats": repeats, "slots": len(gpus)},
        rows_per_s=rows / wall if measured else 0.0,
        ceiling=len(gpus) * statistics.fmean(rates) if measured else 1.0,
        ceiling_is="every slot training all the time at the rate that its trials report"
        if measured
        else "nothing was measured: all trials were complete before",
        ratio_to_plain=means["tpe"] / means["random"],
        plain_is="random search; the ratio is of the mean best validation values, not of speed",
        check=f"TPE is as good as random search or better in {wins} of {repeats} repeats",
        best=best,
        mean_best=means,
        best_so_far=so_far,
    )


def trained_rows(record: Record) -> tuple[float, float]:
    """Training rows of a trial and its rows per second, from its report."""
    report = json.loads(record.ran.report.read_text(encoding="utf-8"))
    rate = report["rows_per_s"]["train"]
    return rate * report["curve"][-1]["seconds"], rate


if __name__ == "__main__":
    main()
