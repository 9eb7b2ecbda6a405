"""`run_leaderboard.py` and `fxmm leaderboard`: rank finished runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuxictr_multimodal.cli.parser import command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command

if TYPE_CHECKING:
    from fuxictr_multimodal.comparison.board import Board

FORMATS = ("terminal", "markdown", "latex", "csv", "html")
FORMAT_OF_SUFFIX = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}


@command()
def run_leaderboard_main(argv: Sequence[str] | None = None, *, prog: str = "run_leaderboard.py") -> None:
    """Compare the experiments of a dataset; exit status 2 on bad input."""
    args = _parser(prog).parse_args(argv)
    board = _read_board(args) if args.source else _make_board(args)
    if args.published:
        from fuxictr_multimodal.comparison.published import with_published

        board = with_published(board, args.published)
    if args.export:
        board.write(args.export)
    text = _rendered(board, args)
    if args.out:
        from fuxictr_multimodal.system.files import write_text

        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text)
        print(args.out)
    else:
        sys.stdout.write(text)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = command_parser(
        prog,
        "Compare the experiments of a dataset, as a table or a page.",
        notes="The same reports give the same bytes. Failed and incomplete runs are listed below the table.",
        examples=["--dataset Synthetic_demo", "--dataset Synthetic_demo --baseline DIN_demo --out leaderboard.html"],
    )
    what = parser.add_argument_group("comparison")
    what.add_argument("--dataset", help="dataset id; may be omitted if only one dataset has reports")
    what.add_argument(
        "--expid", action="append", metavar="GLOB", help="only these experiments, comma-separated or repeated"
    )
    what.add_argument("--baseline", metavar="NAME", help="expid or model to which differences refer (default: DIN)")
    what.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap replicates, 0 for none",
    )
    what.add_argument(
        "--resample",
        choices=("rows", "groups"),
        default="rows",
        help="resample single samples, or users with all their samples",
    )
    where = parser.add_argument_group("input")
    where.add_argument(
        "--model-root",
        type=path_argument,
        default=Path("checkpoints"),
        help="folder with <dataset>/*.report.json",
    )
    where.add_argument(
        "--reports", type=path_argument, metavar="DIR", help="folder of reports, instead of --model-root"
    )
    where.add_argument("--data-root", type=path_argument, help="folder of the datasets (default: that of the runs)")
    where.add_argument(
        "--config", type=path_argument, help="config folder; experiments without a report are listed as not run"
    )
    where.add_argument(
        "--from",
        dest="source",
        type=path_argument,
        metavar="JSON",
        help="a file written by --export, in place of reports",
    )
    where.add_argument(
        "--published",
        type=path_argument,
        metavar="CSV",
        help="published learning curves for the page, such as results/published_microlens_1m.csv",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=FORMATS, help="default: by the suffix of --out, else terminal")
    output.add_argument("--short", action="store_true", help="fewer columns, for a README; not for csv and html")
    output.add_argument("--out", type=path_argument, metavar="FILE", help="write to this file instead of the terminal")
    output.add_argument(
        "--export", type=path_argument, metavar="JSON", help="also write everything that the tables and the page need"
    )
    return parser


def _read_board(args: argparse.Namespace) -> Board:
    from fuxictr_multimodal.comparison.board import Board

    board = Board.read(args.source)
    if args.baseline not in (None, board.baseline):
        raise ConfigError(f"{args.source} was exported with baseline {board.baseline}: export it again for another")
    if args.dataset not in (None, board.dataset_id):
        raise ConfigError(f"{args.source} is of dataset {board.dataset_id}, not {args.dataset}")
    if args.expid:
        raise ConfigError("--expid selects among reports: use it when exporting, not with --from")
    return board


def _make_board(args: argparse.Namespace) -> Board:
    # NumPy, HDF5 and torch take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.comparison.ranking import rank

    return rank(
        args.dataset,
        expids=[name for text in args.expid or ["*"] for name in text.split(",") if name],
        model_root=args.model_root,
        reports=args.reports,
        data_root=args.data_root,
        config_dir=args.config,
        baseline=args.baseline,
        replicates=args.bootstrap,
        unit=args.resample,
    )


def _rendered(board: Board, args: argparse.Namespace) -> str:
    form = args.format or FORMAT_OF_SUFFIX.get(args.out.suffix.lower() if args.out else "", "terminal")
    if form == "html":
        from fuxictr_multimodal.comparison.page import page

        return page(board)
    from fuxictr_multimodal.comparison import tables

    if form == "csv":
        return tables.as_csv(board)
    if form == "terminal":
        import shutil

        on_screen = args.out is None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if on_screen else None
        return tables.terminal(board, short=args.short, width=width, color=on_screen)
    return {"markdown": tables.markdown, "latex": tables.latex}[form](board, short=args.short)
