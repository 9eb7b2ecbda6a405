"""`fxmm init`: look at the user's files, and write a dataset entry and experiments for them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import command_parser
from fuxictr_multimodal.config.packaged import HERE
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

ROLES = ("user", "item", "label", "time")
SPLITS = ("time", "user", "last_item")


@command()
def init_main(argv: Sequence[str], *, prog: str) -> None:
    """Propose the configuration of a dataset from its files; exit status 2 on bad input."""
    parser = command_parser(
        prog,
        "Look at your files and write a dataset entry and experiments that can be run at once, with comments that say "
        "what was seen and which guesses to check.",
        notes="Files are csv or parquet, folders of parts or globs of them: a log of events (user, item, time), or "
        "samples that are ready, also as train, valid and test; beside them one file of the items and one of the "
        "users. Ids have the same name in all files. Nothing is built yet.",
        examples=[
            "raw/log.parquet raw/items.parquet raw/users.csv --dataset-id Shop",
            "train.csv valid.csv test.csv items.parquet",
        ],
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="csv or parquet file, folder of parts, or glob")
    parser.add_argument("--dataset-id", "--dataset_id", default="Shop", help="name of the dataset")
    parser.add_argument("--config", default=HERE, type=path_argument, metavar="DIR", help="folder that is written to")
    for role in ROLES:
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"column of the {role}, if it is guessed wrong")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="how valid and test are cut off: the newest samples, other users, or each user's last items (default: "
        "time where there are times)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset's files")
    args = parser.parse_args(argv)
    from fuxictr_multimodal.data.proposal.write import propose, tune_command

    found = propose(
        args.files,
        dataset_id=args.dataset_id,
        config_dir=args.config,
        named={role: getattr(args, role) for role in ROLES},
        split_by=args.split,
        overwrite=args.overwrite,
    )
    for path in found.files:
        print(f"written: {path}")
    if found.checks:
        print("Please check:", file=sys.stderr)
        for text in found.checks:
            print(f"  * {text}", file=sys.stderr)
    config = "" if args.config == Path("config") else f" --config {shlex.quote(str(args.config))}"
    print(f"Next: fxmm run --expid {found.expids[0]}{config}")
    print(f"Then: {tune_command(found.files[2])}")
