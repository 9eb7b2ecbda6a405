"""`run_comparison.py` and `fxmm compare`: tune, train and rank models, of a comparison file or of a dataset entry."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main
from fuxictr_multimodal.cli.parser import check_settings_file, command_parser
from fuxictr_multimodal.config.packaged import default_config
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command

if TYPE_CHECKING:
    from fuxictr_multimodal.comparison.budgeted.run import Request, Result

COMPARISON_FILE = Path("./config/comparison/demo.yaml")
ZOO_ROOT_VARIABLE = "FUXICTR_ZOO_ROOT"
OF_DATASET = ("hours", "models", "seeds", "trials", "out", "zoo_root")


@command()
def run_comparison_main(argv: Sequence[str] | None = None, *, prog: str = "run_comparison.py") -> None:
    """Run a comparison; exit status 1 if a run failed, 2 on bad input, 128 + a signal."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    if args.dataset is not None:
        _compare_dataset(_request(args, prog, argv), args.gpu, prog)
    for name in OF_DATASET:
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} needs --dataset; a comparison file says it itself")
    _compare_file(args.config or COMPARISON_FILE, args.gpu, prog)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = command_parser(
        prog,
        "Tune every model of a comparison with the same number of trials, run the seeds, and write the leaderboard. "
        "With --dataset, experiments and searches that fit the dataset are written, and planned for a number of hours; "
        "with --config, a comparison file says what is compared.",
        notes="Run the same command again after a crash or a kill: complete runs are kept, the rest resumes.",
        examples=["--config config/comparison/demo.yaml --gpu -1 -1", "--dataset Shop --hours 2 --gpu -1 -1"],
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        help=f"the comparison file (default: {COMPARISON_FILE}); with --dataset, the config folder (default: ./config)",
    )
    parser.add_argument("--gpu", nargs="+", default=[-1], type=int, help="GPU indices, one per slot; -1 is the CPU")
    group = parser.add_argument_group("a dataset entry instead of a comparison file")
    group.add_argument("--dataset", metavar="ID", help="the entry in the config folder; built first where it can be")
    group.add_argument(
        "--hours",
        type=float,
        help="wall clock for everything (default: 2); more of them resume a comparison whose time is used up",
    )
    group.add_argument(
        "--models",
        metavar="NAME[,NAME]",
        type=_names,
        help="the models, by priority: QIN_best (the recommended form), QIN (the published form), DIN, DCNv2, "
        "FinalMLP, MeanMLP, Trees, SDIM, TWIN, DIEN, ETA, SIM, MIRRN, TransAct (default: the first seven, the others "
        "where there is time); and when named, BST, HSTU, MUSE, RankMixer, or clone/<name> of a FuxiCTR clone",
    )
    group.add_argument("--seeds", metavar="1,2,3", help="seeds of the best settings (default: 1-3)")
    group.add_argument(
        "--trials", metavar="N", help="trials of each model (default: auto, as many as the time allows, at most 20)"
    )
    group.add_argument(
        "--out", type=path_argument, metavar="DIR", help="the folder (default: ./results/compare_<dataset>)"
    )
    group.add_argument(
        "--zoo-root", type=path_argument, help="a FuxiCTR clone for models named clone/<name>; its code is run"
    )
    return parser


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def _request(args: argparse.Namespace, prog: str, argv: Sequence[str] | None) -> Request:
    from fuxictr_multimodal.comparison.budgeted.run import Request
    from fuxictr_multimodal.config.names import check_plain_name

    dataset_id = check_plain_name(args.dataset, "--dataset")
    hours = 2.0 if args.hours is None else args.hours
    if not 0 < hours < 10_000:
        raise ConfigError(f"--hours {hours:g}: give a number above 0, such as 0.5 or 2")
    trials = None
    if args.trials not in (None, "auto"):
        if not args.trials.isdecimal() or int(args.trials) < 1:
            raise ConfigError(f"--trials {args.trials}: give auto, or a number from 1")
        trials = int(args.trials)
    if args.models is not None and not args.models:
        raise ConfigError("--models is empty: give names with commas between them")
    config = args.config or default_config()
    if config.is_file():
        raise ConfigError(f"--config {config} is a file; with --dataset it is the config folder")
    zoo_root = args.zoo_root or (Path(os.environ[ZOO_ROOT_VARIABLE]) if os.environ.get(ZOO_ROOT_VARIABLE) else None)
    typed = ["python", prog] if prog.endswith(".py") else prog.split()
    return Request(
        dataset_id=dataset_id,
        hours=hours,
        models=tuple(args.models) if args.models else None,
        seeds=args.seeds or "1-3",
        trials=trials,
        config_dir=config,
        out=args.out or Path("results") / f"compare_{dataset_id}",
        zoo_root=zoo_root,
        command=(*typed, *(sys.argv[1:] if argv is None else argv)),
    )


