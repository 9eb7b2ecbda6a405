"""Write a proposal into a config folder: all files, or none."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.expids import check_dataset_entry
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.yaml_files import read_entries
from fuxictr_multimodal.data.proposal.column_roles import find_roles
from fuxictr_multimodal.data.proposal.entry import plain, propose_entry
from fuxictr_multimodal.data.proposal.experiments import (
    counts_of,
    has_histories,
    propose_experiments,
    propose_search,
)
from fuxictr_multimodal.data.proposal.lines import block
from fuxictr_multimodal.data.proposal.roles import Roles
from fuxictr_multimodal.data.proposal.tables import Look, look_at
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import make_folder, write_text

KINDS = ("dataset_config", "model_config")
TRIALS = 20


@dataclass(frozen=True)
class Proposal:
    """What was written, and what the user should look at.

    Attributes:
        roles: of the files and their columns.
        files: the dataset's entry, the experiments, and the tuner file of QIN.
        expids: of the experiments, QIN first.
        checks: uncertain guesses, a sentence each.
    """

    roles: Roles
    files: tuple[Path, Path, Path]
    expids: list[str]
    checks: list[str] = field(default_factory=list)


def propose(
    paths: Sequence[str],
    *,
    dataset_id: str,
    config_dir: Path,
    named: Mapping[str, str | None] | None = None,
    split_by: str | None = None,
    overwrite: bool = False,
) -> Proposal:
    """Look at files, and write a dataset entry and experiments for them.

    Args:
        paths: files, globs or folders of parts, as the entry shall name them.
        dataset_id: name of the dataset.
        config_dir: the config folder; it is made where it is missing.
        named: columns that the user named, by role: `user`, `item`, `label`, `time`.
        split_by: `time`, `user` or `last_item`, in place of what the files suggest.
        overwrite: replace the files.

    Raises:
        InputError: a file cannot be read, the files do not belong together or cannot be split so, or the names are
            taken.
    """
    check_plain_name(dataset_id, "dataset_id")
    if len({*paths}) < len(paths):
        raise ConfigError("a file is named twice")
    targets = _targets(config_dir, dataset_id, overwrite)
    looks = [look_at(path) for path in paths]
    roles = find_roles(looks, named or {})
    entry = propose_entry(roles, split_by)
    bare = plain(entry)
    histories = has_histories(roles)
    counts = counts_of(roles, bare["split"]["by"] if "split" in bare else None)
    experiments = propose_experiments(
        roles,
        dataset_id,
        counts=counts,
        events=[column["name"] for column in bare.get("event_cols", [])],
        vectors=any(
            column["active"] and column.get("source") == "item" and column["type"] in ("embedding", "text")
            for column in bare["feature_cols"]
        ),
        with_base=_lacks_base(config_dir, targets[1]),
    )
    expid = next(name for name in experiments if name != "Base")
    search = propose_search(expid, config_dir=config_dir, counts=counts, histories=histories)
    _check_names(config_dir, dataset_id, [name for name in experiments if name != "Base"], targets)
    # What is written binds: a guess that does not is a fault here, and nothing is written.
    check_dataset_entry(dataset_id, bare, str(targets[0]))
    command = " ".join(["fxmm init", *paths])
    texts = (
        _head(f"Dataset {dataset_id}, proposed by `{command}`.", dataset_id, looks) + block({dataset_id: entry}),
        f"# Experiments on {dataset_id}, with sizes for its number of samples.\n\n"
        + "\n".join(block({name: settings}) for name, settings in experiments.items()),
        f"# What depends on the data in {expid}: {TRIALS} trials, the best by valid.\n"
        f"# {tune_command(targets[2])}\n\n" + block(search),
    )
    for path, text in zip(targets, texts, strict=True):
        make_folder(path.parent)
        write_text(path, text)
    expids = [name for name in experiments if name != "Base"]
    return Proposal(roles, targets, expids, list(roles.checks.values()))


def tune_command(path: Path) -> str:
    """What runs a tuner file."""
    return f"fxmm tune --config {shlex.quote(str(path))} --search tpe --trials {TRIALS}"


def _head(title: str, dataset_id: str, looks: Sequence[Look]) -> str:
    files = "\n".join(f"#     {look.name}: {look.seen}" for look in looks)
    return (
        f"# {title}\n{files}\n# The comments say what was seen. Lines with `check` are guesses that may be wrong.\n"
        f"# After a change: fxmm build --dataset-id {dataset_id} --overwrite\n\n"
    )


def _targets(config_dir: Path, dataset_id: str, overwrite: bool) -> tuple[Path, Path, Path]:
    for kind in KINDS:
        if (config_dir / f"{kind}.yaml").is_file():
            raise ConfigError(
                f"{config_dir} has its entries in {kind}.yaml: move that file to {config_dir / kind}/, or choose "
                "another folder with --config"
            )
    dataset, model = (config_dir / kind / f"{dataset_id}.yaml" for kind in KINDS)
    search = config_dir / "tuner" / f"QIN_{dataset_id}_search.yaml"
    for path in (dataset, model, search):
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists: choose another --dataset-id, or replace it with --overwrite")
    return dataset, model, search


def _entries(config_dir: Path, kind: str, without: Path) -> dict[str, dict[str, Any]]:
    files = [path for path in sorted((config_dir / kind).glob("*.yaml")) if path != without]
    return read_entries(files, "expid" if kind == "model_config" else "dataset_id")


def _lacks_base(config_dir: Path, target: Path) -> bool:
    return "Base" not in _entries(config_dir, "model_config", target)


def _check_names(config_dir: Path, dataset_id: str, expids: Sequence[str], targets: Sequence[Path]) -> None:
    """Refuse names that another file of the folder has."""
    for kind, names, target in zip(KINDS, ([dataset_id], expids), targets, strict=False):
        for name in names:
            if name in _entries(config_dir, kind, target):
                raise ConfigError(f"{config_dir / kind} has {name!r} in another file: choose another --dataset-id")
