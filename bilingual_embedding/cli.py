"""Arguments of `run_embedding.py`. Only the standard library is imported before they are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.errors import exit_on_input_error

STAGES = ("all", "mlm", "pairs", "multitask", "evaluate", "encode")


def run_embedding_main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate or use one text encoder; exit status 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="run_embedding.py",
        description="Train a bilingual text encoder in its stages, evaluate it, or turn texts into vectors.",
        epilog="A finished stage is not trained again unless --overwrite; a killed one goes on with --resume.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default="./config/embedding", type=Path, help="folder of YAML files")
    parser.add_argument("--expid", default="BiEncoder_nano", help="the experiment to run")
    parser.add_argument("--stage", default="all", choices=STAGES, help="what to do")
    parser.add_argument("--gpu", default=-1, type=int, help="the gpu index, -1 for cpu")
    parser.add_argument("--seed", type=int, help="replaces the seed; the run is then named <expid>_s<seed>")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a setting, a dot between levels (pairs.steps=100); may be given several times",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from where a killed run stopped")
    parser.add_argument("--overwrite", action="store_true", help="train again although the stage is there")
    parser.add_argument(
        "--published", metavar="NAME", help="with --stage evaluate: score this encoder of Hugging Face instead of ours"
    )
    texts = parser.add_argument_group("encode")
    texts.add_argument("--input", type=Path, help="texts: .txt, .gz, .csv, .jsonl or .parquet")
    texts.add_argument("--output", type=Path, help="vectors: .parquet")
    texts.add_argument("--text-column", action="append", help="column of the texts (text); several are joined")
    texts.add_argument("--id-column", help="column of integer ids that travels with the vectors")
    texts.add_argument("--item-dim", type=int, help="write an item table of this width, row i is item i")
    args = parser.parse_args(argv)
    if args.stage == "encode" and not (args.input and args.output):
        parser.error("--stage encode needs --input and --output")
    if args.published and args.stage != "evaluate":
        parser.error("--published goes with --stage evaluate")
    with exit_on_input_error():
        # torch takes seconds to import: only now, after the arguments are known to be good.
        from bilingual_embedding.door import encode, evaluate_published, train

        common = {"config_dir": args.config, "expid": args.expid, "gpu": args.gpu, "seed": args.seed}
        if args.stage == "encode":
            encode(
                **common,
                overrides=args.overrides,
                source=args.input,
                target=args.output,
                text_columns=args.text_column or ["text"],
                id_column=args.id_column,
                item_dim=args.item_dim,
            )
        elif args.published:
            evaluate_published(**common, overrides=args.overrides, name=args.published)
        else:
            train(
                **common,
                overrides=args.overrides,
                stage=args.stage,
                resume=args.resume,
                overwrite=args.overwrite,
            )
