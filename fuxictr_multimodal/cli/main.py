"""`fxmm COMMAND`: one command with subcommands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fuxictr_multimodal.cli.parser import HelpFormatter
from fuxictr_multimodal.config.packaged import HERE, default_config
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.version import __version__


@dataclass(frozen=True)
class Subcommand:
    """Location and summary of a subcommand.

    Attributes:
        function: `module:function`, called with the arguments and `prog`.
        summary: for the list of commands.
        config: folder below the config folder that is the default of its --config; None if it has none.
    """

    function: str
    summary: str
    config: str | None = None


SUBCOMMANDS = {
    "init": Subcommand("fuxictr_multimodal.cli.init:init_main", "propose the configuration of your own files"),
    "build": Subcommand("fuxictr_multimodal.cli.dataset:build_main", "build a dataset ahead of its first use", ""),
    "run": Subcommand("fuxictr_multimodal.cli.experiment:run_expid_main", "train and evaluate an experiment", ""),
    "tune": Subcommand("fuxictr_multimodal.cli.tuner:run_param_tuner_main", "search the settings of a model"),
    "compare": Subcommand("fuxictr_multimodal.cli.comparison:run_comparison_main", "tune, train and rank models"),
    "leaderboard": Subcommand("fuxictr_multimodal.cli.leaderboard:run_leaderboard_main", "rank finished runs"),
    "predict": Subcommand("fuxictr_multimodal.cli.predict:run_predict_main", "score the test split or new samples", ""),
    "explain": Subcommand("fuxictr_multimodal.cli.explain:run_explain_main", "explain the ranking of a model", ""),
    "export": Subcommand("fuxictr_multimodal.cli.export:export_main", "export a trained model to a folder", ""),
    "serve": Subcommand("fuxictr_multimodal.cli.serve:serve_main", "serve an exported model over HTTP"),
    "embed": Subcommand("bilingual_embedding.cli:run_embedding_main", "turn item texts into vectors", "embedding"),
    "verify": Subcommand("fuxictr_multimodal.cli.dataset:verify_main", "check the files of a built dataset"),
    "config": Subcommand("fuxictr_multimodal.cli.configs:config_main", "list the experiments, copy the configs", ""),
}
EXAMPLES = """examples:
  fxmm run --expid QIN_demo
  fxmm predict --expid QIN_demo --out scores.parquet
  fxmm leaderboard --dataset Synthetic_demo
  fxmm init log.parquet items.parquet --dataset-id Shop    # your own data
  fxmm config --copy    # then edit ./config and run your own experiments"""


@command(several=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Call a subcommand; exit status 2 for an unknown one, else its own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in SUBCOMMANDS:
        _parser().parse_known_args(arguments or ["--help"])
        raise ConfigError(f"fxmm has no command {arguments[0]!r}. {did_you_mean(arguments[0], SUBCOMMANDS)}")
    name, *rest = arguments
    chosen = SUBCOMMANDS[name]
    options: dict[str, Any] = {"prog": f"fxmm {name}"}
    if chosen.config is not None:
        folder = default_config()
        options["config"] = folder / chosen.config
        if folder != HERE and not any(text.startswith(("--config", "-h", "--help")) for text in rest):
            print(f"Configs are read from {folder}; a ./config folder or --config takes precedence.", file=sys.stderr)
    module, _, function = chosen.function.partition(":")
    getattr(importlib.import_module(module), function)(rest, **options)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, SUBCOMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {chosen.summary}" for name, chosen in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="fxmm",
        usage="fxmm [-h] [--version] COMMAND ...",
        description="Train, compare and use click-through rate models on behaviour, text and images: QIN, the models "
        "of FuxiCTR, and your own.",
        epilog=f"commands:\n{listed}\n\nfxmm COMMAND --help lists the options of a command.\n\n{EXAMPLES}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fxmm {__version__}")
    return parser


if __name__ == "__main__":
    main()
