"""Compare models fairly: `python run_comparison.py --config config/comparison/demo.yaml --gpu -1 -1`."""

from fuxictr_multimodal.cli.comparison import run_comparison_main

if __name__ == "__main__":
    run_comparison_main()
