"""Synthetic data to a store: click probabilities are known, so a model's distance from the best AUC is too.

    python datasets/synthetic.py --dataset-id Synthetic_demo
    python datasets/synthetic.py --dataset-id Synthetic_default --rows 3600000 --items 91717 --data-root /big/disk

Sizes come from the `synthetic:` block of the dataset's entry; a size on the command line replaces that of the entry.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.errors import exit_on_input_error

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("rows", "valid_rows", "test_rows", "items", "seed")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build a synthetic dataset with a known click probability.")
    parser.add_argument("--dataset-id", required=True, help="entry of the dataset config with a `synthetic:` block")
    parser.add_argument("--config", default=ROOT / "config", type=Path, help="the config directory")
    parser.add_argument("--data-root", type=Path, help="folder of the datasets (default: the entry's)")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the entry's")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        # The builder takes seconds to import: only now, after the arguments are known to be good.
        from fuxictr_multimodal.synthetic import build_from_config

        build_from_config(
            args.dataset_id,
            config_dir=args.config,
            data_root=args.data_root,
            overrides={name: getattr(args, name) for name in SIZES if getattr(args, name) is not None},
            overwrite=args.overwrite,
        )


if __name__ == "__main__":
    main()
