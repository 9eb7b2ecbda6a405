"""`run_expid.py` and `fxmm run`: train experiments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_config, add_set, add_verify, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command, usage_printed_once
from fuxictr_multimodal.system.ranks import launched


@command(several=True)
def run_expid_main(
    argv: Sequence[str] | None = None,
    *,
    prog: str = "run_expid.py",
    config: str | Path = "./config/",
    expid: str = "QIN_test",
    zoo_root: Path | None = None,
) -> None:
    """Train one experiment and print its summary, or several side by side; exit status 2 on bad input.

    Args:
        argv: the arguments, by default those of the process.
        prog: the command as the user typed it.
        config: the default of --config.
        expid: the default of --expid.
        zoo_root: the default of --zoo-root.
    """
    parser = command_parser(
        prog,
        "Train one experiment of a config folder, evaluate it, and write its report; or run several.",
        notes="Finished runs are skipped unless --overwrite; a killed run resumes with --resume. A run is named after "
        "its expid, the settings that --set changes and its seed: QIN_demo@learning_rate=1e-3_s3. Started by torchrun "
        "(torchrun --nproc-per-node 4 run_expid.py --expid QIN_demo), several processes train one run: each takes its "
        "share of every batch.",
        examples=[
            "--expid QIN_demo",
            "--expid QIN_demo --set learning_rate=1.e-3 --set epochs=4 --gpu 0",
            "--expid 'QIN_demo,DIN_demo' --seeds 1-3 --gpu 0 1",
            "--expid QIN_demo --resume",
        ],
    )
    add_config(parser, config)
    parser.add_argument("--expid", default=expid, help="the experiment to run, a glob, or a comma-separated list")
    parser.add_argument(
        "--gpu",
        nargs="+",
        default=[-1],
        type=int,
        help="the GPU index, -1 for the CPU; several run in parallel: 0 1 2 3, or -1 -1 for two processes on the CPU. "
        "Under torchrun, the GPU of the first process of a machine, whose others take the next ones; or one for each",
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="replace the seed; the name of the run then ends with _s<seed>")
    seeds.add_argument("--seeds", metavar="1,2,3", help="run these seeds, or a range such as 1-3")
    add_set(parser, "replace a parameter, value in YAML; may be repeated")
    add_verify(parser)
    parser.add_argument("--name", help="the run's name, in place of the expid and the settings that --set changes")
    parser.add_argument(
        "--zoo-root",
        default=zoo_root,
        type=path_argument,
        help="a FuxiCTR clone whose model zoo is searched too; its code is run",
    )
    parser.add_argument("--tracker", choices=("tensorboard", "mlflow", "wandb"), help="log to this tracker too")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume a killed run by its own settings; --set may raise epochs and early_stop_patience",
    )
    parser.add_argument("--overwrite", action="store_true", help="run again and replace the existing run")
    with usage_printed_once():
        args = parser.parse_args(argv)
    if args.zoo_root is not None:
        args.overrides.insert(0, f"zoo_root={json.dumps(str(args.zoo_root))}")
    settings = {
        "overrides": args.overrides,
        "name": args.name,
        "resume": args.resume,
        "overwrite": args.overwrite,
        "tracker": args.tracker,
    }
    from fuxictr_multimodal.launch import plans, run_many
    from fuxictr_multimodal.system.gpus import check_gpus, gpu_of_rank

    here = launched()
    check_gpus(args.gpu)
    if not plans.is_one_run(args.expid, args.seeds):
        if here.several:
            raise ConfigError("torchrun trains one run: pass a single --expid and --seed, or start it without torchrun")
        asked = plans.expand(args.config, args.expid, args.seeds if args.seed is None else str(args.seed))
        if args.name is not None and len({plan.expid for plan in asked}) > 1:
            raise ConfigError(f"--name {args.name} would name the runs of several experiments: pass a single --expid")
        outcomes = run_many.run_many(asked, settings, gpus=args.gpu)
        run_many.print_outcomes(outcomes)
        raise SystemExit(run_many.exit_status(outcomes))
    if not here.several and len(args.gpu) > 1:
        raise ConfigError(f"--gpu names {len(args.gpu)} slots for the single run of {args.expid}: pass one")
    gpu = gpu_of_rank(args.gpu, here.local_rank, here.local_world_size)
    # FuxiCTR, torch and Ray take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.training.recorder import print_summary
    from fuxictr_multimodal.training.runner import run_experiment

    report, path = run_experiment(config_dir=args.config, expid=args.expid, seed=args.seed, gpu=gpu, **settings)
    if here.first:
        print_summary(report, path)
