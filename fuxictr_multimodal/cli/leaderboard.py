"""Arguments of `run_leaderboard.py`. Only the standard library is imported before they are parsed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError, exit_on_input_error
from fuxictr_multimodal.system.terminal import prepare_streams

if TYPE_CHECKING:
    from fuxictr_multimodal.compare.board import Board

FORMATS = ("terminal", "markdown", "latex", "csv", "html")
FORMAT_OF_SUFFIX = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}


def run_leaderboard_main(argv: Sequence[str] | None = None) -> None:
    """`run_leaderboard.py`: compare the experiments of a dataset; exit status 2 on bad input."""
    prepare_streams()
    args = _parser().parse_args(argv)
    with exit_on_input_error():
        board = _read_board(args) if args.source else _make_board(args)
        if args.published:
            from fuxictr_multimodal.compare.published import with_published

            board = with_published(board, args.published)
        if args.export:
            board.write(args.export)
        text = _rendered(board, args)
        if args.out:
            from fuxictr_multimodal.system.files import replace_atomically

            args.out.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(args.out) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(args.out)
        else:
            sys.stdout.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_leaderboard.py",
        description="Compare the experiments of a dataset, as a table or a page.",
        epilog="The same reports give the same bytes. Failed and incomplete runs are listed below the table.",
    )
    what = parser.add_argument_group("comparison")
    what.add_argument("--dataset", help="dataset id; not needed where only one has reports")
    what.add_argument(
        "--expid", action="append", metavar="GLOB", help="only these experiments; comma-separated, or repeated"
    )
    what.add_argument("--baseline", metavar="NAME", help="expid or model to which differences refer (default: DIN)")
    what.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap replicates, 0 for none (default: %(default)s)",
    )
    what.add_argument(
        "--resample",
        choices=("rows", "groups"),
        default="rows",
        help="the bootstrap draws single rows (default), or users with all their rows",
    )
    where = parser.add_argument_group("input")
    where.add_argument(
        "--model-root",
        type=path_argument,
        default=Path("checkpoints"),
        help="folder with <dataset>/*.report.json (default: %(default)s)",
    )
    where.add_argument(
        "--reports", type=path_argument, metavar="DIR", help="folder of reports, instead of --model-root"
    )
    where.add_argument(
        "--data-root", type=path_argument, help="folder of datasets (default: the one that the runs read)"
    )
    where.add_argument(
        "--config", type=path_argument, help="config folder; its expids without a report are listed as not run"
    )
    where.add_argument(
        "--from",
        dest="source",
        type=path_argument,
        metavar="JSON",
        help="a file that --export wrote, instead of reports",
    )
    where.add_argument(
        "--published",
        type=path_argument,
        metavar="CSV",
        help="published learning curves for the page, for example results/published_microlens_1m.csv",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=FORMATS, help="default: by the suffix of --out, else terminal")
    output.add_argument("--short", action="store_true", help="fewer columns, for a README; not for csv and html")
    output.add_argument("--out", type=path_argument, metavar="FILE", help="write to this file instead of the terminal")
    output.add_argument("--export", type=path_argument, metavar="JSON", help="also write all that tables and page need")
    return parser


def _read_board(args: argparse.Namespace) -> Board:
    from fuxictr_multimodal.compare.board import Board

    board = Board.read(args.source)
    if args.baseline not in (None, board.baseline):
        raise ConfigError(f"{args.source} was exported with baseline {board.baseline}: export it again for another")
    if args.dataset not in (None, board.dataset_id):
        raise ConfigError(f"{args.source} is of dataset {board.dataset_id}, not {args.dataset}")
    if args.expid:
        raise ConfigError("--expid chooses among reports: give it when exporting, not with --from")
    return board


def _make_board(args: argparse.Namespace) -> Board:
    if args.bootstrap < 0:
        raise ConfigError(f"--bootstrap {args.bootstrap}: the number of replicates cannot be negative")
    # NumPy, HDF5 and torch take seconds to import: only now, after the arguments are known to be good.
    from tqdm import tqdm

    from fuxictr_multimodal.compare.assemble import make_board
    from fuxictr_multimodal.compare.collect import collect, dataset_with_reports
    from fuxictr_multimodal.config.names import check_plain_name
    from fuxictr_multimodal.data.store import Store

    expids = [name for text in args.expid or ["*"] for name in text.split(",") if name]
    dataset_id = args.dataset
    if dataset_id is not None:
        check_plain_name(dataset_id, "--dataset")
    if args.reports is None and dataset_id is None:
        dataset_id = dataset_with_reports(args.model_root)
    directory = args.reports or args.model_root / dataset_id
    collection = collect(directory, dataset_id=dataset_id, expids=expids)
    data_root = args.data_root
    if data_root is None and collection.groups:
        data_root = Path(collection.groups[0].runs[0].report.config.get("data_root", "data"))
    dataset_id = collection.dataset_id
    at_hand = data_root is not None and (args.data_root is not None or Store.exists(data_root, dataset_id))
    with tqdm(total=args.bootstrap, desc="bootstrap", leave=False, disable=None) as bar:
        return make_board(
            collection,
            store=Store.open(data_root, dataset_id) if at_hand else None,
            baseline=args.baseline,
            replicates=args.bootstrap,
            unit=args.resample,
            not_run=_expected(args.config, dataset_id, expids) if args.config else (),
            on_replicate=bar.update,
        )


def _expected(config_dir: Path, dataset_id: str, patterns: Sequence[str]) -> list[str]:
    """Expids of a config folder that are of this dataset."""
    import fnmatch

    from fuxictr_multimodal.config.expids import list_expids, load_model_config

    named = [expid for expid in list_expids(config_dir) if any(fnmatch.fnmatchcase(expid, glob) for glob in patterns)]
    return [expid for expid in named if load_model_config(config_dir, expid).get("dataset_id") == dataset_id]


def _rendered(board: Board, args: argparse.Namespace) -> str:
    form = args.format or FORMAT_OF_SUFFIX.get(args.out.suffix.lower() if args.out else "", "terminal")
    if form == "html":
        from fuxictr_multimodal.compare.page import page

        return page(board)
    from fuxictr_multimodal.compare import tables

    if form == "csv":
        return tables.as_csv(board)
    if form == "terminal":
        import shutil

        on_screen = args.out is None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if on_screen else None
        return tables.terminal(board, short=args.short, width=width, color=on_screen)
    return {"markdown": tables.markdown, "latex": tables.latex}[form](board, short=args.short)