def _compare_dataset(request: Request, gpus: list[int], prog: str) -> None:
    """Run a comparison of a dataset entry, write its board and page, and say how to use the best model; exits."""
    from fuxictr_multimodal.comparison.budgeted.run import compare_dataset
    from fuxictr_multimodal.launch import run_many
    from fuxictr_multimodal.system.gpus import check_gpus

    check_gpus(gpus)
    result = compare_dataset(request, gpus=gpus)
    run_many.print_outcomes(result.outcomes)
    if result.interrupted:
        print("interrupted: complete runs are kept, and the same command resumes the rest", file=sys.stderr)
        raise SystemExit(run_many.exit_status(result.outcomes))
    if result.best is None:
        raise SystemExit("error: no run is complete: give more --hours; the same command resumes it")
    board = result.files.board
    chosen = ["--dataset", request.dataset_id, "--expid", ",".join(result.winners.expids)]
    chosen += ["--baseline", result.baseline, "--resample", result.resample]
    chosen += ["--model-root", str(result.files.model_root)]
    run_leaderboard_main([*chosen, "--export", f"{board}.json", "--out", f"{board}.md"])
    run_leaderboard_main(["--from", f"{board}.json", "--out", f"{board}.html"])
    _say_best(request, result, prog)
    raise SystemExit(int(any(outcome.status == "failed" for outcome in result.outcomes)))


def _say_best(request: Request, result: Result, prog: str) -> None:
    best = result.best
    assert best is not None
    run, predict = ("fxmm run", "fxmm predict") if prog.startswith("fxmm") else (
        "python run_expid.py", "python run_predict.py"
    )  # fmt: skip
    seed = best.seeds[0]
    winners, folder = shlex.quote(str(result.files.winners)), shlex.quote(str(result.files.best))
    print(f"best on valid: {best.winner}, {best.value:.4f} over {len(best.seeds)} of the seeds; as an experiment:")
    print(f"  {run} --config {folder} --expid {best.expid}")
    print(f"its run of seed {seed} scores the test split, or new samples with --data:")
    print(f"  {predict} --config {winners} --expid {best.winner} --seed {seed} --out scores.csv")
    print(f"the experiments and the search are in {result.files.config}; {result.files.comparison} repeats them")


def _compare_file(config: Path, gpus: list[int], prog: str) -> None:
    """Run a comparison file and write its board; exits."""
    check_settings_file(config, "comparison", prog)
    from fuxictr_multimodal.comparison.comparison import compare
    from fuxictr_multimodal.comparison.settings import Comparison
    from fuxictr_multimodal.launch import run_many
    from fuxictr_multimodal.system.gpus import check_gpus

    check_gpus(gpus)
    comparison = Comparison.read(config)
    outcomes = compare(comparison, gpus=gpus)
    run_many.print_outcomes(outcomes)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise SystemExit(run_many.exit_status(outcomes))
    if any(outcome.status == "completed" for outcome in outcomes):
        out = comparison.out
        chosen = ["--dataset", comparison.dataset_id, "--expid", ",".join(comparison.names)]
        chosen += ["--baseline", comparison.baseline] if comparison.baseline else []
        chosen += ["--resample", comparison.resample, "--model-root", str(comparison.model_root)]
        run_leaderboard_main([*chosen, "--export", f"{out}.json", "--out", f"{out}.md"])
        leaderboard = "fxmm leaderboard" if prog.startswith("fxmm") else "python run_leaderboard.py"
        print(f"the page: {leaderboard} --from {out}.json --out {out.name}.html")
    raise SystemExit(run_many.exit_status(outcomes))
