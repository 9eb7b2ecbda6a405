"""`run_comparison.py` and `fxmm compare`: tune, train and rank models."""

from __future__ import annotations

from collections.abc import Sequence

from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main
from fuxictr_multimodal.cli.parser import check_settings_file, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command


@command()
def run_comparison_main(argv: Sequence[str] | None = None, *, prog: str = "run_comparison.py") -> None:
    """Run a comparison; exit status 1 if a run failed, 2 on bad input, 128 + a signal."""
    parser = command_parser(
        prog,
        "Tune every model of a comparison with the same number of trials, run the seeds, and write the leaderboard.",
        notes="Run the same command again after a crash or a kill: complete runs are kept, the rest resumes.",
        examples=["--config config/comparison/demo.yaml --gpu -1 -1"],
    )
    parser.add_argument(
        "--config", default="./config/comparison/demo.yaml", type=path_argument, help="the comparison file"
    )
    parser.add_argument("--gpu", nargs="+", default=[-1], type=int, help="GPU indices, one per slot; -1 is the CPU")
    args = parser.parse_args(argv)
    check_settings_file(args.config, "comparison", prog)
    from fuxictr_multimodal.comparison.comparison import compare
    from fuxictr_multimodal.comparison.settings import Comparison
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
        leaderboard = "fxmm leaderboard" if prog.startswith("fxmm") else "python run_leaderboard.py"
        print(f"the page: {leaderboard} --from {out}.json --out {out.name}.html")
    raise SystemExit(run_many.exit_status(outcomes))
