"""Arguments of the doors. Only the standard library is imported before they are parsed, so `--help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.errors import exit_on_input_error


def run_expid_main(argv: Sequence[str] | None = None, *, config: str = "./config/", expid: str = "QIN_test") -> None:
    """`run_expid.py`: train one experiment and print its summary; exit status 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="run_expid.py",
        description="Train one experiment of a config folder, evaluate it, and write its report.",
        epilog="A finished run is not run again unless --overwrite; a killed one goes on with --resume.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default=config, type=Path, help="the config directory")
    parser.add_argument("--expid", default=expid, help="the experiment id to run")
    parser.add_argument("--gpu", default=-1, type=int, help="the gpu index, -1 for cpu")
    parser.add_argument("--seed", type=int, help="replaces the seed; the run is then named <expid>_s<seed>")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a parameter, value in YAML; may be given several times",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last evaluation of a killed run")
    parser.add_argument("--overwrite", action="store_true", help="run again although a finished report exists")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        # The toolkit, torch and Ray take seconds to import: only now, after the arguments are known to be good.
        from fuxictr_multimodal.report import print_summary
        from fuxictr_multimodal.runner import run_experiment

        report, path = run_experiment(
            config_dir=args.config,
            expid=args.expid,
            gpu=args.gpu,
            seed=args.seed,
            overrides=args.overrides,
            resume=args.resume,
            overwrite=args.overwrite,
        )
        print_summary(report, path)
