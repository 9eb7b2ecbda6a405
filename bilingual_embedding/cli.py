"""`run_embedding.py` and `fxmm embed`: text encoders."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_config, add_set, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.system.gpus import check_gpus

STAGES = ("all", "mlm", "pairs", "multitask", "evaluate", "mteb", "encode", "compare")


@command()
def run_embedding_main(
    argv: Sequence[str] | None = None, *, prog: str = "run_embedding.py", config: str | Path = "./config/embedding"
) -> None:
    """Train, evaluate, use or compare text encoders; exit status 2 on bad input, 130, 143 or 129 on a signal."""
    parser = _parser(prog, config)
    args = parser.parse_args(argv)
    if args.stage == "encode" and not (args.input and args.output):
        parser.error("--stage encode needs --input and --output")
    if args.stage == "mteb" and not args.output:
        parser.error("--stage mteb needs --output")
    if args.published and args.stage not in ("evaluate", "mteb", "encode"):
        parser.error("--published needs --stage evaluate, mteb or encode")
    if args.stage in ("mteb", "encode", "compare") and args.seeds:
        parser.error(f"--seeds trains several runs; it cannot be combined with --stage {args.stage}")
    if importlib.util.find_spec("tokenizers") is None:
        raise ConfigError("text encoders need more packages: pip install 'fuxictr-multimodal[embedding]'")
    check_gpus([args.gpu])
    # torch takes seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.launch.plans import is_one_run

    if args.stage == "compare":
        _compare(args)
    elif args.stage in ("mteb", "encode") or args.published or is_one_run(args.expid, args.seeds):
        _one_run(args)
    else:
        _several_runs(args)


def _parser(prog: str, config: str | Path) -> argparse.ArgumentParser:
    parser = command_parser(
        prog,
        "Train a bilingual text encoder in its stages, evaluate it, turn texts into vectors, compare runs.",
        notes="Finished stages are skipped unless --overwrite; a stopped stage resumes with --resume, with "
        "the settings "
        "it was started with. --resume leaves finished runs unchanged.",
        examples=[
            "--expid BiEncoder_nano",
            "--expid BiEncoder_nano --stage encode --input titles.csv --text-column title --output vectors.parquet",
        ],
    )
    add_config(parser, config)
    parser.add_argument(
        "--expid",
        default="BiEncoder_nano",
        help="the experiment to run; for training and comparing also a glob or a comma-separated list",
    )
    parser.add_argument("--stage", default="all", choices=STAGES, help="the stage to run")
    parser.add_argument("--gpu", default=-1, type=int, help="the GPU index, -1 for the CPU")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="replace the seed; the run is then named <expid>_s<seed>")
    seeds.add_argument("--seeds", metavar="1,2,3", help="train these seeds in turn, or a range such as 1-3")
    add_set(parser, "replace a setting, nested keys with a dot (pairs.steps=100); may be repeated")
    parser.add_argument("--resume", action="store_true", help="resume a stopped run; its steps may be increased")
    parser.add_argument("--overwrite", action="store_true", help="train again even if the stage is finished")
    parser.add_argument(
        "--published",
        metavar="NAME-or-folder",
        help="with --stage evaluate, mteb or encode: use this encoder, a Hugging Face name or a folder, not ours",
    )
    texts = parser.add_argument_group("encode")
    texts.add_argument(
        "--input", type=path_argument, help="texts: .txt, .csv, .tsv, .jsonl or .parquet, optionally followed by .gz"
    )
    texts.add_argument(
        "--output",
        type=path_argument,
        help="vectors: .parquet; with --stage compare the table: .md; with --stage mteb the folder of results",
    )
    texts.add_argument("--text-column", action="append", help="text column (default: text); several are joined")
    texts.add_argument("--id-column", help="id column, written beside the vectors")
    texts.add_argument(
        "--item-dim",
        type=int,
        help="write an item table of this width, in which row i is item i; ids must be whole numbers",
    )
    return parser


def _one_run(args: argparse.Namespace) -> None:
    from bilingual_embedding.commands import encode, evaluate_mteb, evaluate_published, train
    from bilingual_embedding.vectors.text_vectors import TextFile

    common = {
        "config_dir": args.config,
        "expid": args.expid,
        "gpu": args.gpu,
        "seed": args.seed,
        "overrides": args.overrides,
    }
    if args.stage == "encode":
        file = TextFile(
            source=args.input,
            target=args.output,
            text_columns=args.text_column or ["text"],
            id_column=args.id_column,
            item_dim=args.item_dim,
        )
        encode(**common, file=file, published=args.published)
    elif args.stage == "mteb":
        evaluate_mteb(**common, folder=args.output, published=args.published)
    elif args.published:
        evaluate_published(**common, name=args.published)
    else:
        train(**common, stage=args.stage, resume=args.resume, overwrite=args.overwrite)


def _several_runs(args: argparse.Namespace) -> None:
    from bilingual_embedding.training import many
    from fuxictr_multimodal.launch.run_many import exit_status

    seeds = args.seeds if args.seed is None else str(args.seed)
    settings = {
        "overrides": args.overrides,
        "stage": args.stage,
        "resume": args.resume,
        "overwrite": args.overwrite,
    }
    outcomes = many.train_in_turn(many.expand(args.config, args.expid, seeds), settings, gpu=args.gpu)
    many.print_outcomes(outcomes)
    raise SystemExit(exit_status(outcomes))


def _compare(args: argparse.Namespace) -> None:
    from bilingual_embedding.evaluation.comparison import compare
    from bilingual_embedding.training.settings import list_experiments
    from fuxictr_multimodal.launch.plans import select
    from fuxictr_multimodal.system.files import make_folder, write_text

    expids = select(args.expid, list_experiments(args.config), where=args.config)
    text = compare(args.config, expids, overrides=args.overrides)
    print(text, end="")
    if args.output is not None:
        make_folder(args.output.parent)
        write_text(args.output, text)
