"""FuxiCTR's `FeatureProcessor` behind checks: fits vocabularies, writes the feature map, encodes raw columns.

A column with `vocab_size` is already encoded; FuxiCTR fits the others on training rows. The vocabularies and the codes
are FuxiCTR's own; only quantile and hash buckets, which do not work there, are ours (`buckets.py`). Input that FuxiCTR
would crash on, or evaluate as code, is refused first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fuxictr.preprocess import FeatureProcessor

from fuxictr_multimodal.data.store.buckets import bucket_codes, bucket_tokens, fit_buckets, is_bucketed
from fuxictr_multimodal.data.store.feature_cols import check_feature_cols, check_label_col, is_fitted, text_categories
from fuxictr_multimodal.data.store.fit_statistics import number_statistics, weighted_statistics
from fuxictr_multimodal.data.store.token_codes import TokenCodes
from fuxictr_multimodal.data.store.vocabulary_file import write_vocabularies
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.writing import writing

# FuxiCTR's values in place of missing ones, where a column has no `fill_na`.
FILL_NA = {"str": "", "int": 0, "float": 0.0}
TYPES_OF_NOTHING: dict[str, pl.DataType] = {"int": pl.Int64(), "float": pl.Float64(), "str": pl.String()}
FEATURE_MAP_NAME = "feature_map.json"
FEATURE_VOCAB_NAME = "feature_vocab.json"


class StoreFeatureProcessor(FeatureProcessor):
    """FuxiCTR's processor for a dataset: encoded and fitted columns side by side, no pickle.

    Args:
        feature_cols: FuxiCTR's columns; `item_id` and embeddings need `vocab_size` and `pretrain_dim` here.
        label_col: FuxiCTR's label column.
        dataset_id: name of the dataset.
        data_dir: folder for `feature_map.json` and `feature_vocab.json`.
        group_id: column of grouped metrics.

    Attributes:
        normalizers: after `fit`, for the manifest: statistics of each normalised numeric column, and the boundaries or
            the number of buckets of each bucketed one.
        text_categories: categories of whole numbers whose tokens are text; see `feature_cols.text_categories`.
    """

    def __init__(
        self,
        *,
        feature_cols: Sequence[Mapping[str, Any]],
        label_col: Mapping[str, Any],
        dataset_id: str,
        data_dir: str | Path,
        group_id: str | None = None,
    ) -> None:
        checked = check_feature_cols(feature_cols, f"dataset {dataset_id!r}")
        super().__init__(
            feature_cols=checked,
            label_col=check_label_col(label_col, f"dataset {dataset_id!r}"),
            dataset_id=dataset_id,
            data_root=str(Path(data_dir).parent),
            group_id=group_id,
        )
        self.feature_cols: list[dict[str, Any]]
        self.label_cols: list[dict[str, Any]]
        # FuxiCTR derives its paths from the dataset's name; a build happens in another folder.
        self.data_dir = self.feature_map.data_dir = str(data_dir)
        self.json_file = str(Path(data_dir) / FEATURE_MAP_NAME)
        self.vocab_file = str(Path(data_dir) / FEATURE_VOCAB_NAME)
        self.normalizers: dict[str, dict[str, Any]] = {}
        self.rebuild_dataset = False
        self._statistics: dict[str, dict[str, Any]] = {}
        self._codes: dict[str, TokenCodes] = {}
        self.text_categories = text_categories(self.feature_cols)
        self._check_shared()

    @property
    def fitted_cols(self) -> list[dict[str, Any]]:
        """Columns that arrive raw and are fitted on training rows."""
        return [column for column in self.feature_cols if is_fitted(column)]

    def fit(
        self,
        train_rows: pl.DataFrame | pl.LazyFrame | None = None,
        *,
        items: Mapping[str, Any] | None = None,
        item_counts: np.ndarray | None = None,
    ) -> None:
        """Fit the raw columns, then write `feature_map.json` and `feature_vocab.json`.

        Args:
            train_rows: training rows; it must hold the raw columns, and may be None where every column comes encoded.
                A column's `min_categr_count` is the least count of its categories.
            items: columns of the item table, the raw ones among them. Without `item_counts`, item features are columns
                of `train_rows`.
            item_counts: how often each item is the target of a training row, (items,).

        Raises:
            DataError: a raw column is missing, of the wrong dtype, or has nothing to fit.
        """
        fitted = self.fitted_cols
        of_items = [column for column in fitted if item_counts is not None and column.get("source") == "item"]
        names = {column["name"] for column in of_items}
        of_rows = [column for column in fitted if column["name"] not in names]
        needed = [column for column in of_rows if column.get("category_processor") != "hash_bucket"]
        if needed and train_rows is None:
            raise DataError(
                f"dataset {self.feature_map.dataset_id!r}: column {needed[0]['name']!r} is raw (it has no "
                f"vocab_size, or a normalizer): pass training rows with it to fit, or set its vocab_size"
            )
        rows = item_rows = None
        if needed:
            assert train_rows is not None
            rows = self._raw_rows(train_rows.lazy(), needed, "training rows")
            if rows.head(1).collect().is_empty():
                raise DataError("there are no training rows to fit the raw columns on")
        if of_items:
            assert items is not None
            assert item_counts is not None
            there = [name for name in names if name in items]
            item_rows = self._raw_rows(raw_frame(items, there).lazy(), of_items, "item.h5").collect()
            if not item_counts.any():
                raise DataError("there are no training rows to fit the raw columns of the items on: all counts are 0")
        for column in filter(is_bucketed, fitted):
            name = column["name"]
            if name in names:
                assert item_rows is not None
                state = fit_buckets(column, item_rows[name], item_counts)
            else:
                values = None if rows is None or column not in needed else rows.select(name).collect()[name]
                state = fit_buckets(column, values)
            self.normalizers[name] = state
        learnt = [column for column in needed if not is_bucketed(column)]
        self._statistics = {} if not learnt or rows is None else self._row_statistics(rows, learnt)
        if item_rows is not None and item_counts is not None:
            plain = [column for column in of_items if not is_bucketed(column)]
            self._statistics |= weighted_statistics(item_rows, item_counts, plain)
        self._check_statistics()
        self._codes.clear()
        # To FuxiCTR a bucketed column is an encoded one.
        with (
            self._only([self._as_encoded(column) for column in self.feature_cols], labels=self.label_cols),
            writing(Path(self.json_file)),
        ):
            super().fit(rows, rebuild_dataset=bool(self._statistics))

    def _as_encoded(self, column: dict[str, Any]) -> dict[str, Any]:
        if not is_bucketed(column):
            return column
        size = max(bucket_tokens(self.normalizers[column["name"]]).values()) + 1
        return {k: v for k, v in column.items() if k not in ("category_processor", "num_buckets")} | {
            "vocab_size": size
        }

    def transform(self, batch: Mapping[str, Any], *, where: str = "rows") -> dict[str, np.ndarray]:
        """Encode the raw columns of `batch`; columns that come encoded are returned as they are.

        Args:
            batch: arrays (or polars series) of equal length by name. A raw sequence column holds strings with the
                splitter between tokens, or lists or rows of tokens. Unknown categories get FuxiCTR's OOV id.
            where: what the rows are, for a message.

        Returns:
            int32 ids (B,) or (B, max_len) and float32 numbers (B,) for raw columns.

        Raises:
            DataError: a raw column has another dtype than declared.
        """
        raw = [column for column in self.fitted_cols if column["name"] in batch]
        encoded = {name: values for name, values in batch.items() if name not in {c["name"] for c in raw}}
        if not raw:
            return dict(encoded)
        frame = raw_frame(batch, [column["name"] for column in raw])
        rows = self._raw_rows(frame.lazy(), raw, where).collect()
        return {**encoded, **{column["name"]: self._encode(column, rows[column["name"]]) for column in raw}}

    def _encode(self, column: dict[str, Any], series: pl.Series) -> np.ndarray:
        name = column["name"]
        if is_bucketed(column):
            return bucket_codes(column, self.normalizers[name], series)
        if column["type"] == "numeric":
            if not len(series):  # scikit-learn refuses to scale nothing
                return np.empty(0, dtype=np.float32)
            numbers = series.cast(pl.Float64).to_numpy()
            # scikit-learn refuses infinity in words of its own: it stays for the check of the rows, which names it.
            infinite = np.isinf(numbers)
            values = super().transform({name: np.where(infinite, 0.0, numbers)})[name]
            with np.errstate(over="ignore"):
                return np.where(infinite, numbers, values).astype(np.float32)
        if name not in self._codes:
            integers = column["type"] == "categorical" and column["dtype"] == "int" and name not in self.text_categories
            self._codes[name] = TokenCodes(self.processor_dict[f"{name}::tokenizer"], integers=integers)
        codes = self._codes[name]
        return codes.of_sequences(series) if column["type"] == "sequence" else codes.of_categories(series)

    def fit_categorical_col(self, col: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """FuxiCTR's own; a column with `vocab_size` takes its path without rebuilding."""
        with self._encoded(col):
            super().fit_categorical_col(col, *args, **kwargs)
        state = self.normalizers.get(col["name"])
        if state is not None:
            self.processor_dict[f"{col['name']}::tokenizer"].vocab = bucket_tokens(state)

    def fit_sequence_col(self, col: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """FuxiCTR's own; a column with `vocab_size` takes its path without rebuilding."""
        with self._encoded(col):
            super().fit_sequence_col(col, *args, **kwargs)

    def fit_meta_col(self, col: dict[str, Any], stats_dict: dict[str, Any] | None) -> None:
        """FuxiCTR's own without a vocabulary: meta columns are integers that travel as they are."""
        super().fit_meta_col({**col, "remap": False}, stats_dict)

    def fit_numeric_col(self, col: dict[str, Any], stats_dict: dict[str, Any] | None = None) -> None:
        """FuxiCTR's own; the statistics of a normaliser are kept for the manifest."""
        super().fit_numeric_col(col, stats_dict)
        if "normalizer" in col and stats_dict is not None:
            self.normalizers[col["name"]] = {"normalizer": col["normalizer"], **stats_dict}

    def save_vocab(self, vocab_file: str) -> None:
        """FuxiCTR's own file, byte for byte, written faster."""
        kinds = {name: spec["type"] for name, spec in self.feature_map.features.items()}
        named = [name for name, kind in kinds.items() if kind in ("categorical", "sequence")]
        write_vocabularies(vocab_file, {name: self.processor_dict[f"{name}::tokenizer"].vocab for name in named})

    def save_pickle(self, pickle_file: str) -> None:
        """Write nothing: a dataset holds no pickle; `restore_processor` reads JSON."""

    def load_pickle(self, pickle_file: str | None = None) -> None:
        """Refuse: unpickling runs code."""
        raise DataError("a dataset has no pickled processor: use restore_processor")

    def _collect_statistics(self, *_: Any) -> dict[str, dict[str, Any]]:
        """What `fit` has collected: FuxiCTR's own statistics, and those of items."""
        return self._statistics

    def _row_statistics(self, rows: pl.LazyFrame, columns: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        with self._only(columns), warnings.catch_warnings():
            # Polars announces what polars 2, which FuxiCTR does not support, will change.
            warnings.filterwarnings("ignore", message="In Polars 2.0", category=DeprecationWarning)
            statistics = super()._collect_statistics(rows)
        for column in columns:
            if column["type"] == "numeric":
                # FuxiCTR's pass adds in the order in which its threads finish; equal input must give equal bytes.
                name = column["name"]
                values = rows.select(pl.col(name).drop_nulls().cast(pl.Float64)).collect()[name].to_numpy()
                exact = number_statistics(values)
                statistics[name] |= {"mean": exact["mean"], "std": exact["std"]}
        return statistics

    def _check_statistics(self) -> None:
        """Refuse what FuxiCTR's tokenizer and normaliser would crash on."""
        for column in self.feature_cols:
            found, name = self._statistics.get(column["name"]), column["name"]
            if found is None:
                continue
            if column["type"] == "numeric":
                if not found["count"] or not np.isfinite([found[key] for key in ("min", "max", "mean", "std")]).all():
                    raise DataError(f"training rows: column {name!r} has no values, or a NaN or infinite one")
                continue
            least, empty = column.get("min_categr_count", 1), column.get("fill_na", "")
            if not any(count >= least and token != empty for token, count in found["value_counts"].items()):
                if least <= 1:
                    raise DataError(
                        f"training rows: column {name!r} has no category, because every value is missing: leave the "
                        "column out with `active: False`"
                    )
                raise DataError(
                    f"training rows: column {name!r} has no category that occurs {least} times (min_categr_count): "
                    "lower that, or leave the column out with `active: False`"
                )

    def _raw_rows(self, frame: pl.LazyFrame, columns: list[dict[str, Any]], where: str) -> pl.LazyFrame:
        """The columns as FuxiCTR's `preprocess` hands them on: checked, sequences as text, gaps filled.

        Gaps of a bucketed column stay: a missing number is in no bin.
        """
        with self._only(columns):
            checked = self._check_frame(frame, where)
        filled = []
        for column in columns:
            expression = pl.col(column["name"])
            if column["dtype"] in FILL_NA and not is_bucketed(column):
                expression = expression.fill_null(column.get("fill_na", FILL_NA[column["dtype"]]))
            if column["name"] in self.text_categories:
                expression = expression.cast(pl.String)
            filled.append(expression)
        return checked.select(filled)

    def _check_frame(self, rows: pl.LazyFrame, where: str) -> pl.LazyFrame:
        """Refuse a missing column and one of another dtype than declared; make text of categories and lists."""
        schema = rows.collect_schema()
        for column in self.feature_cols:
            name = column["name"]
            if name not in schema:
                raise DataError(f"{where}: column {name!r} is missing. {did_you_mean(name, schema.names())}")
            found, wanted = schema[name], column["dtype"]
            if found == pl.Null:
                # A column without a value has no type of its own.
                found = TYPES_OF_NOTHING["str" if column["type"] == "sequence" else wanted]
                rows = rows.with_columns(pl.col(name).cast(found))
            if column["type"] == "sequence":
                fits = found == pl.String or isinstance(found, pl.List | pl.Array)
                wanted = f"text with {column.get('splitter', '^')!r} between tokens, or lists"
            else:
                fits = {
                    "int": found.is_integer(),
                    "str": found in (pl.String, pl.Categorical, pl.Enum),
                    "float": found.is_numeric(),
                }.get(wanted, False)
            if not fits:
                raise DataError(f"{where}: column {name!r} is declared as {wanted}, but holds {found}")
            if found in (pl.Categorical, pl.Enum):
                rows = rows.with_columns(pl.col(name).cast(pl.String))
            elif isinstance(found, pl.List | pl.Array):
                # FuxiCTR joins with ^ whatever the splitter, and knows neither arrays nor missing lists.
                tokens = pl.col(name).cast(pl.List(found.inner)).cast(pl.List(pl.String))
                rows = rows.with_columns(tokens.list.join(column.get("splitter", "^")).fill_null(""))
        return rows

    def _check_shared(self) -> None:
        """Columns that share an embedding are both encoded or both fitted: a vocabulary has one kind of token."""
        columns = {column["name"]: column for column in self.feature_cols}
        for name, column in columns.items():
            owner = column.get("share_embedding")
            if owner is not None and is_fitted(column) != is_fitted(columns[owner]):
                raise ConfigError(
                    f"columns {owner!r} and {name!r} share an embedding: give vocab_size to both (encoded) or to "
                    f"neither (fitted)"
                )

    @contextmanager
    def _only(self, columns: list[dict[str, Any]], *, labels: Sequence[dict[str, Any]] = ()) -> Iterator[None]:
        """Let FuxiCTR's methods see these columns for a while, and no label where none is given."""
        kept = self.feature_cols, self.label_cols
        self.feature_cols, self.label_cols = columns, list(labels)
        try:
            yield
        finally:
            self.feature_cols, self.label_cols = kept

    @contextmanager
    def _encoded(self, column: Mapping[str, Any]) -> Iterator[None]:
        kept = self.rebuild_dataset
        self.rebuild_dataset = kept and is_fitted(column)
        try:
            yield
        finally:
            self.rebuild_dataset = kept


def raw_frame(batch: Mapping[str, Any], names: Sequence[str]) -> pl.DataFrame:
    """Columns of a batch as a frame: arrays, lists or polars series."""
    return pl.DataFrame({name: _series(batch[name]) for name in names})


def _series(values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    array = np.asarray(values)
    # polars would keep an array of Python objects as such, and not see the text in it.
    if array.dtype.kind == "U" and array.ndim == 1:
        return pl.Series(values=array.tolist(), dtype=pl.String)
    return pl.Series(values=array.tolist() if array.dtype.kind == "O" else array)
