"""The toolkit's `FeatureProcessor` behind guards: fits vocabularies, writes the feature map, encodes raw columns.

A column with `vocab_size` comes encoded; one without is fitted by the toolkit on training rows. Nothing of the
toolkit's encoding is written anew here: what it would crash on, or evaluate as code, is refused before it gets there.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor
from fuxictr.preprocess.normalizer import Normalizer
from fuxictr.preprocess.tokenizer import Tokenizer

from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.manifest import Manifest

FEATURE_MAP_NAME = "feature_map.json"
FEATURE_VOCAB_NAME = "feature_vocab.json"

FEATURE_TYPES = ("meta", "categorical", "sequence", "numeric", "embedding")
DTYPES = ("int", "float", "str", "list")
NORMALIZERS = ("StandardScaler", "MinMaxScaler")
COLUMN_KEYS = frozenset(
    "name active dtype type source vocab_size max_len feature_encoder embedding_dim emb_output_dim pretrain_dim "
    "share_embedding fill_na min_categr_count splitter padding normalizer preprocess remap".split()
)
# What the toolkit would crash on, with what to do instead.
REFUSED_KEYS = {
    "category_processor": "the toolkit's quantile and hash buckets do not work; put bucket numbers into the data",
    "num_buckets": "the toolkit's quantile and hash buckets do not work; put bucket numbers into the data",
    "pretrained_emb": "put the vectors into the item table as a column of type embedding",
    "pretrain_usage": "put the vectors into the item table as a column of type embedding",
    "freeze_emb": "put the vectors into the item table as a column of type embedding",
}
# The toolkit evaluates `feature_encoder` as code; these calls with literal numbers are all that may reach it.
ENCODER_CALLS = frozenset(
    {
        "layers.MaskedAveragePooling",
        "layers.MaskedSumPooling",
        "layers.KMaxPooling",
        "nn.Linear",
        "nn.LayerNorm",
        "nn.BatchNorm1d",
        "nn.Dropout",
        "nn.Identity",
        "nn.ReLU",
        "nn.PReLU",
        "nn.LeakyReLU",
        "nn.GELU",
        "nn.SiLU",
        "nn.Sigmoid",
        "nn.Tanh",
    }
)
NO_ENCODER = (None, "None", "none", "null")


def check_feature_encoder(encoder: Any, where: str) -> None:
    """Refuse a `feature_encoder` that is not on the white-list, before the toolkit evaluates it.

    Allowed are none, one call such as `nn.Linear(128, 64, bias=False)` of a listed layer with literal numbers, or a
    list of such calls.

    >>> check_feature_encoder(["nn.Linear(128, 64, bias=False)", "nn.ReLU()"], "column 'emb'")
    >>> check_feature_encoder("print('hello')", "column 'emb'")
    Traceback (most recent call last):
        ...
    fuxictr_multimodal.errors.ConfigError: column 'emb': feature_encoder "print('hello')" is not allowed; ...
    """
    for call in encoder if isinstance(encoder, list) and encoder else [encoder]:
        if call in NO_ENCODER and not isinstance(encoder, list):
            continue
        if not isinstance(call, str) or not _is_literal_call(call):
            raise ConfigError(
                f"{where}: feature_encoder {call!r} is not allowed; write a call such as "
                f"'nn.Linear(128, 64, bias=False)' with literal numbers, of one of {', '.join(sorted(ENCODER_CALLS))}"
            )


def _is_literal_call(text: str) -> bool:
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    if not isinstance(call.func.value, ast.Name) or f"{call.func.value.id}.{call.func.attr}" not in ENCODER_CALLS:
        return False
    arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg is not None)]
    if any(keyword.arg is None for keyword in call.keywords):
        return False
    return all(isinstance(a, ast.Constant) and isinstance(a.value, bool | int | float) for a in arguments)


def check_feature_cols(feature_cols: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Check the toolkit's `feature_cols` and return them completed: one dict a column, `active` always there.

    Args:
        feature_cols: as in a dataset YAML; `name` may be a list of names.
        where: file and dataset, for the message.

    Raises:
        ConfigError: an unknown key, a value that the toolkit would evaluate or crash on, or a column given twice.
    """
    if not isinstance(feature_cols, Sequence) or isinstance(feature_cols, str) or not feature_cols:
        raise ConfigError(f"{where}: feature_cols must be a list of columns, not {feature_cols!r}")
    complete: list[dict[str, Any]] = []
    for column in feature_cols:
        if not isinstance(column, Mapping) or "name" not in column:
            raise ConfigError(f"{where}: feature_cols: {column!r} has no name")
        names = column["name"] if isinstance(column["name"], list) else [column["name"]]
        for name in names:
            if not isinstance(name, str) or not name or "/" in name or name == "history":
                raise ConfigError(f"{where}: feature_cols: {name!r} cannot be the name of a column")
            if any(name == other["name"] for other in complete):
                raise ConfigError(f"{where}: feature_cols: column {name!r} is given twice")
            one = {**column, "name": name, "active": column.get("active", True)}
            _check_column(one, f"{where}: column {name!r}")
            complete.append(one)
    _check_shared(complete, where)
    return complete


