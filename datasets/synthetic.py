"""Write synthetic data as a dataset or as raw files; its click probabilities and Bayes-optimal AUC are known.

    python datasets/synthetic.py --dataset-id Synthetic_demo
    python datasets/synthetic.py --dataset-id Synthetic_default --rows 1000000 --data-root /big/disk
    python datasets/synthetic.py --format microlens_1m --out DIR --rows 100000 --items 5000
    python datasets/synthetic.py --format microlens_raw --out DIR --rows 100000 --items 5000

Columns and sizes of a dataset come from its entry in the dataset config. An option replaces the entry's size; runs on
that dataset set it too (`--set synthetic.rows=1000000`).
The other formats are the files of MicroLens_1M_MMCTR, with its counts where none are given, and of the raw MicroLens
release: input for datasets/microlens_1m.py and datasets/microlens_raw.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("rows", "valid_rows", "test_rows", "items", "seed")


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write synthetic data with a known click probability.")
    parser.add_argument("--dataset-id", help="dataset: entry of the dataset config with a `synthetic:` block")
    parser.add_argument("--config", default=ROOT / "config", type=path_argument, help="dataset: the config directory")
    parser.add_argument(
        "--data-root", type=path_argument, help="dataset: folder of the datasets (default: the entry's)"
    )
    parser.add_argument("--format", default="store", choices=("store", "microlens_1m", "microlens_raw"))
    parser.add_argument("--out", type=path_argument, help="other formats: folder of the files")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="default: the entry's, or the release's")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    args = parser.parse_args(argv)
    wanted, unwanted = ("dataset_id", "out") if args.format == "store" else ("out", "dataset_id")
    for name, wrong in ((wanted, getattr(args, wanted) is None), (unwanted, getattr(args, unwanted) is not None)):
        if wrong:
            parser.error(f"--format {args.format} {'needs' if name == wanted else 'has no'} --{name.replace('_', '-')}")
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    # The builder and arrow take seconds to import: so only after the arguments are checked.
    if args.format == "store":
        from fuxictr_multimodal.data.synthetic import build_from_config

        build_from_config(
            args.dataset_id,
            config_dir=args.config,
            data_root=args.data_root,
            overrides=sizes,
            overwrite=args.overwrite,
        )
    else:
        from fuxictr_multimodal.data.synthetic.challenge_files import release_spec, write_challenge_files
        from fuxictr_multimodal.data.synthetic.raw_release import write_raw_release

        write = write_challenge_files if args.format == "microlens_1m" else write_raw_release
        for path in write(release_spec(sizes), args.out, overwrite=args.overwrite):
            print(path)


if __name__ == "__main__":
    main()
