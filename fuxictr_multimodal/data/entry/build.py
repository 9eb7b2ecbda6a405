"""The dataset of an entry: opened, or built first where it is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.entry_settings import form_of, unread_format
from fuxictr_multimodal.config.names import check_dataset_id
from fuxictr_multimodal.data.entry.entry import BESIDE, FEATURE_MAP, Entry
from fuxictr_multimodal.data.entry.recipe import check_unchanged, recipe_of
from fuxictr_multimodal.data.store.feature_cols import check_feature_cols
from fuxictr_multimodal.data.store.held import is_there
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, SPLITS
from fuxictr_multimodal.data.store.staging import StoreExistsError
from fuxictr_multimodal.data.store.store import Store
from fuxictr_multimodal.data.synthetic import SyntheticSpec, build_synthetic, spec_of
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.files import locked, make_folder
from fuxictr_multimodal.system.ranks import launched
from fuxictr_multimodal.system.ray_cluster import ray_at

ENGINES = ("local", "ray")

_OURS = frozenset({*SPLITS, "ids", "feature_vocab.json", "item_titles.json"})


def build_entry(
    params: Mapping[str, Any],
    *,
    data_root: str | Path | None = None,
    overwrite: bool = False,
    frames: Mapping[str, Any] | None = None,
    engine: str = "local",
    ray_address: str | None = None,
) -> Store:
    """Build the dataset of an entry.

    Args:
        params: the entry with its `dataset_id`, or the parameters of a run.
        data_root: folder of the datasets, instead of the entry's.
        overwrite: replace a dataset that is there.
        frames: data frames of polars or pandas in place of the entry's files: `train_data`, `valid_data`, `test_data`,
            `interactions`, `item_data`, `user_data`.
        engine: `local` builds in this process; `ray` reads and encodes samples with the workers of a Ray cluster, to
            the same bytes.
        ray_address: of the cluster; None starts Ray on this machine and ends it afterwards.

    Raises:
        InputError: the entry is wrong or names no files, a value in the files is wrong, the dataset is there and
            `overwrite` is not set, or the cluster failed.
    """
    dataset_id = params["dataset_id"]
    root = Path(data_root if data_root is not None else params["data_root"])
    where = f"dataset {dataset_id!r}"
    form = form_of(params) if not frames else "samples"
    _check_engine(engine, ray_address, form, where)
    if form == "built":
        remedy = " ".join(params.get("obtain", "see docs/own_data.md for one that does").split())
        raise ConfigError(
            f"{where}: synthetic: the entry has no such block, nor does it name files (`train_data` with `data_format` "
            f"csv or parquet, or `interactions`), so the dataset cannot be built from it. {remedy}"
        )
    check_dataset_id(dataset_id)
    make_folder(root)
    if form == "synthetic":
        build_synthetic(
            SyntheticSpec.from_dict(params["synthetic"], where=f"{where}: synthetic"),
            dataset_id=dataset_id,
            data_root=root,
            feature_cols=params["feature_cols"],
            label_col=params["label_col"],
            overwrite=overwrite,
        )
        return Store.open(root, dataset_id)
    entry = Entry.of(params, frames)
    folder = folder_name(root, dataset_id)
    try:
        with ray_at(ray_address) if engine == "ray" else contextlib.nullcontext() as ray:
            _build(entry, root, folder, overwrite=overwrite, ray=ray)
    except DataError as error:
        if params.get("obtain") and "does not exist" in str(error):
            raise DataError(f"{error}. {' '.join(params['obtain'].split())}") from None
        raise
    return Store.open(root, folder)


def open_or_build(params: Mapping[str, Any], *, slots: int = 0) -> Store:
    """Open the dataset of a run's parameters; build it first where it is missing and its entry says how.

    Args:
        params: of the run.
        slots: history slots of the dataset's own entry. A run that reads fewer builds it with these, for other runs.

    Raises:
        InputError: the data is missing (with the entry's `obtain` text), or what is there was built from another entry.
    """
    root, dataset_id = Path(params["data_root"]), params["dataset_id"]
    form, verify = form_of(params), params.get("verify", "auto")
    folder = dataset_id if form in ("built", "synthetic") else folder_name(root, dataset_id)
    missing = not is_there(root / folder)
    if form == "built":
        if missing and params.get("obtain"):
            raise DataError(f"dataset {dataset_id!r} is not in {root}. {' '.join(params['obtain'].split())}")
        if missing and (problem := unread_format(params)):
            raise ConfigError(f"dataset {dataset_id!r} is not in {root}{problem}")
        return _opened(root, folder, verify)
    if missing:
        check_dataset_id(folder)
        make_folder(root)
        # Of several runs that start together, one builds and the others wait.
        lock = root / f".{folder}.request.lock"
        with locked(lock):
            try:
                # There already: of another run, or a build that was killed while it replaced it.
                with contextlib.suppress(StoreExistsError):
                    if not is_there(root / folder):
                        build_entry(_with_slots(params, slots))
            finally:
                # Who waits for it takes the file of this name that comes next.
                with contextlib.suppress(OSError):
                    lock.unlink()
    store = _opened(root, folder, verify)
    if form == "synthetic":
        where = f"dataset {dataset_id!r}: synthetic"
        _refuse_another_spec(store, SyntheticSpec.from_dict(params["synthetic"], where=where))
    else:
        check_unchanged(store, Entry.of(params))
    return store


def _with_slots(params: Mapping[str, Any], slots: int) -> Mapping[str, Any]:
    """A run's parameters with at least so many history slots, where they set any."""
    own = params.get("max_len")
    return params if own is None or own >= slots else {**params, "max_len": slots}


def _opened(root: Path, folder: str, verify: Any) -> Store:
    """The dataset; of the processes of a machine that train together, one compares its files with their checksums."""
    here = launched()
    with contextlib.ExitStack() as held:
        if here.local_world_size > 1:
            with contextlib.suppress(DataError):
                held.enter_context(locked(root / f".{folder}.verify.lock"))
            if verify == "full" and here.local_rank:
                verify = "auto"
        return Store.open(root, folder, verify=verify)


def check_columns(params: Mapping[str, Any]) -> None:
    """Check the columns of a run's dataset, before anything is built.

    Raises:
        ConfigError: a column is wrong.
    """
    form = form_of(params)
    if form in ("built", "synthetic"):
        check_feature_cols(params["feature_cols"], f"dataset {params['dataset_id']!r}")
    elif form != "prepared":
        _ = Entry.of(params).columns


def is_flat(params: Mapping[str, Any]) -> bool:
    """Whether a run's dataset has no items, by its entry."""
    return form_of(params) in ("flat", "prepared")


def folder_name(data_root: Path, dataset_id: str) -> str:
    """Name of the dataset's folder: the dataset_id, or `<dataset_id>_h5` where other files are in that folder."""
    folder = data_root / dataset_id
    if not folder.is_dir() or (folder / MANIFEST_NAME).is_file():
        return dataset_id
    try:
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return dataset_id
    # A build may have replaced the folder between these looks at it.
    if MANIFEST_NAME in names:
        return dataset_id
    taken = FEATURE_MAP in names or any(not name.endswith(".h5") and name not in _OURS for name in names)
    return f"{dataset_id}{BESIDE}" if taken else dataset_id


def _check_engine(engine: str, ray_address: str | None, form: str, where: str) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is not known. {did_you_mean(engine, ENGINES)}")
    if ray_address is not None and engine != "ray":
        raise ConfigError(f"--ray-address is for --engine ray, not {engine}")
    if engine == "ray" and form in ("synthetic", "prepared"):
        what = "generated" if form == "synthetic" else "encoded by FuxiCTR already"
        raise ConfigError(
            f"{where}: --engine ray encodes a log of events or samples that are ready, but these are {what}: leave out "
            "--engine"
        )


def _build(entry: Entry, root: Path, folder: str, *, overwrite: bool, ray: Any) -> None:
    # What builds is imported where it is needed: a run that finds its dataset starts without it.
    options: dict[str, Any] = {"data_root": root, "recipe": recipe_of(entry), "overwrite": overwrite}
    entry = replace(entry, dataset_id=folder)
    if entry.form == "log":
        from fuxictr_multimodal.data.entry.log.dataset import build_log

        build_log(entry, **options, ray=ray)
    elif entry.form == "prepared":
        from fuxictr_multimodal.data.entry.prepared import build_prepared

        build_prepared(entry, **options)
    else:
        from fuxictr_multimodal.data.entry.samples.dataset import build_samples

        build_samples(entry, **options, ray=ray)


def _refuse_another_spec(store: Store, spec: SyntheticSpec) -> None:
    """A report must not state sizes and a seed that the data does not have."""
    found = spec_of(store.manifest.recipe)
    remedy = (
        f"remove the folder {store.place} to generate it again, or keep it and generate the other one elsewhere "
        "with --set data_root=FOLDER or under another dataset_id"
    )
    if found is None:
        raise DataError(f"{store.place} is not a synthetic dataset, but its entry has a `synthetic:` block: {remedy}")
    there, wanted = found.model_dump(), spec.model_dump()
    differs = {name: value for name, value in wanted.items() if there[name] != value}
    if differs:
        told = ", ".join(f"{name}: {there[name]} there, {value} configured" for name, value in differs.items())
        as_it_is = " ".join(f"--set synthetic.{name}={there[name]}" for name in differs)
        raise DataError(
            f"{store.place} was generated by another `synthetic:` block ({told}): {remedy}; {as_it_is} reads it "
            "as it is"
        )
