"""Train one experiment: `python run_expid.py --expid QIN_demo --gpu -1`."""

from fuxictr_multimodal.cli.experiment import run_expid_main

if __name__ == "__main__":
    run_expid_main()