def check_label_col(label_col: Mapping[str, Any] | Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Check the toolkit's `label_col` (one label) and return it as one dict."""
    labels = list(label_col) if isinstance(label_col, list | tuple) else [label_col]
    if len(labels) != 1 or not isinstance(labels[0], Mapping) or not isinstance(labels[0].get("name"), str):
        raise ConfigError(f"{where}: label_col must be one column such as {{name: label, dtype: float}}")
    label = dict(labels[0])
    if label.setdefault("dtype", "float") not in ("int", "float"):
        raise ConfigError(f"{where}: label_col: dtype {label['dtype']!r} must be int or float")
    return label


def _check_column(column: dict[str, Any], where: str) -> None:
    for key in column:
        if key in REFUSED_KEYS:
            raise ConfigError(f"{where}: {key} is not supported: {REFUSED_KEYS[key]}")
        if key not in COLUMN_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}. {did_you_mean(str(key), COLUMN_KEYS)}")
    kind = column.get("type")
    if kind not in FEATURE_TYPES:
        raise ConfigError(f"{where}: type {kind!r} is unknown. {did_you_mean(str(kind), FEATURE_TYPES)}")
    if not isinstance(column["active"], bool):
        raise ConfigError(f"{where}: active must be True or False, not {column['active']!r}")
    if column.get("dtype") not in DTYPES:
        raise ConfigError(f"{where}: dtype {column.get('dtype')!r} must be one of {', '.join(DTYPES)}")
    if kind in ("categorical", "meta") and column["dtype"] not in ("int", "str"):
        raise ConfigError(f"{where}: a column of type {kind} needs dtype int or str, not {column['dtype']}")
    if column.get("remap", True) is not True and kind != "meta":
        raise ConfigError(f"{where}: remap: False does not work in the toolkit; give vocab_size for encoded ids")
    for key, least in (
        ("vocab_size", 2),
        ("max_len", 1),
        ("embedding_dim", 1),
        ("emb_output_dim", 1),
        ("pretrain_dim", 1),
        ("min_categr_count", 1),
    ):
        value = column.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{where}: {key} must be an integer of at least {least}, not {value!r}")
    if "normalizer" in column and column["normalizer"] not in NORMALIZERS:
        raise ConfigError(f"{where}: normalizer {column['normalizer']!r} must be one of {', '.join(NORMALIZERS)}")
    if column.get("padding", "post") not in ("pre", "post"):
        raise ConfigError(f"{where}: padding {column['padding']!r} must be pre or post")
    if not isinstance(column.get("splitter", "^"), str) or column.get("splitter") == "":
        raise ConfigError(f"{where}: splitter must be text, not {column['splitter']!r}")
    if "preprocess" in column:
        # The toolkit calls the method of this name, whichever it is.
        text = column["preprocess"]
        if not isinstance(text, str) or not text.startswith("copy_from(") or not text.endswith(")"):
            raise ConfigError(f"{where}: preprocess {text!r} must be copy_from(column); do other work in the recipe")
    check_feature_encoder(column.get("feature_encoder"), where)


def _check_shared(columns: list[dict[str, Any]], where: str) -> None:
    """`share_embedding` must name an earlier column that is encoded (or fitted) alike."""
    earlier: dict[str, dict[str, Any]] = {}
    for column in columns:
        owner = column.get("share_embedding")
        if owner is not None:
            if owner not in earlier:
                raise ConfigError(
                    f"{where}: column {column['name']!r}: share_embedding {owner!r} is no earlier active "
                    f"categorical or sequence column. {did_you_mean(str(owner), earlier)}"
                )
            if ("vocab_size" in column) != ("vocab_size" in earlier[owner]):
                raise ConfigError(
                    f"{where}: columns {owner!r} and {column['name']!r} share an embedding: give vocab_size to "
                    f"both (encoded) or to neither (fitted)"
                )
        if column["active"] and column["type"] in ("categorical", "sequence"):
            earlier[column["name"]] = column


