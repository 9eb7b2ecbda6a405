"""Argument parsers of the commands: the format of help texts, and the options that identify a trained run."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind each option that has one; prose is wrapped, an indented line stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [
            [line] if line.startswith("  ") else textwrap.wrap(line, width, initial_indent=indent) or [""]
            for line in text.splitlines()
        ]
        return "\n".join(line for wrapped in lines for line in wrapped)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)", "(default: [])" and "(default: False)" are not informative.
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def command_parser(
    prog: str, description: str, *, notes: str = "", examples: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A parser of one command.

    Args:
        prog: the command as the user typed it: `run_expid.py`, or `fxmm run`.
        description: what the command does, above its options.
        notes: further notes, below the options.
        examples: arguments that can be pasted behind `prog`.
    """
    typed = f"python {prog}" if prog.endswith(".py") else prog
    shown = "\n".join(["examples:", *(f"  {typed} {example}" for example in examples)]) if examples else ""
    epilog = "\n\n".join(filter(None, [notes, shown]))
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=HelpFormatter)


def check_settings_file(path: Path, kind: str, prog: str) -> None:
    """Refuse a missing tuner or comparison file. Results are written beside it, so no packaged file is used.

    Raises:
        ConfigError: saying where such files come from.
    """
    if not path.is_file():
        copied = "; `fxmm config --copy` copies the packaged ones to ./config" if prog.startswith("fxmm") else ""
        raise ConfigError(f"{kind} file {path} does not exist: give it with --config{copied}")


def add_config(parser: argparse._ActionsContainer, config: str | Path) -> None:
    """Add --config, the folder of the YAML files."""
    parser.add_argument("--config", default=config, type=path_argument, metavar="DIR", help="the config folder")


def add_set(parser: argparse._ActionsContainer, purpose: str) -> None:
    """Add --set, which may be repeated; `purpose` is its help."""
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=purpose)


def add_verify(parser: argparse._ActionsContainer) -> None:
    """Add --verify, which is `--set verify=full`."""
    parser.add_argument(
        "--verify",
        dest="overrides",
        action="append_const",
        const="verify=full",
        help="compare all files of the dataset with their checksums first, not only those that changed",
    )


def add_trained_run(parser: argparse.ArgumentParser, config: str | Path, *, gpu: bool = True) -> None:
    """Add --config, --expid, --seed, --set and --name, which identify the trained run, then --verify and --gpu."""
    add_config(parser, config)
    parser.add_argument("--expid", required=True, help="the experiment id of a trained run")
    if gpu:
        parser.add_argument("--gpu", default=-1, type=int, help="the GPU index, -1 for the CPU")
    parser.add_argument("--seed", type=int, help="the seed, if training had one")
    add_set(parser, "a setting changed by --set in training")
    add_verify(parser)
    parser.add_argument("--name", help="the run name, if training had one; settings are read from the run's report")
