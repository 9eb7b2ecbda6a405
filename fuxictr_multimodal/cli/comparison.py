"""Arguments of `run_comparison.py`. Only the standard library is imported before they are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import exit_on_input_error
from fuxictr_multimodal.system.interruption import exit_when_interrupted
from fuxictr_multimodal.system.terminal import prepare_streams


def run_comparison_main(argv: Sequence[str] | None = None) -> None:
    """`run_comparison.py`: run a comparison; exit status 1 if a run failed, 2 on bad input, 128 + a signal."""
    prepare_streams()
    parser = argparse.ArgumentParser(
        prog="run_comparison.py",
        description="Tune every model of a comparison with equally many trials, run the seeds, write the leaderboard.",
        epilog="Run the same command again after a crash or a kill: what is complete is kept, the rest goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--config", default="./config/comparison/demo.yaml", type=path_argument, help="the comparison file"
    )
    parser.add_argument("--gpu", nargs="+", default=[-1], type=int, help="gpu indices, one a slot; -1: the CPU")
    args = parser.parse_args(argv)
    with exit_when_interrupted(), exit_on_input_error():
        from fuxictr_multimodal.compare.comparison import compare
        from fuxictr_multimodal.compare.settings import Comparison
        from fuxictr_multimodal.launch import run_many
        from fuxictr_multimodal.system.gpus import check_gpus

        check_gpus(args.gpu)
        comparison = Comparison.read(args.config)
        outcomes = compare(comparison, gpus=args.gpu)
        run_many.print_outcomes(outcomes)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise SystemExit(run_many.exit_status(outcomes))
    if any(outcome.status == "completed" for outcome in outcomes):
        out = comparison.out
        chosen = ["--dataset", comparison.dataset_id, "--expid", ",".join(comparison.names)]
        chosen += ["--baseline", comparison.baseline] if comparison.baseline else []
        chosen += ["--resample", comparison.resample]
        run_leaderboard_main([*chosen, "--export", f"{out}.json", "--out", f"{out}.md"])
        print(f"the page: python run_leaderboard.py --from {out}.json --out {out.name}.html")
    raise SystemExit(run_many.exit_status(outcomes))
