"""Build a dataset of the raw public release of MicroLens: 50k, 100k or 1M users, sampled negatives.

    python datasets/microlens_raw.py --raw DIR
    python datasets/microlens_raw.py --raw DIR --size 100k --split last-item --targets all
    python datasets/microlens_raw.py --raw DIR --negatives popularity --ratio 5 --seed 7
    python datasets/microlens_raw.py --raw DIR --embedding item_vectors.h5

The data comes from https://github.com/westlake-repl/MicroLens. `config/dataset_config/microlens_raw.yaml` describes the
columns, `fuxictr_multimodal/data/recipes/microlens/raw_files.py` the files that are read, and `raw_recipe.py` beside it
how samples are computed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import HelpFormatter
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

ROOT = Path(__file__).resolve().parent.parent


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Build the dataset of one size of the raw MicroLens release.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--raw", required=True, type=path_argument, help="folder of the release")
    parser.add_argument("--size", help="50k, 100k or 1M, if the folder holds several")
    parser.add_argument("--data-root", default=Path("data"), type=path_argument, help="folder of the datasets")
    parser.add_argument("--dataset-id", help="entry of the dataset config (default: chosen by the size)")
    parser.add_argument("--config", default=ROOT / "config", type=path_argument, help="the config directory")
    parser.add_argument(
        "--split",
        choices=("user", "last-item"),
        default="user",
        help="assign users to the splits, or each user's last item to test and the one before it to valid",
    )
    parser.add_argument(
        "--targets", choices=("last", "all"), default="last", help="one positive a user and split, or all interactions"
    )
    parser.add_argument(
        "--valid-share", type=float, default=0.1, help="fraction of the users in valid, with --split user"
    )
    parser.add_argument(
        "--test-share", type=float, default=0.1, help="fraction of the users in test, with --split user"
    )
    parser.add_argument(
        "--negatives", choices=("uniform", "popularity"), default="uniform", help="how negatives are drawn"
    )
    parser.add_argument("--ratio", type=int, default=3, help="negatives for each positive")
    parser.add_argument("--seed", type=int, default=1, help="seed of the split and the negatives")
    parser.add_argument(
        "--embedding",
        type=path_argument,
        help="table of item vectors by item id (.h5, .npz, .parquet) instead of title vectors, for "
        "example as `run_embedding.py --stage encode --id-column` writes it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    args = parser.parse_args(argv)
    # polars, FuxiCTR and torch take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.data.recipes.microlens.raw import build
    from fuxictr_multimodal.data.recipes.microlens.raw_recipe import Choices

    choices = Choices(
        split=args.split,
        targets=args.targets,
        valid_share=args.valid_share,
        test_share=args.test_share,
        negatives=args.negatives,
        ratio=args.ratio,
        seed=args.seed,
    )
    build(
        raw=args.raw,
        config_dir=args.config,
        data_root=args.data_root,
        choices=choices,
        size=args.size,
        dataset_id=args.dataset_id,
        embedding=args.embedding,
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    main()
