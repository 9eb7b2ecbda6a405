"""Compare QIN with DIN over several seeds on data whose best possible AUC is known.

python examples/compare_two_models.py                  # the demo's 400,000 samples: about ten minutes on a laptop
python examples/compare_two_models.py --samples 20000 --seeds 1 2
"""

import argparse
from typing import Any

import polars as pl

import fuxictr_multimodal as fxmm

COLUMNS = ["kind", "experiment", "seeds", "test_AUC_mean", "test_AUC_std", "difference"]
COLUMNS += ["difference_rows_low", "difference_rows_high", "minutes"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare QIN with DIN.")
    parser.add_argument("--samples", type=int, help="training samples, instead of the demo's 400,000")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--gpu", type=int, default=-1, help="the GPU index, -1 for the CPU")
    args = parser.parse_args()
    settings: dict[str, Any] = {}
    if args.samples:
        # A dataset of another size is another dataset: it gets its own folder.
        settings = {"synthetic.rows": args.samples, "data_root": f"data_{args.samples}"}
        settings["model_root"] = f"checkpoints_{args.samples}"
    for expid in ("QIN_demo", "DIN_demo"):
        for seed in args.seeds:
            # Finished runs are not trained again, so the script can be stopped and started.
            report = fxmm.train(expid, settings=settings, seed=seed, gpu=args.gpu, resume=True)
            print(f"{report.run}: test AUC {report.metrics['test']['AUC']:.4f}")
    table = fxmm.compare("Synthetic_demo", model_root=settings.get("model_root", "checkpoints"), baseline="DIN")
    with pl.Config(tbl_cols=-1, tbl_width_chars=160, tbl_rows=-1):
        print(table.select(COLUMNS))


if __name__ == "__main__":
    main()
