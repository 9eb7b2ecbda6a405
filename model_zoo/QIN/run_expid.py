"""Train one experiment of this folder: `python run_expid.py --expid QIN_test --gpu -1`."""


def main() -> None:
    """Parse, run, exit; the heavy imports come after the arguments are known to be good."""
    from fuxictr_multimodal.cli.experiment import run_expid_main

    run_expid_main(config="./config/", expid="QIN_test")


if __name__ == "__main__":
    main()
