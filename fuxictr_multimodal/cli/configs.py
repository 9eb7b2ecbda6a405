"""`fxmm config`: list what can be run, and copy the shipped configs for editing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_config, command_parser
from fuxictr_multimodal.config.packaged import HERE, packaged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.system.files import make_folder, replace_atomically


@command()
def config_main(argv: Sequence[str], *, prog: str, config: Path) -> None:
    """List experiments with their model and dataset, or copy the shipped configs to ./config."""
    parser = command_parser(
        prog,
        "List the experiments of the config folder with their model and dataset.",
        notes="Experiments on synthetic data run immediately; the others say how to obtain their data.",
        examples=["", "--copy"],
    )
    add_config(parser, config)
    parser.add_argument("--copy", action="store_true", help="copy the shipped configs to ./config for editing")
    args = parser.parse_args(argv)
    if args.copy:
        _copy()
        return
    from fuxictr_multimodal.config.expids import list_expids, load_dataset_config, load_model_config

    entries = {name: load_model_config(args.config, name) for name in list_expids(args.config)}
    synthetic = {
        dataset_id
        for dataset_id in {entry["dataset_id"] for entry in entries.values()}
        if load_dataset_config(args.config, dataset_id).get("synthetic")
    }
    widths = [max(map(len, column)) for column in zip(*((n, e["model"]) for n, e in entries.items()), strict=True)]
    for name, entry in entries.items():
        mark = " (synthetic)" if entry["dataset_id"] in synthetic else ""
        print(f"{name:<{widths[0]}}  {entry['model']:<{widths[1]}}  {entry['dataset_id']}{mark}")


def _copy() -> None:
    if HERE.exists():
        raise ConfigError(f"./{HERE} already exists: move it away to copy the shipped configs")
    source = packaged("config")
    # In a clone, searches have their own folders below config/tuner/.
    files = sorted(source.glob("*/*.yaml"))
    for path in files:
        target = HERE / path.relative_to(source)
        make_folder(target.parent)
        with replace_atomically(target) as temporary:
            shutil.copyfile(path, temporary)
    print(f"copied {len(files)} files to ./{HERE}; commands read them there from now on")
