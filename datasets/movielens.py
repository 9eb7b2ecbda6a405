"""Build a dataset of MovieLens: who liked which film, with texts, genres and what was known before each rating.

    python datasets/movielens.py --raw ml-1m.zip
    python datasets/movielens.py --raw ml-latest-small/ --history all
    python datasets/movielens.py --raw ml-latest-small/ --until 0.8 --data-root windows/0.8
    python datasets/movielens.py --raw ml-1m.zip --event-times
    python datasets/movielens.py --raw FOLDER --embedding item_vectors.h5 --levels-on-items

The data comes from https://grouplens.org/datasets/movielens/; its terms forbid redistribution. Known layouts are
the official ones and one more (`fuxictr_multimodal/data/recipes/movielens_raw.py`).
`config/dataset_config/movielens.yaml` describes the columns, `fuxictr_multimodal/data/recipes/movielens_recipe.py` how
they are computed.
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
        description="Build the dataset of a MovieLens download: an official layout or the tail20 form.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--raw", required=True, type=path_argument, help="folder or zip file of the download")
    parser.add_argument("--data-root", default=Path("data"), type=path_argument, help="folder of the datasets")
    parser.add_argument("--dataset-id", help="entry of the dataset config (default: chosen by the download's layout)")
    parser.add_argument("--config", default=ROOT / "config", type=path_argument, help="the config directory")
    parser.add_argument(
        "--embedding",
        type=path_argument,
        help="table of item vectors by movie id (.h5, .npz, .parquet) instead of text vectors, for "
        "example as `run_embedding.py --stage encode --id-column` writes it",
    )
    parser.add_argument(
        "--history", choices=("liked", "all"), default="liked", help="which earlier items are in the history"
    )
    parser.add_argument(
        "--user-levels",
        choices=("train", "earlier"),
        default="train",
        help="ratings that the quantile bins of a user count: those of train, or all earlier ones",
    )
    parser.add_argument(
        "--levels-on-items",
        action="store_true",
        help="put the film's quantile bins on history items too (dataset id with _levels)",
    )
    parser.add_argument(
        "--event-times",
        action="store_true",
        help="put the age, weekday and hour of each rating on the films of histories (dataset id with _times)",
    )
    parser.add_argument(
        "--until",
        default=1.0,
        metavar="SHARE",
        type=float,
        help="keep this fraction of all ratings, the earliest, and split these. Several fractions up to 0.9, each with "
        "its own --data-root, give windows of time for model selection without the test samples of the whole log",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    args = parser.parse_args(argv)
    # polars, FuxiCTR and torch take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.data.recipes.movielens import build

    build(
        raw_path=args.raw,
        dataset_id=args.dataset_id,
        config_dir=args.config,
        data_root=args.data_root,
        embedding=args.embedding,
        history=args.history,
        user_levels=args.user_levels,
        levels_on_items=args.levels_on_items,
        event_times=args.event_times,
        until=args.until,
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    main()
