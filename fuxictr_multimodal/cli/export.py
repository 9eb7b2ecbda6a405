"""`fxmm export`: a trained run to a folder that ranks without FuxiCTR."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_trained_run, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

LICENCE = "unspecified; set one before you share it"


@command()
def export_main(
    argv: Sequence[str] | None = None, *, prog: str = "fxmm export", config: str | Path = "./config/"
) -> None:
    """Export a trained run and print how it scores beside it; exit status 2 on bad input."""
    parser = command_parser(
        prog,
        "Export a trained run to a folder: the graph of the model, its items and vocabularies, a model card, and an "
        "example that needs neither FuxiCTR nor this package.",
        notes="Up to 10,000 samples of valid are scored with the export and with the trained model, and both are "
        "compared. --quantise and --items other than float32 cost accuracy: they are measured on up to 200,000 "
        "samples, and refused where they change the AUC by more than --auc-limit. A package of --to torch belongs to "
        "processors like this one.",
        examples=["--expid QIN_demo", "--expid QIN_demo --to onnx --quantise int8 --items float16 --out demo_model"],
    )
    add_trained_run(parser, config, gpu=False)
    parser.add_argument(
        "--to", choices=("onnx", "torch"), default="onnx", help="ONNX Runtime, or torch's ahead-of-time compiler"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="the folder (default: <run>.export at the checkpoint)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the export that is in the folder")
    parser.add_argument("--quantise", choices=("int8",), help="compute the dense products in 8 bits (--to onnx)")
    parser.add_argument(
        "--auc-limit", type=float, default=1e-4, help="the largest change of the AUC on valid that is not refused"
    )
    parser.add_argument(
        "--items", choices=("float32", "float16", "int8"), default="float32", help="how item vectors are stored"
    )
    parser.add_argument(
        "--calibrate", choices=("platt", "isotonic"), help="calibrate the exported scores on the valid split"
    )
    parser.add_argument("--license", dest="licence", default=LICENCE, help="the license in the model card")
    args = parser.parse_args(argv)
    # FuxiCTR, torch and Ray take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.serving.export import Options, export

    found = export(
        config_dir=args.config,
        expid=args.expid,
        out=args.out,
        options=Options(args.to, args.quantise, args.auc_limit, args.items, args.calibrate, args.licence),
        overwrite=args.overwrite,
        seed=args.seed,
        overrides=args.overrides,
        name=args.name,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(found.checks)
    for name, stored in found.stored.items():
        if stored.relative_error:
            print(f"items, {name}: {stored.storage}, relative error {stored.relative_error:.1e}")
    print(f"{found.megabytes:.1f} MB in {found.seconds:.0f} s: {found.out}")
