"""Build the dataset of the challenge data MicroLens_1M_MMCTR.

    python datasets/microlens_1m.py --download
    python datasets/microlens_1m.py --raw DIR
    python datasets/microlens_1m.py --raw DIR --dataset-id MicroLens_1M_x1_levels
    python datasets/microlens_1m.py --raw DIR --embeddings bert clip

`config/dataset_config/microlens_1m.yaml` describes the columns, `fuxictr_multimodal/data/recipes/microlens/files.py`
the files and their source, and `challenge.py` beside it how they are checked and converted.
`datasets/synthetic.py --format microlens_1m` writes files of the same form in any size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import HelpFormatter
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED, LEVELS, WITH_EMBEDDINGS = "MicroLens_1M_x1", "MicroLens_1M_x1_levels", "MicroLens_1M_x1_embeddings"


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Build the dataset of the challenge data MicroLens_1M_MMCTR.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--raw", type=path_argument, help="folder of the files; with --download, where to keep them")
    parser.add_argument(
        "--download", action="store_true", help="download missing files; an interrupted download resumes"
    )
    parser.add_argument("--mirror", metavar="URL", help="another address of the same files, for --download")
    parser.add_argument("--data-root", default=Path("data"), type=path_argument, help="folder of the datasets")
    parser.add_argument(
        "--dataset-id",
        help=f"entry of the dataset config: {PUBLISHED} (the default), {LEVELS}, {WITH_EMBEDDINGS} (the default with "
        "--embeddings) or your own",
    )
    parser.add_argument("--config", default=ROOT / "config", type=path_argument, help="the config directory")
    parser.add_argument(
        "--embeddings",
        nargs="+",
        choices=("bert", "clip", "v1", "v2", "v3", "e4"),
        default=[],
        help="further item embeddings, from item_feature.parquet and item_emb.parquet",
    )
    parser.add_argument("--any-size", action="store_true", help="accept files with other row counts than the release's")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    args = parser.parse_args(argv)
    if args.raw is None and not args.download:
        parser.error("pass --raw DIR or --download")
    if args.mirror and not args.download:
        parser.error("--mirror needs --download")
    # polars, FuxiCTR and torch take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.data.recipes.microlens.challenge import build, files_of
    from fuxictr_multimodal.data.recipes.microlens.files import ADDRESS, load

    dataset_id = args.dataset_id or (WITH_EMBEDDINGS if args.embeddings else PUBLISHED)
    raw = args.raw or args.data_root / "raw" / "MicroLens_1M_MMCTR"
    if args.download:
        names = files_of(dataset_id, config_dir=args.config, embeddings=args.embeddings)
        load(names, directory=raw, address=args.mirror or ADDRESS)
    build(
        raw=raw,
        dataset_id=dataset_id,
        config_dir=args.config,
        data_root=args.data_root,
        embeddings=args.embeddings,
        any_size=args.any_size,
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    main()
