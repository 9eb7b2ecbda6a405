"""The arguments of `run_explain.py`. Only the standard library is imported before they are parsed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fuxictr_multimodal.cli.trained_run import add_trained_run
from fuxictr_multimodal.errors import exit_on_input_error


def run_explain_main(argv: Sequence[str] | None = None) -> None:
    """`run_explain.py`: show what a trained model attended to; exit status 2 on bad input."""
    args = _parser().parse_args(argv)
    with exit_on_input_error():
        # The toolkit, torch and Ray take seconds to import: only now, after the arguments are known to be good.
        from rich.console import Console

        from fuxictr_multimodal.experiment import Experiment
        from fuxictr_multimodal.explain import Explainer

        experiment = Experiment.load(args.config, args.expid, gpu=args.gpu, seed=args.seed, overrides=args.overrides)
        show = _show_sparsity if args.sparsity else _show_rows
        found = show(Explainer(experiment), args, Console())
        if args.json:
            args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(args.json)
        if args.out:
            print(args.out)


def _show_rows(explainer, args: argparse.Namespace, console) -> list[dict]:
    from fuxictr_multimodal.explain import ItemNames, read_titles
    from fuxictr_multimodal.explain_view import draw_rows, row_table
    from fuxictr_multimodal.store import read_item_table

    store = explainer.experiment.store
    titles = read_titles(args.titles) if args.titles else None
    if args.user is not None:
        found = explainer.user(args.split, args.user, limit=args.limit)
    else:
        found = [explainer.row(args.split, args.row or 0)]
    name = ItemNames(store, explainer.feature_map, read_item_table(store.dir), titles)
    for row in found:
        console.print(row_table(row, name, top=args.top))
    if args.out:
        draw_rows(found, name, args.out, top=args.top)
    return [{**asdict(row), "names": [name(item) for item in row.items]} for row in found]


def _show_sparsity(explainer, args: argparse.Namespace, console) -> dict:
    from fuxictr_multimodal.explain_view import draw_sparsity, sparsity_table

    rows = explainer.sparsity(args.split)
    console.print(sparsity_table(rows))
    run, dataset = explainer.experiment.run, explainer.experiment.params["dataset_id"]
    if args.out:
        draw_sparsity(rows, f"{run}: attention over {args.split} of {dataset}", args.out)
    items, zeros = sum(row.items for row in rows), sum(row.zeros for row in rows)
    found = {
        "expid": run,
        "dataset_id": dataset,
        "split": args.split,
        "share_of_zeros": zeros / items if items else None,
        "by_length": [row.as_dict() for row in rows],
    }
    if not args.json:
        print(json.dumps(found))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_explain.py",
        description="Show which history items a trained model gave weight to, and how sparse the weights are.",
        epilog="Titles are those that the store has, or of --titles; without them items are shown by id and tags.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_trained_run(parser)
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="rows of which split")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--row", type=int, metavar="N", help="number of a row of the split, from 0 (the default)")
    what.add_argument("--user", type=int, metavar="ID", help="group id: all its rows, at most --limit")
    what.add_argument("--sparsity", action="store_true", help="share of weights that are exactly 0, by history length")
    parser.add_argument("--limit", type=int, default=5, help="rows of a user at most")
    parser.add_argument("--top", type=int, default=20, help="history items of a row at most")
    parser.add_argument("--titles", type=Path, metavar="FILE", help="csv, tsv or parquet with item_id and title")
    parser.add_argument("--out", type=Path, metavar="PNG", help="also draw it, as .png, .svg or .pdf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    return parser