def is_fitted(column: Mapping[str, Any]) -> bool:
    """Whether the toolkit must see training rows before it can encode this column."""
    if not column["active"]:
        return False
    if column["type"] in ("categorical", "sequence"):
        return "vocab_size" not in column
    return column["type"] == "numeric" and "normalizer" in column


class StoreFeatureProcessor(FeatureProcessor):
    """The toolkit's processor for a store: encoded and fitted columns side by side, no pickle.

    Args:
        feature_cols: the toolkit's columns; `item_id` and embeddings need `vocab_size` and `pretrain_dim` here.
        label_col: the toolkit's label column.
        dataset_id: name of the dataset.
        data_dir: folder for `feature_map.json` and `feature_vocab.json`.
        group_id: column of grouped metrics.

    Attributes:
        normalizers: statistics of each normalised numeric column after `fit`, for the manifest.
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
        # The toolkit derives its paths from the dataset's name; a build happens in another folder.
        self.data_dir = self.feature_map.data_dir = str(data_dir)
        self.json_file = str(Path(data_dir) / FEATURE_MAP_NAME)
        self.vocab_file = str(Path(data_dir) / FEATURE_VOCAB_NAME)
        self.normalizers: dict[str, dict[str, Any]] = {}
        self.rebuild_dataset = False

    @property
    def fitted_cols(self) -> list[dict[str, Any]]:
        """Columns that arrive raw and are fitted on training rows."""
        return [column for column in self.feature_cols if is_fitted(column)]

    def fit(self, train_rows: pl.DataFrame | pl.LazyFrame | None = None, min_categr_count: int = 1) -> None:
        """Fit the raw columns, then write `feature_map.json` and `feature_vocab.json`.

        Args:
            train_rows: training rows joined with item features; it must hold the raw columns, and may be None where
                every column comes encoded.
            min_categr_count: least count of a category, for columns that do not say their own.

        Raises:
            DataError: a raw column is missing, of the wrong dtype, or has nothing to fit.
        """
        fitted = self.fitted_cols
        if fitted and train_rows is None:
            raise DataError(
                f"dataset {self.feature_map.dataset_id!r}: column {fitted[0]['name']!r} comes raw (it has no "
                f"vocab_size, or a normalizer): fit needs training rows with it, or give its vocab_size"
            )
        if not fitted:
            super().fit(None, rebuild_dataset=False)
            return
        with self._only(fitted):
            rows = self.preprocess(self._check_frame(train_rows.lazy()))
        super().fit(rows, min_categr_count=min_categr_count, rebuild_dataset=True)

    def transform(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Encode the raw columns of `batch`; columns that come encoded are returned as they are.

        Args:
            batch: arrays (or polars series) of equal length by name. A raw sequence column holds strings with the
                splitter between tokens, or lists or rows of tokens. Unknown categories get the toolkit's OOV id.

        Returns:
            int32 ids (B,) or (B, max_len) and float32 numbers (B,) for raw columns.
        """
        raw = [column for column in self.fitted_cols if _source_name(column) in batch]
        encoded = {name: values for name, values in batch.items() if name not in {c["name"] for c in raw}}
        if not raw:
            return dict(encoded)
        frame = pl.DataFrame({_source_name(column): _series(batch[_source_name(column)]) for column in raw})
        with self._only(raw):
            frame = self.preprocess(self._check_frame(frame.lazy())).collect()
        return {**encoded, **{column["name"]: self._encode(column, frame[column["name"]]) for column in raw}}

    def _encode(self, column: dict[str, Any], series: pl.Series) -> np.ndarray:
        name = column["name"]
        if column["type"] == "numeric":
            values = super().transform({name: series.cast(pl.Float64).to_numpy()})[name]
            return np.asarray(values, dtype=np.float32)
        # Each distinct value goes through the toolkit once, then its code is scattered back.
        distinct = series.unique(maintain_order=True)
        codes = np.asarray(super().transform({name: distinct.to_list()})[name], dtype=np.int32)
        index = series.replace_strict(distinct, pl.int_range(len(distinct), eager=True), return_dtype=pl.Int64)
        return codes[index.to_numpy()]

    def fit_categorical_col(self, col: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The toolkit's own; a column with `vocab_size` takes its path without rebuilding."""
        with self._encoded(col):
            super().fit_categorical_col(col, *args, **kwargs)

    def fit_sequence_col(self, col: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The toolkit's own; a column with `vocab_size` takes its path without rebuilding."""
        with self._encoded(col):
            super().fit_sequence_col(col, *args, **kwargs)

    def fit_meta_col(self, col: dict[str, Any], stats_dict: dict[str, Any] | None) -> None:
        """The toolkit's own without a vocabulary: meta columns are integers that travel as they are."""
        super().fit_meta_col({**col, "remap": False}, stats_dict)

    def fit_numeric_col(self, col: dict[str, Any], stats_dict: dict[str, Any] | None = None) -> None:
        """The toolkit's own; the statistics of a normaliser are kept as facts."""
        super().fit_numeric_col(col, stats_dict)
        if "normalizer" in col and stats_dict is not None:
            self.normalizers[col["name"]] = {"normalizer": col["normalizer"], **stats_dict}

    def save_pickle(self, pickle_file: str) -> None:
        """Write nothing: a store holds no pickle; `restore_processor` reads JSON."""

    def load_pickle(self, pickle_file: str | None = None) -> None:
        """Refuse: unpickling runs code."""
        raise DataError("a store has no pickled processor: use restore_processor")

    def _collect_statistics(
        self, train_ddf: pl.LazyFrame, meta_ddf: pl.LazyFrame | None = None
    ) -> dict[str, dict[str, Any]]:
        """The toolkit's own on the raw columns, refusing what its tokenizer and normaliser would crash on."""
        with self._only(self.fitted_cols):
            statistics = super()._collect_statistics(train_ddf, meta_ddf)
        for column in self.fitted_cols:
            found, name = statistics[column["name"]], column["name"]
            if column["type"] == "numeric":
                if not found["count"] or not all(math.isfinite(found[key]) for key in ("min", "max", "mean", "std")):
                    raise DataError(f"training rows: column {name!r} has no values, or a NaN or infinite one")
                continue
            least, empty = column.get("min_categr_count", 1), column.get("fill_na", "")
            if not any(count >= least and token != empty for token, count in found["value_counts"].items()):
                raise DataError(
                    f"training rows: column {name!r} has no category that occurs {least} times (min_categr_count)"
                )
        return statistics

    def _check_frame(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Raw columns of `self.feature_cols`, refusing a missing one and one of another dtype than declared."""
        schema = rows.collect_schema()
        for column in self.feature_cols:
            name = _source_name(column)
            if name not in schema:
                raise DataError(f"training rows: column {name!r} is missing. {did_you_mean(name, schema.names())}")
            found, wanted = schema[name], column["dtype"]
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
                raise DataError(f"column {name!r} is declared as {wanted}, but its values are {found}")
        lists = [name for name, dtype in schema.items() if isinstance(dtype, pl.List | pl.Array)]
        # The toolkit joins lists to text, but not arrays, and trips over a missing list.
        return rows.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join("^").fill_null("")) if lists else rows

    @contextmanager
    def _only(self, columns: list[dict[str, Any]]) -> Iterator[None]:
        """Let the toolkit's methods see these columns and no label for a while."""
        kept = self.feature_cols, self.label_cols
        self.feature_cols, self.label_cols = columns, []
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


def load_feature_map(directory: str | Path, dataset_id: str, params: Mapping[str, Any]) -> FeatureMap:
    """Load `feature_map.json` into the toolkit's `FeatureMap`, after the same white-list as `check_feature_cols`.

    Args:
        directory: folder of the store.
        dataset_id: must be that of the file.
        params: run parameters: the toolkit reads `group_id`, `embedding_dim`, `use_features` and `feature_specs`.

    Raises:
        DataError: the file is missing, damaged or of another dataset.
        ConfigError: it, or `feature_specs`, names an encoder that is not allowed, or an unknown feature.
    """
    path = Path(directory) / FEATURE_MAP_NAME
    stored = _read_json(path)
    try:
        features = {name: spec for entry in stored["features"] for name, spec in entry.items()}
        found, labels = stored["dataset_id"], stored["labels"]
        for name, spec in features.items():
            _check_spec(spec, f"{path}: feature {name!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}): build the dataset again") from None
    if found != dataset_id:
        raise DataError(f"{path} is of dataset {found!r}, not {dataset_id!r}")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path}: labels must be a list of names, not {labels!r}")
    for name in params.get("use_features") or []:
        if name not in features:
            raise ConfigError(f"use_features: {name!r} is no feature of {path}. {did_you_mean(str(name), features)}")
    for specs in params.get("feature_specs") or []:
        names = specs["name"] if isinstance(specs.get("name"), list) else [specs.get("name")]
        for name in names:
            if name not in features:
                raise ConfigError(
                    f"feature_specs: {name!r} is no feature of {path}. {did_you_mean(str(name), features)}"
                )
            _check_spec({**features[name], **specs}, f"feature_specs: feature {name!r}")
    feature_map = FeatureMap(dataset_id, str(directory))
    feature_map.load(str(path), dict(params))
    return feature_map


def restore_processor(directory: str | Path) -> StoreFeatureProcessor:
    """The processor that built a store, to `transform` new raw rows; read from JSON, so no pickle is opened.

    Args:
        directory: folder of the store: columns and normalisers come from its manifest, vocabularies from
            `feature_vocab.json`.

    Raises:
        DataError: a file is missing or damaged.
    """
    directory = Path(directory)
    manifest = Manifest.read(directory)
    processor = StoreFeatureProcessor(
        feature_cols=manifest.feature_cols,
        label_col=manifest.label_col,
        dataset_id=manifest.dataset_id,
        data_dir=directory,
        group_id=manifest.group_id,
    )
    processor.feature_map = load_feature_map(directory, manifest.dataset_id, {"group_id": manifest.group_id})
    processor.normalizers = manifest.normalizers
    vocabularies = _read_json(directory / FEATURE_VOCAB_NAME)
    for column in processor.fitted_cols:
        name = column["name"]
        try:
            if column["type"] == "numeric":
                facts = dict(manifest.normalizers[name])
                normalizer = Normalizer(facts.pop("normalizer"))
                normalizer.fit_from_stats(
                    min_value=facts["min"],
                    max_value=facts["max"],
                    mean=facts["mean"],
                    std=facts["std"],
                    count=facts["count"],
                )
                processor.processor_dict[f"{name}::normalizer"] = normalizer
            else:
                processor.processor_dict[f"{name}::tokenizer"] = _restored_tokenizer(
                    column, vocabularies[name], max_len=processor.feature_map.features[name].get("max_len", 0)
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{directory}: column {name!r} cannot be restored ({error!r}): build it again") from None
    return processor


def _restored_tokenizer(column: Mapping[str, Any], vocabulary: Mapping[str, int], *, max_len: int) -> Tokenizer:
    # JSON has text keys; the tokens of a sequence are text, those of a category have the dtype of the column.
    as_token = int if column["type"] == "categorical" and column["dtype"] == "int" else str
    tokenizer = Tokenizer(
        min_freq=column.get("min_categr_count", 1),
        na_value=column.get("fill_na", ""),
        splitter=column.get("splitter", "^") if column["type"] == "sequence" else None,
        max_len=max_len,
        padding=column.get("padding", "post"),
    )
    tokenizer.vocab = {
        token if token in ("__PAD__", "__OOV__") else as_token(token): int(code) for token, code in vocabulary.items()
    }
    return tokenizer


def _check_spec(spec: Mapping[str, Any], where: str) -> None:
    """White-list of one feature of a feature map, as the toolkit's embedding layer will read it."""
    if spec["type"] not in FEATURE_TYPES:
        raise ConfigError(
            f"{where}: type {spec['type']!r} is unknown. {did_you_mean(str(spec['type']), FEATURE_TYPES)}"
        )
    for key, remedy in REFUSED_KEYS.items():
        if key in spec:
            raise ConfigError(f"{where}: {key} is not supported: {remedy}")
    check_feature_encoder(spec.get("feature_encoder"), where)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: build the dataset first") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): build the dataset again") from None


def _source_name(column: Mapping[str, Any]) -> str:
    """The raw column that feeds this one: itself, or that of `copy_from(...)`."""
    text = column.get("preprocess")
    return text[len("copy_from(") : -1] if text else column["name"]


def _series(values: Any) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series(values=np.asarray(values))
