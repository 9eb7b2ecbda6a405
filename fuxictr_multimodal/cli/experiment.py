"""Arguments of the doors. Only the standard library is imported before they are parsed, so `--help` is quick."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError, exit_on_input_error
from fuxictr_multimodal.system.interruption import exit_when_interrupted
from fuxictr_multimodal.system.terminal import prepare_streams


def run_expid_main(
    argv: Sequence[str] | None = None,
    *,
    config: str = "./config/",
    expid: str = "QIN_test",
    zoo_root: Path | None = None,
) -> None:
    """`run_expid.py`: train one experiment and print its summary; exit status 2 on bad input.

    Args:
        argv: the arguments, by default those of the process.
        config: the default of --config.
        expid: the default of --expid.
        zoo_root: the default of --zoo-root.
    """
    prepare_streams()
    parser = argparse.ArgumentParser(
        prog="run_expid.py",
        description="Train one experiment of a config folder, evaluate it, and write its report.",
        epilog="Finished runs are skipped unless --overwrite; a killed run resumes with --resume. A run is named after "
        "its expid, the settings that --set changes and its seed: QIN_demo@learning_rate=1e-3_s3.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default=config, type=path_argument, help="the config directory")
    parser.add_argument("--expid", default=expid, help="the experiment id to run; also a glob, or a list with commas")
    parser.add_argument(
        "--gpu",
        nargs="+",
        default=[-1],
        type=int,
        help="the gpu index, -1 for cpu; several runs take several: 0 1 2 3, or -1 -1",
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="replaces the seed; its run's name then ends with _s<seed>")
    seeds.add_argument("--seeds", metavar="1,2,3", help="run these seeds; also a range, 1-3")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a parameter, value in YAML; may be given several times",
    )
    parser.add_argument("--name", help="a run name of your own instead of the expid and what --set changes")
    parser.add_argument(
        "--zoo-root",
        default=zoo_root,
        type=path_argument,
        help="a FuxiCTR clone whose zoo is looked up too; its code is run",
    )
    parser.add_argument("--tracker", choices=("tensorboard", "mlflow", "wandb"), help="log to this tracker too")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume a killed run by its own settings; --set may raise epochs and early_stop_patience",
    )
    parser.add_argument("--overwrite", action="store_true", help="run again, and replace the run that is there")
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
    with exit_when_interrupted(), exit_on_input_error():
        from fuxictr_multimodal.launch import run_many
        from fuxictr_multimodal.system.gpus import check_gpus

        check_gpus(args.gpu)
        if not run_many.is_one_run(args.expid, args.seeds):
            seeds = args.seeds if args.seed is None else str(args.seed)
            plans = run_many.expand(args.config, args.expid, seeds)
            if args.name is not None and len({plan.expid for plan in plans}) > 1:
                raise ConfigError(f"--name {args.name} would name the runs of several experiments: give one --expid")
            outcomes = run_many.run_many(plans, settings, gpus=args.gpu)
            run_many.print_outcomes(outcomes)
            raise SystemExit(run_many.exit_status(outcomes))
        if len(args.gpu) > 1:
            raise ConfigError(f"--gpu names {len(args.gpu)} slots for the one run of {args.expid}: give one")
        # FuxiCTR, torch and Ray take seconds to import: only now, after the arguments are known to be good.
        from fuxictr_multimodal.training.recorder import print_summary
        from fuxictr_multimodal.training.runner import run_experiment

        report, path = run_experiment(
            config_dir=args.config, expid=args.expid, seed=args.seed, gpu=args.gpu[0], **settings
        )
        print_summary(report, path)
