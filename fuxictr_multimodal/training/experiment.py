"""Objects of an experiment: checked parameters, the dataset, the model with its item table, and loaders."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.config.expids import (
    check_model_keys,
    check_params,
    give_way,
    load_config,
    load_dataset_config,
    load_model_config,
    shared_keys,
)
from fuxictr_multimodal.config.identity import RAW_FILES, computed
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.run_settings import RunSettings
from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.entry.build import check_columns, is_flat, open_or_build
from fuxictr_multimodal.data.entry.entry import MAX_LEN
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.gpus import check_gpus
from fuxictr_multimodal.system.ranks import current
from fuxictr_multimodal.training.find_runs import run_name
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.resume import named_keys, own_settings
from fuxictr_multimodal.training.run_names import RunFiles, settings_given
from fuxictr_multimodal.zoo.histories import keep_events, name_histories
from fuxictr_multimodal.zoo.models import ZooModel, resolve

# FuxiCTR's models end in a KeyError where a run does not set these; the values are the documented defaults.
FUXICTR_NEEDS = {key: RunSettings.model_fields[key].default for key in ("verbose", "optimizer", "loss", "task")}


@dataclass(frozen=True)
class Experiment:
    """Checked parameters of one run and the dataset that it reads."""

    params: dict[str, Any]
    zoo_model: ZooModel
    store: Store
    expid: str = ""

    @classmethod
    def load(
        cls,
        config_dir: Path,
        expid: str,
        *,
        gpu: int = -1,
        seed: int | None = None,
        overrides: Sequence[str] = (),
        name: str | None = None,
        reading: bool = True,
    ) -> Experiment:
        """Read and check an expid, and open its dataset (built first where it is synthetic and missing).

        Args:
            config_dir: folder of the configs.
            expid: the experiment.
            gpu: index of the GPU, -1 for the CPU.
            seed: of the command line.
            overrides: `key=value`.
            name: of the run, where it has one of its own.
            reading: whether a trained run is meant, or one to train; see `run_name`.

        Raises:
            InputError: whatever is wrong with the configuration or the data.
        """
        check_gpus([gpu])
        if name is not None:
            # Before anything is built for a run that cannot be.
            check_plain_name(name, "--name")
        params = load_config(config_dir, expid, overrides=overrides, seed=seed)
        params["gpu"] = gpu
        directory = Path(params["model_root"]) / params["dataset_id"]
        own = False
        if name is not None and reading:
            files = RunFiles(directory, run_name(directory, params, expid=expid, seed=seed, name=name))
            if own := files.report.is_file():
                params = resumed_params(Report.read(files.report), params, named_keys(overrides, seed))
        try:
            dataset = load_dataset_config(config_dir, params["dataset_id"])
            experiment = cls.of(params, expid, slots=dataset.get("max_len") or MAX_LEN)
        except DataError as error:
            if own:
                raise DataError(f"run {name!r} keeps the dataset entry that it was trained with: {error}") from None
            raise
        plain = params
        if overrides:
            entry = load_model_config(config_dir, expid)
            plain = {**dataset, **give_way(entry, shared_keys(config_dir, expid), dataset)}
        params["model_id"] = run_name(
            directory,
            params,
            expid=expid,
            seed=seed,
            given=settings_given(params, plain),
            name=name,
            reading=reading,
        )
        return experiment

    @classmethod
    def of(cls, params: dict[str, Any], expid: str, *, slots: int = 0) -> Experiment:
        """Check parameters against the model, and open the dataset that they name; see `open_or_build` for `slots`."""
        zoo_model = resolve(params["model"], zoo_root=params.get("zoo_root"), flat=is_flat(params))
        check_model_keys(params, zoo_model.model_class)
        check_columns(params)
        return cls(params, zoo_model, open_or_build(params, slots=slots), expid)

    @property
    def run(self) -> str:
        """Name of the run; see `run_name`."""
        return self.params["model_id"]

    @property
    def files(self) -> RunFiles:
        """The files of the run."""
        return RunFiles(self.directory, self.run)

    @property
    def directory(self) -> Path:
        """Where the run's files go: `<model_root>/<dataset_id>`."""
        return Path(self.params["model_root"]) / self.params["dataset_id"]

    @property
    def max_len(self) -> int:
        """History slots of the model: the experiment's, or the dataset's."""
        return self.params.get("max_len") or self.store.manifest.max_len

    def feature_map(self) -> FeatureMap:
        """FuxiCTR's feature map of the dataset, with the features that this expid chooses."""
        # FuxiCTR computes widths from the parameter alone; a model has a default of its own.
        own = inspect.signature(self.zoo_model.model_class).parameters.get("embedding_dim")
        default = {"embedding_dim": own.default} if own is not None and isinstance(own.default, int) else {}
        feature_map = self.store.read(
            lambda folder: load_feature_map(folder, self.store.manifest.dataset_id, {**default, **self.params})
        )
        name_histories(feature_map, self.store.manifest)
        keep_events(feature_map, self.params.get("event_features"))
        feature_map.without_items = self.store.manifest.item_col is None
        return feature_map

    def _check_group(self) -> None:
        name, columns = self.params.get("group_id"), [column.name for column in self.store.manifest.columns]
        if name is not None and name not in columns:
            raise ConfigError(
                f"group_id {name!r} is no column of {self.store.place}. {did_you_mean(name, columns)} Name one in the "
                "dataset's entry, or set `group_id: null` there and leave grouped metrics out of `metrics`"
            )

    def item_table(self, feature_map: FeatureMap, device: Any) -> ItemTable:
        """The item table of the dataset on a device: the features with `source: item`."""
        if self.store.manifest.item_col is None:
            return ItemTable.without_items(device)
        return self.store.read(lambda folder: ItemTable.from_store(folder, device=device, feature_map=feature_map))

    def build_model(
        self, feature_map: FeatureMap, *, item_table: Callable[[Any], ItemTable] | None = None
    ) -> tuple[BaseModel, Callable[[Batch], Any]]:
        """Construct the model; return it with the function that turns a `Batch` into what its `forward` reads.

        Args:
            feature_map: of the dataset.
            item_table: makes the item table on a device, for a caller that wants to hold it too.
        """
        if item_table is None:

            def item_table(device: Any) -> ItemTable:
                return self.item_table(feature_map, device)

        if self.params.get("note"):
            logging.info("Note on this experiment: %s", self.params["note"])
        params = {**FUXICTR_NEEDS, **self.params, "max_len": self.max_len}
        model, to_inputs = self.zoo_model.build(feature_map, item_table, params)
        if hasattr(model, "read_splits"):
            splits = (self.split_loader(split, feature_map, model.device) for split in ("train", "valid"))
            model.read_splits(*splits)
        return model, to_inputs

    def split_loader(
        self, split: str, feature_map: FeatureMap, device: Any, *, shuffle: bool = False
    ) -> MultimodalDataLoader:
        """One split in stored order, which may lack labels; with `shuffle` in the order of training, with labels.

        Raises:
            DataError: there is no such split.
        """
        path = self.store.split_path(split)
        if path is None:
            raise DataError(
                f"{self.store.place} has no split {split!r}. {did_you_mean(split, self.store.manifest.splits)}"
            )
        names = ("batch_size", "max_len", *(("seed", "shuffle_window") if shuffle else ()))
        return MultimodalDataLoader(
            feature_map,
            path,
            split="train" if shuffle else "test",
            shuffle=shuffle,
            mode=self.params.get("loader_mode", "auto"),
            device=device,
            store=self.store,
            **{name: self.params[name] for name in names if name in self.params},
        )

    def loaders(self, stage: str, feature_map: FeatureMap, device: Any) -> Any:
        """`RankDataLoader` of FuxiCTR over our loader: `train` gives (train, valid), `test` gives test.

        Of several processes that train together each has its share of the rows.
        """
        names = ("batch_size", "shuffle", "max_len", "seed", "shuffle_window")
        given = {name: self.params[name] for name in names if name in self.params}
        paths = {f"{split}_data": self.store.split_path(split) for split in ("train", "valid", "test")}
        return RankDataLoader(
            feature_map,
            stage=stage,
            data_loader=MultimodalDataLoader,
            mode=self.params.get("loader_mode", "auto"),
            device=str(device),
            store=self.store,
            ranks=current(),
            **given,
            **{name: str(path) for name, path in paths.items() if path is not None},
        )


def resumed_params(before: Report, params: Mapping[str, Any], named: Collection[str]) -> dict[str, Any]:
    """Parameters of a run that is there: what it computes is its own, where and how it runs is the command's.

    Args:
        before: the report of the run.
        params: as the command and the YAML say.
        named: keys that the command line names; see `own_settings`.

    Raises:
        ConfigError: the report holds a setting that no configuration may have.
    """
    asked = computed(params)
    own = own_settings(computed(before.config), asked, named)
    # In the order of the command's parameters.
    found = {key: value for key, value in params.items() if key in own or key not in asked} | own
    # Raw files lie where the command says.
    found |= {key: params[key] for key in RAW_FILES if key in found and key in params}
    if "interactions" in found and isinstance(log := params.get("interactions"), Mapping):
        found["interactions"] = {**found["interactions"], "file": log.get("file")}
    # A report may come from elsewhere, and FuxiCTR evaluates some settings.
    check_params(found, f"the report of run {before.run!r}")
    return found
