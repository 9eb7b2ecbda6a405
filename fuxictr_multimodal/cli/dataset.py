"""`fxmm build` and `fxmm verify`: build a dataset ahead of its first use, verify the files of a built one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_config, command_parser
from fuxictr_multimodal.config.packaged import packaged
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command


@command()
def build_main(argv: Sequence[str], *, prog: str, config: Path) -> None:
    """Build the dataset of an entry, or call a script of `datasets/`; exit status 2 on bad input."""
    scripts = {path.stem: path for path in sorted(packaged("datasets").glob("*.py"))}
    if argv and argv[0] in scripts:
        from fuxictr_multimodal.launch.job import run_script

        run_script(scripts[argv[0]], ["--config", str(config), *argv[1:]])
        return
    parser = command_parser(
        prog,
        "Build a dataset from its entry in the config folder, as the first run that reads it would.",
        notes=f"Known data have scripts with their own options: {', '.join(f'{prog} {name}' for name in scripts)}.",
        examples=["--dataset-id Synthetic_demo", "movielens --raw ml-1m.zip"],
    )
    add_config(parser, config)
    parser.add_argument("--dataset-id", "--dataset_id", required=True, help="the entry; see docs/own_data.md")
    parser.add_argument(
        "--data-root", type=path_argument, metavar="DIR", help="write here, in place of the entry's folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    args = parser.parse_args(argv)
    from fuxictr_multimodal.config.expids import load_dataset_config
    from fuxictr_multimodal.data.entry.build import build_entry

    entry = load_dataset_config(args.config, args.dataset_id)
    build_entry(entry, data_root=args.data_root, overwrite=args.overwrite)


@command()
def verify_main(argv: Sequence[str], *, prog: str) -> None:
    """Compare the files of a dataset with their checksums; exit status 2 if one differs."""
    parser = command_parser(
        prog, "Compare every file of a dataset with its SHA-256 in the manifest.", examples=["--dataset-id MovieLens"]
    )
    parser.add_argument("--dataset-id", "--dataset_id", required=True, help="the dataset")
    parser.add_argument(
        "--data-root", type=path_argument, default=Path("data"), metavar="DIR", help="folder of the datasets"
    )
    args = parser.parse_args(argv)
    from fuxictr_multimodal.config.names import check_plain_name
    from fuxictr_multimodal.data.entry.build import folder_name
    from fuxictr_multimodal.data.store import Store

    name = check_plain_name(args.dataset_id, "--dataset-id")
    store = Store.open(args.data_root, folder_name(args.data_root, name))
    store.verify()
    print(f"{store.place}: {len(store.manifest.files)} files match the manifest")
