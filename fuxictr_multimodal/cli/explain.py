"""`run_explain.py` and `fxmm explain`: why a model ranks as it does."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.cli.parser import add_trained_run, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.system.files import write_text
from fuxictr_multimodal.system.terminal import plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from fuxictr_multimodal.training.experiment import Experiment

STDOUT = Path("-")


@command()
def run_explain_main(
    argv: Sequence[str] | None = None, *, prog: str = "run_explain.py", config: str | Path = "./config/"
) -> None:
    """Show why a trained model ranks as it does; exit status 2 on bad input."""
    args = _parser(prog, config).parse_args(argv)
    # Output of other parts must not mix with the JSON.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json == STDOUT else contextlib.nullcontext()
    with aside:
        _check(args)
        # FuxiCTR, torch and Ray take seconds to import: so only after the arguments are checked.
        from fuxictr_multimodal.explain.view import check_picture
        from fuxictr_multimodal.training.experiment import Experiment

        if args.out:
            check_picture(args.out)
        experiment = Experiment.load(
            args.config, args.expid, gpu=args.gpu, seed=args.seed, overrides=args.overrides, name=args.name
        )
        found = _view(args)(experiment, args, plain_console(quiet=args.json == STDOUT))
        if isinstance(found, dict):
            found = {"expid": experiment.run, "dataset_id": experiment.params["dataset_id"], **found}
        found = _finite(found)
        if args.json not in (None, STDOUT):
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_text(args.json, json.dumps(found, indent=1, allow_nan=False))
            print(args.json)
        if args.out:
            print(args.out)
    if args.json == STDOUT:
        print(json.dumps(found, allow_nan=False))


def _check(args: argparse.Namespace) -> None:
    """Refuse options that the chosen view does not use."""
    if args.fresh and not args.scales:
        raise ConfigError("--fresh needs --scales: the other views need trained weights")
    if args.scales and args.out:
        raise ConfigError("--scales cannot be drawn with --out: omit it, or write the numbers with --json FILE")


def _view(args: argparse.Namespace) -> Callable[[Experiment, argparse.Namespace, Console], list | dict]:
    if args.blocks:
        return _show_blocks
    if args.scales:
        return _show_scales
    return _show_sparsity if args.sparsity else _show_rows


def _finite(found: Any) -> Any:
    """Replace NaN and infinity, which a diverged model gives, by null: JSON has neither."""
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _show_rows(experiment: Experiment, args: argparse.Namespace, console: Console) -> list[dict]:
    from fuxictr_multimodal.data.store import read_item_table
    from fuxictr_multimodal.explain.attention import Explainer, ItemNames, item_ids, read_titles
    from fuxictr_multimodal.explain.view import draw_rows, row_table

    explainer, store = Explainer(experiment), experiment.store
    ids = item_ids(store)
    titles = read_titles(args.titles, ids) if args.titles else None
    if args.user is not None:
        found = explainer.user(args.split, args.user, limit=args.limit)
    else:
        found = [explainer.row(args.split, args.row or 0)]
    name = ItemNames(store, explainer.feature_map, store.read(read_item_table), titles)
    for row in found:
        console.print(row_table(row, name, top=args.top))
    if args.out:
        draw_rows(found, name, args.out, top=args.top)
    shown = [{**asdict(row), "names": [name(item) for item in row.items]} for row in found]
    if ids is not None:
        for entry in shown:
            entry |= {"target": ids.ids[entry["target"]], "items": [ids.ids[item] for item in entry["items"]]}
    return shown


def _show_sparsity(experiment: Experiment, args: argparse.Namespace, console: Console) -> dict:
    from fuxictr_multimodal.explain.attention import Explainer
    from fuxictr_multimodal.explain.view import draw_sparsity, sparsity_table

    rows = Explainer(experiment).sparsity(args.split)
    console.print(sparsity_table(rows))
    if args.out:
        dataset = experiment.params["dataset_id"]
        draw_sparsity(rows, f"{experiment.run}: attention over {args.split} of {dataset}", args.out)
    items, zeros = sum(row.items for row in rows), sum(row.zeros for row in rows)
    return {
        "split": args.split,
        "share_of_zeros": zeros / items if items else None,
        "by_length": [row.as_dict() for row in rows],
    }


def _show_blocks(experiment: Experiment, args: argparse.Namespace, console: Console) -> dict:
    from fuxictr_multimodal.explain.block_importance import BlockShuffler
    from fuxictr_multimodal.explain.view import blocks_table, draw_blocks

    measured = BlockShuffler(experiment).measure(args.split, repeats=args.repeats)
    console.print(blocks_table(measured))
    if args.out:
        dataset = experiment.params["dataset_id"]
        draw_blocks(measured, f"{experiment.run}: contribution of each block on {args.split} of {dataset}", args.out)
    return {
        "split": args.split,
        "rows": measured.rows,
        "repeats": args.repeats,
        "AUC": measured.auc,
        "blocks": [block.as_dict() for block in measured.blocks],
    }


def _show_scales(experiment: Experiment, args: argparse.Namespace, console: Console) -> dict:
    from fuxictr_multimodal.explain.layer_scales import experiment_scales
    from fuxictr_multimodal.explain.view import scales_table

    measured = experiment_scales(experiment, batches=args.batches, fresh=args.fresh)
    if not console.is_terminal:
        # A pipe has no width, and names of layers are long.
        console.width = max(console.width, 120)
    console.print(scales_table(measured))
    return {
        "fresh": args.fresh,
        "batches": measured.batches,
        "loss": measured.loss,
        "layers": [layer.as_dict() for layer in measured.layers],
    }


def _parser(prog: str, config: str | Path) -> argparse.ArgumentParser:
    parser = command_parser(
        prog,
        "Explain the ranking of a trained model: which history items receive attention weight and how sparse "
        "the weights "
        "are (models with attention weights, such as QIN), what each input block contributes, and how large the "
        "activations and gradients of its layers are (any model).",
        notes="Titles are those of the dataset, or of --titles; without them items are shown by id and tags. "
        "--blocks scores the split once for each block and repeat. --scales takes the first batches of training; "
        "where they do not fit into memory, --set batch_size=1024 makes them smaller.",
        examples=[
            "--expid QIN_demo --row 0 --out row.png",
            "--expid QIN_demo --blocks",
            "--expid QIN_demo --sparsity --json sparsity.json",
        ],
    )
    add_trained_run(parser, config)
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="the split to read")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--row", type=int, metavar="N", help="index of a sample in the split, from 0 (the default)")
    what.add_argument("--user", metavar="ID", help="group id: all its samples, at most --limit")
    what.add_argument("--sparsity", action="store_true", help="fraction of weights that are 0, by history length")
    what.add_argument(
        "--blocks",
        action="store_true",
        help="drop in AUC of the split when one input block is shuffled: each context feature, the history, the target "
        "item, each item feature",
    )
    what.add_argument(
        "--scales",
        action="store_true",
        help="size of outputs, weights and their gradients by layer, over batches of train; --split is not read",
    )
    parser.add_argument("--repeats", type=int, default=3, help="with --blocks: shuffles of each block")
    parser.add_argument("--batches", type=int, default=4, help="with --scales: batches of train")
    parser.add_argument("--fresh", action="store_true", help="with --scales: the initial weights; needs no trained run")
    parser.add_argument("--limit", type=int, default=5, help="maximum number of samples of a user")
    parser.add_argument("--top", type=int, default=20, help="maximum number of history items of a sample")
    parser.add_argument(
        "--titles", type=path_argument, metavar="FILE", help="csv, tsv or parquet with item_id and title"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="PNG", help="also draw it as .png, .svg or .pdf; not with --scales"
    )
    parser.add_argument(
        "--json",
        type=path_argument,
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="also write the numbers to a file; without FILE, print only them on standard output",
    )
    return parser
