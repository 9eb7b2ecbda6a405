"""Write a dataset: validate, append in chunks, check the splits, commit in one step.

Samples are written to `<data_root>/.<dataset_id>.building/` under a file lock; one rename completes the build. Memory
holds one chunk of 65,536 samples a split, the piece that the caller appends, the item table, and the distinct values
of the columns that `finish` compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from fuxictr_multimodal.config.names import check_dataset_id
from fuxictr_multimodal.data.store import integrity, item_rows, validation
from fuxictr_multimodal.data.store.disk_columns import DiskColumns
from fuxictr_multimodal.data.store.encoding import FEATURE_MAP_NAME, FEATURE_VOCAB_NAME, StoreFeatureProcessor
from fuxictr_multimodal.data.store.feature_cols import check_feature_cols, check_label_col, check_roles
from fuxictr_multimodal.data.store.h5_writer import write_item_file
from fuxictr_multimodal.data.store.id_columns import IdColumns
from fuxictr_multimodal.data.store.ids import IDS_FOLDER, IdMap
from fuxictr_multimodal.data.store.item_rows import order_items
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, SPLITS, Manifest, as_json
from fuxictr_multimodal.data.store.number_scales import NumberScales
from fuxictr_multimodal.data.store.promises import Promises
from fuxictr_multimodal.data.store.reader import ITEM_FILE, TITLES_FILE
from fuxictr_multimodal.data.store.row_encoder import EncodedRows, RowEncoder, SplitRows
from fuxictr_multimodal.data.store.split_builder import SplitBuilder, is_given
from fuxictr_multimodal.data.store.staging import Staging, StoreExistsError
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.files import sha256

__all__ = ["StoreBuilder", "StoreExistsError", "order_items"]

_FILES = (MANIFEST_NAME, FEATURE_MAP_NAME, FEATURE_VOCAB_NAME, ITEM_FILE, TITLES_FILE, IDS_FOLDER)
STORE_NAMES = frozenset({*_FILES, *SPLITS, *(f"{split}.h5" for split in SPLITS)})
NO_FOLDS: Mapping[str, np.ndarray] = MappingProxyType({})


class StoreBuilder:
    """Builds `<data_root>/<dataset_id>`; use it in a `with` block.

    Call `fit` (only where columns come raw), `write_items` once (not without items), `append` often, `finish` once. If
    the block ends without `finish`, or by an exception, nothing is left on disk.

    Args:
        dataset_id: name of the dataset and its folder.
        data_root: folder of the datasets.
        feature_cols: FuxiCTR's columns. Those with `source: item` go to the item table, the others and the label
            to the splits. A column without `vocab_size` comes raw; that of `item_col` is known from the item table.
        label_col: FuxiCTR's label column.
        max_len: maximum number of items in a history; not read without items.
        group_id: column of grouped metrics, or None.
        item_col: the item's own id; also the target column of a split. None for a flat dataset: without items and
            histories, every column in the splits.
        weight_col: column of the weights of samples in the loss, or None.
        behaviours: names of the further kinds of history, such as carts beside clicks.
        recipe: arguments of the caller, kept in the manifest as JSON.
        sources: raw files by name; their SHA-256 goes into the manifest.
        overwrite: replace an existing dataset.
        rows_per_part: maximum number of rows in one file of a split.
        progress: show progress on stderr.

    Raises:
        ConfigError: the columns are wrong.
    """

    def __init__(
        self,
        *,
        dataset_id: str,
        data_root: str | Path,
        feature_cols: Sequence[Mapping[str, Any]],
        label_col: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        recipe: Mapping[str, Any],
        max_len: int | None = None,
        group_id: str | None = "user_id",
        item_col: str | None = "item_id",
        weight_col: str | None = None,
        behaviours: Sequence[str] = (),
        sources: Mapping[str, str | Path] | None = None,
        overwrite: bool = False,
        rows_per_part: int = 8_000_000,
        progress: bool = True,
    ) -> None:
        self._where = where = f"dataset {dataset_id!r}"
        check_dataset_id(dataset_id)
        slots = 0 if item_col is None else max_len
        for name, value, least in (("max_len", slots, int(item_col is not None)), ("rows_per_part", rows_per_part, 1)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{where}: {name} must be an integer of at least 1, not {value!r}")
        self.dataset_id = dataset_id
        self._label_col = check_label_col(label_col, where)
        self._feature_cols = [column for column in check_feature_cols(feature_cols, where) if column["active"]]
        check_roles(
            self._feature_cols,
            label=self._label_col["name"],
            item_col=item_col,
            group_id=group_id,
            where=where,
            weight_col=weight_col,
            behaviours=behaviours,
        )
        self._max_len = slots or 0
        self._group_id = group_id
        self._item_col = item_col
        self._weight_col = weight_col
        self._behaviours = tuple(behaviours)
        self._recipe = as_json(recipe) or {}
        self._sources = {name: Path(path) for name, path in (sources or {}).items()}
        self._rows_per_part = rows_per_part
        self._progress = progress
        self._staging = Staging(Path(data_root) / dataset_id, overwrite=overwrite, owned=STORE_NAMES)

        self._train_rows: pl.DataFrame | pl.LazyFrame | None = None
        self._item_counts: NDArray[np.integer] | None = None
        self._processor: StoreFeatureProcessor | None = None
        self._columns: DiskColumns
        self._ids = IdColumns(self._feature_cols, item_col=item_col, where=self._where)
        self._scales = NumberScales(self._feature_cols)
        self._splits: dict[str, SplitBuilder] = {}
        self._bar: tqdm
        self._finished = False

    @property
    def dir(self) -> Path:
        """Where the dataset is being built."""
        return self._staging.dir

    def __enter__(self) -> StoreBuilder:
        """Wait for another build of this dataset, take the lock, and create an empty folder.

        Raises:
            StoreExistsError: the dataset is there and `overwrite` is not given.
            DataError: its folder holds files that are not of a dataset, or a source is missing.
        """
        for name, path in self._sources.items():
            if not path.is_file():
                raise DataError(f"{self._where}: source {name!r} does not exist: {path}")
        self._staging.__enter__()
        self._bar = tqdm(desc=f"rows of {self.dataset_id}", unit=" rows", unit_scale=True, disable=not self._progress)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._bar.close()
            for split in self._splits.values():
                split.abandon()
        finally:
            self._staging.__exit__()
        if kind is None and not self._finished:
            raise RuntimeError(f"{self._where}: the build ended without finish(): nothing was written")

    def fit(
        self, train_rows: pl.DataFrame | pl.LazyFrame | None, item_counts: NDArray[np.integer] | None = None
    ) -> None:
        """Set the training rows on which FuxiCTR fits the raw columns in `write_items`; not needed if there are none.

        Args:
            train_rows: columns of the training samples, joined with the raw item features where `item_counts` is not
                given.
            item_counts: how often each item is the target of a training sample, (items,), 0 for the padding. Raw item
                features are then fitted on the item table itself, to the same result as on joined samples.
        """
        assert self._processor is None, "fit comes before write_items"
        self._train_rows, self._item_counts = train_rows, item_counts

    def write_ids(self, ids: Mapping[str, IdMap]) -> None:
        """Keep what the codes of columns stand for: of the item column, of meta columns, of encoded categories.

        Called before the first `append` that has such codes. Meta columns of `dtype: str` may come as texts instead;
        they are then numbered here, in the order in which they come.

        Raises:
            DataError: there is no such column, it was numbered already, or an id has no place for padding.
        """
        self._ids.add(ids)

    def write_items(
        self,
        columns: Mapping[str, np.ndarray] | None,
        *,
        titles: Sequence[str] | None = None,
        folds: Mapping[str, np.ndarray] = NO_FOLDS,
    ) -> None:
        """Write the item table: arrays of equal length by name; row i is item i, row 0 is padding.

        The column of `item_col` may be omitted. Raw columns are encoded by the fitted processor. `titles` are shown to
        people, one per row; no model reads them. `folds` are values of embeddings for each of K folds of users, (items,
        K, d) by name; rows of splits then have a column `item_fold`: 0, none, to K. A flat dataset has no item table:
        None, or no call.

        Raises:
            DataError: a column is missing or of a wrong dtype or shape, an id is out of range, an embedding is not
                finite, row 0 is not all zero, or there are more or fewer titles than items.
        """
        assert self._processor is None, "write_items is called once"
        if columns is None:
            assert self._item_col is None, "only a flat dataset has no items"
            self._fit_columns(rows=1)
            return
        assert self._item_col is not None, "a flat dataset has no items"
        where = ITEM_FILE
        specs = [column for column in self._feature_cols if column.get("source") == "item"]
        own = next(column for column in specs if column["name"] == self._item_col)
        rows = item_rows.complete_sizes(columns, specs, own, titles=titles, where=where)
        self._ids.check_items(rows)
        processor = self._fit_columns(rows, columns, folds)
        data = item_rows.encoded_items(columns, specs, columns_on_disk=self._columns, processor=processor, where=where)
        self._scales.add({name: values[1:] for name, values in data.items()})
        data |= item_rows.folded_items(folds, columns_on_disk=self._columns, where=where)
        write_item_file(self.dir / ITEM_FILE, [*self._columns.of_items(), *self._columns.of_folds()], data)
        item_rows.write_titles(self.dir, titles)

    def _fit_columns(
        self, rows: int, items: Mapping[str, np.ndarray] | None = None, folds: Mapping[str, np.ndarray] = NO_FOLDS
    ) -> StoreFeatureProcessor:
        """Fit the raw columns; `rows` is the number of rows of the item table `items`."""
        processor = StoreFeatureProcessor(
            feature_cols=self._feature_cols,
            label_col=self._label_col,
            dataset_id=self.dataset_id,
            data_dir=self.dir,
            group_id=self._group_id,
        )
        counts = None if items is None else self._item_counts
        if counts is not None:
            counts = validation.as_counts(counts, rows=rows, where=self._where)
        processor.fit(self._train_rows, items=items, item_counts=counts)
        self._processor, self._train_rows = processor, None
        self._columns = DiskColumns(
            feature_cols=self._feature_cols,
            features=processor.feature_map.features,
            label=self._label_col["name"],
            item_col=self._item_col,
            items=rows,
            weight=self._weight_col,
            folds=next((values.shape[1] for values in folds.values()), 0),
            folded=frozenset(folds),
        )
        return processor

    def append(
        self,
        split: str,
        columns: Mapping[str, np.ndarray],
        history_values: np.ndarray | None = None,
        history_offsets: np.ndarray | None = None,
        *,
        events: Mapping[str, np.ndarray] | None = None,
        behaviours: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Append rows to a split: any number of rows, any number of calls.

        Args:
            split: `train`, `valid` or `test`.
            columns: context and meta columns, the event features of the target, the target under the name of
                `item_col`, the weight (which `valid` and `test` may lack, in every call) and the label (which `test`
                may lack, in every call), each (rows, ...).
            history_values: item ids of all rows end to end, newest last in a row, (N,). None in a flat dataset.
            history_offsets: row b owns values `history_offsets[b]` to `history_offsets[b + 1]`, (rows + 1,).
            events: the event features of the history's items by name, each (N,).
            behaviours: values, offsets and events of each further history, such as `JaggedArrays`.

        Raises:
            DataError: a column or a value is wrong; nothing of these rows is written.
        """
        if split not in SPLITS:
            raise DataError(f"{self._where}: split {split!r} is unknown. {did_you_mean(split, SPLITS)}")
        rows = SplitRows(split, columns, history_values, history_offsets, events, behaviours)
        self._check_given(split, columns)
        self._write(self.encoder.encoded(rows, first_row=self._first(split), numbered=self._ids.numbered))

    @property
    def encoder(self) -> RowEncoder:
        """Encodes rows in any process, with what is fitted; after `write_items`."""
        if self._item_col is None and self._processor is None:
            self._fit_columns(rows=1)
        assert self._processor is not None, "write_items comes before append"
        return RowEncoder(self._columns, self._processor, self._behaviours, self._max_len, self._ids.growing)

    def append_encoded(self, rows: EncodedRows) -> None:
        """Append rows that `encoder` encoded apart, in another process; see `append`."""
        self._check_given(rows.split, rows.data)
        for name, texts in rows.texts.items():
            codes = self._ids.numbered(name, texts)
            own = rows.data[name]
            rows.data[name] = np.where(own < 0, own, codes[own]) if len(codes) else own
        self._write(rows)

    def _check_given(self, split: str, columns: Mapping[str, Any]) -> None:
        """Refuse rows that lack a label or a weight which earlier ones of the split have, or have one more."""
        where, state = f"{split}.h5", self._splits.get(split)
        is_given(self._label_col["name"], columns, required=split != "test", split=state, where=where)
        is_given(self._weight_col, columns, required=split == "train", split=state, where=where)

    def _first(self, split: str) -> int:
        return self._splits[split].rows if split in self._splits else 0

    def _write(self, rows: EncodedRows) -> None:
        split, first = rows.split, self._first(rows.split)
        for name in (column.name for column in rows.columns if column.role == "meta"):
            self._ids.check_codes(name, rows.data[name], where=f"{split}.h5", first_row=first)
        if split not in self._splits:
            self._splits[split] = SplitBuilder(
                folder=self.dir / split,
                columns=rows.columns,
                rows_per_part=self._rows_per_part,
                items=self._columns.items,
                max_len=self._max_len,
                group_id=self._group_id,
                events=[column.name for column in self._columns.of_events()],
                behaviours=self._behaviours,
            )
        self._splits[split].append(rows.data, rows.history, rows.behaviours)
        if split == "train":
            self._scales.add(rows.data)
        self._bar.update(rows.rows)

    def finish(
        self,
        *,
        split_method: str,
        negative_sampling: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        disjoint: Sequence[str] = (),
        ordered_by: str | None = None,
        ordered_within: str | None = None,
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Manifest:
        """Check the splits, write the manifest, move the dataset to its place and print its statistics.

        Args:
            split_method: how the samples were split, in words.
            negative_sampling: ratio, pool and seed of sampled negatives.
            facts: any other metadata, as JSON.
            disjoint: columns of which no value may occur in two splits.
            ordered_by: meta column of times: no row may be older than one of an earlier split.
            ordered_within: compare times only within each value of this column.
            encoders: how the caller encoded columns by name, as JSON; kept among the manifest's `normalizers`.

        Raises:
            DataError: a split is empty or has a single class, `disjoint` columns share a value, or times are not in
                order.
        """
        for split in ("train", "valid", *self._splits):
            if split not in self._splits or not self._splits[split].rows:
                raise DataError(f"{split}.h5: the split is empty")
        assert self._processor is not None, "write_items comes before finish"
        splits = {split: self._splits[split] for split in SPLITS if split in self._splits}
        for state in splits.values():
            state.close()
        self._bar.close()
        promises = Promises(disjoint=disjoint, ordered_by=ordered_by, ordered_within=ordered_within)
        promises.check({split: self.dir / split for split in splits}, self._ids, where=self._where)
        self._ids.write(self.dir)
        self._scales.warn(where=self._where)
        paths = {path.relative_to(self.dir).as_posix(): path for path in sorted(self.dir.rglob("*")) if path.is_file()}
        hashed_at = integrity.stats_of(self.dir, paths)
        manifest = Manifest(
            dataset_id=self.dataset_id,
            max_len=self._max_len,
            group_id=self._group_id,
            item_col=self._item_col,
            splits={split: state.counts() for split, state in splits.items()},
            columns=splits["train"].columns,
            item_columns=[*self._columns.of_items(), *self._columns.of_folds()],
            items=self._columns.items,
            split_method=split_method,
            negative_sampling=as_json(negative_sampling),
            feature_cols=self._feature_cols,
            label_col=self._label_col,
            normalizers={**self._processor.normalizers, **(as_json(encoders) or {})},
            sources=self._hashes(self._sources, "sources"),
            files=self._hashes(paths, "files"),
            recipe=self._recipe,
            facts=as_json(facts) or {},
            behaviours=list(self._behaviours),
            event_columns=self._columns.of_events(),
            ids=self._ids.names,
        )
        manifest.write(self.dir)
        self._staging.commit()
        integrity.write_record(self._staging.final_dir, manifest.files, hashed_at)
        self._finished = True
        print(manifest.table())
        return manifest

    def _hashes(self, paths: Mapping[str, Path], what: str) -> dict[str, str]:
        bar = tqdm(paths.items(), desc=f"checksums of {what}", disable=not self._progress or not paths, leave=False)
        return {name: sha256(path) for name, path in bar}
