"""Train one experiment of this folder: `python run_expid.py --expid QIN_test --gpu -1`."""

from pathlib import Path


def main() -> None:
    """Parse, run, exit; the heavy imports come after the arguments are checked."""
    from fuxictr_multimodal.cli.experiment import run_expid_main

    # A copy of this folder, as in a FuxiCTR clone, runs its own model, not the installed one.
    folder = Path(__file__).absolute().parent
    zoo_root = folder.parent if (folder / "QIN.py").is_file() else None
    run_expid_main(config="./config/", expid="QIN_test", zoo_root=zoo_root)


if __name__ == "__main__":
    main()
