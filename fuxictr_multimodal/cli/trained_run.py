"""Which trained run a door reads: the options that name it, the same at every such door."""

from __future__ import annotations

import argparse

from fuxictr_multimodal.config.user_paths import path_argument


def add_trained_run(parser: argparse.ArgumentParser) -> None:
    """Add --config, --expid, --gpu, --seed, --set and --name, as they were given to `run_expid.py`."""
    parser.add_argument("--config", default="./config/", type=path_argument, help="the config directory")
    parser.add_argument("--expid", required=True, help="the experiment id; it must be trained")
    parser.add_argument("--gpu", default=-1, type=int, help="the gpu index, -1 for cpu")
    parser.add_argument("--seed", type=int, help="the seed that the run was given on the command line")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in training"
    )
    parser.add_argument("--name", help="the run name that it was given; its settings are then taken from its report")
