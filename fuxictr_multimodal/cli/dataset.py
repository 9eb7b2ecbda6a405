"""`fxmm build` and `fxmm verify`: build a dataset ahead of its first use, verify the files of a built one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_config, command_parser
from fuxictr_multimodal.config.packaged import packaged
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import DataError, InputError
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
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process; ray: the workers of a Ray cluster, which gives the same dataset and pays for ready "
        "samples of many millions of rows; a log of events is built faster locally",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster of --engine ray, which sees files at the same paths (default: Ray on this machine)",
    )
    args = parser.parse_args(argv)
    from fuxictr_multimodal.config.expids import load_dataset_config
    from fuxictr_multimodal.data.entry.build import build_entry

    entry = load_dataset_config(args.config, args.dataset_id)
    build_entry(
        entry, data_root=args.data_root, overwrite=args.overwrite, engine=args.engine, ray_address=args.ray_address
    )


@command()
def verify_main(argv: Sequence[str], *, prog: str) -> None:
    """Check the files and values of datasets; exit status 2 if one is damaged."""
    parser = command_parser(
        prog,
        "Compare every file of a dataset with its SHA-256 in the manifest, and check every value: labels, ids, "
        "histories, numbers and vectors.",
        notes="A run checks the files that changed since they were last compared; --verify of a run compares all.",
        examples=["--dataset-id MovieLens", "--data-root data"],
    )
    parser.add_argument(
        "--dataset-id", "--dataset_id", nargs="+", metavar="NAME", help="the datasets (default: all in the folder)"
    )
    parser.add_argument(
        "--data-root", type=path_argument, default=Path("data"), metavar="DIR", help="folder of the datasets"
    )
    args = parser.parse_args(argv)
    from fuxictr_multimodal.config.names import check_plain_name
    from fuxictr_multimodal.data.entry.build import folder_name
    from fuxictr_multimodal.data.store import Store

    names = [check_plain_name(name, "--dataset-id") for name in args.dataset_id or ()]
    folders = [folder_name(args.data_root, name) for name in names]
    problems = []
    for folder in folders or _datasets_in(args.data_root):
        try:
            store = Store.open(args.data_root, folder, verify="sizes")
            store.verify(progress=True)
        except InputError as error:
            problems.append(str(error))
            continue
        manifest = store.manifest
        rows = sum(counts.rows for counts in manifest.splits.values())
        print(
            f"{store.place}: {len(manifest.files)} files match the manifest; {rows:,} samples and "
            f"{manifest.items - 1:,} items are in range"
        )
    if problems:
        raise DataError("\n".join(problems))


def _datasets_in(root: Path) -> list[str]:
    """Folders of datasets, those too that lost their manifest.

    Raises:
        DataError: there is none.
    """
    from fuxictr_multimodal.data.store.encoding import FEATURE_VOCAB_NAME
    from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME

    signs = (MANIFEST_NAME, FEATURE_VOCAB_NAME)
    found = sorted({path.parent.name for sign in signs for path in root.glob(f"[!.]*/{sign}")}) if root.is_dir() else []
    if not found:
        raise DataError(f"{root} holds no dataset: name its folder with --data-root, or build one with fxmm build")
    return found
