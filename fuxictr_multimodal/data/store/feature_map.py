"""FuxiCTR's feature map and encoders of a finished dataset, read from JSON: no pickle is opened.

Every value that FuxiCTR would evaluate is checked first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr.features import FeatureMap
from fuxictr.preprocess.normalizer import Normalizer
from fuxictr.preprocess.tokenizer import Tokenizer

from fuxictr_multimodal.data.store.buckets import is_bucketed
from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.encoding import FEATURE_MAP_NAME, FEATURE_VOCAB_NAME, StoreFeatureProcessor
from fuxictr_multimodal.data.store.feature_cols import check_spec
from fuxictr_multimodal.data.store.manifest import Manifest, read_json
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.machine import free_memory


def load_feature_map(directory: str | Path, dataset_id: str, params: Mapping[str, Any]) -> FeatureMap:
    """Load `feature_map.json` into FuxiCTR's `FeatureMap`, after the same white-list as `check_feature_cols`.

    Args:
        directory: folder of the dataset.
        dataset_id: must be that of the file.
        params: run parameters: FuxiCTR reads `group_id`, `embedding_dim`, `use_features` and `feature_specs`.

    Raises:
        DataError: the file is missing, damaged or of another dataset.
        ConfigError: it, or `feature_specs`, names an encoder that is not allowed, or an unknown feature.
    """
    path = Path(directory) / FEATURE_MAP_NAME
    stored = read_json(path)
    try:
        features = {name: spec for entry in stored["features"] for name, spec in entry.items()}
        found, labels = stored["dataset_id"], stored["labels"]
        for name, spec in features.items():
            check_spec(spec, f"{path}: feature {name!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}): {BUILD_AGAIN}") from None
    if found != dataset_id:
        raise DataError(f"{path} is of dataset {found!r}, not {dataset_id!r}")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path}: labels must be a list of names, not {labels!r}")
    for name in params.get("use_features") or []:
        if name not in features:
            raise ConfigError(f"use_features: {name!r} is not a feature of {path}. {did_you_mean(str(name), features)}")
    for specs in params.get("feature_specs") or []:
        if not isinstance(specs, Mapping):
            raise ConfigError(f"feature_specs: {specs!r} is not a mapping: write a list such as [{{name: ..., ...}}]")
        names = specs["name"] if isinstance(specs.get("name"), list) else [specs.get("name")]
        for name in names:
            if name not in features:
                raise ConfigError(
                    f"feature_specs: {name!r} is not a feature of {path}. {did_you_mean(str(name), features)}"
                )
            check_spec({**features[name], **specs}, f"feature_specs: feature {name!r}")
    _check_sizes(features, params, path)
    feature_map = FeatureMap(dataset_id, str(directory))
    try:
        feature_map.load(str(path), dict(params))
    except KeyError as error:
        raise DataError(f"{path}: a feature lacks {error}: the file is damaged; {BUILD_AGAIN}") from None
    return feature_map


def _check_sizes(features: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any], path: Path) -> None:
    """Refuse embeddings that no memory holds, and an embedding that is shared with nothing."""
    free, total = free_memory(), 0
    for name, spec in features.items():
        owner = spec.get("share_embedding")
        if owner is not None and owner not in features:
            hint = did_you_mean(str(owner), features)
            raise ConfigError(f"{path}: feature {name!r}: share_embedding {owner!r} is no feature. {hint}")
        if spec["type"] in ("categorical", "sequence") and owner is None:
            width = spec.get("embedding_dim") or params.get("embedding_dim") or 1
            total += 4 * spec.get("vocab_size", 1) * int(width)
        if total > free:
            raise ConfigError(
                f"{path}: feature {name!r}: its vocab_size {spec.get('vocab_size'):,} makes the embeddings {total:,} "
                f"bytes, but {free:,} are free: correct vocab_size, or lower embedding_dim"
            )


def restore_processor(directory: str | Path) -> StoreFeatureProcessor:
    """The processor that built a dataset, to `transform` new raw rows; read from JSON, so no pickle is opened.

    Args:
        directory: folder of the dataset: columns and normalisers come from its manifest, vocabularies from
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
    vocabularies = read_json(directory / FEATURE_VOCAB_NAME)
    for column in processor.fitted_cols:
        name = column["name"]
        try:
            if is_bucketed(column):
                _check_buckets(manifest.normalizers[name])
            elif column["type"] == "numeric":
                statistics = dict(manifest.normalizers[name])
                normalizer = Normalizer(statistics.pop("normalizer"))
                normalizer.fit_from_stats(
                    min_value=statistics["min"],
                    max_value=statistics["max"],
                    mean=statistics["mean"],
                    std=statistics["std"],
                    count=statistics["count"],
                )
                processor.processor_dict[f"{name}::normalizer"] = normalizer
            else:
                processor.processor_dict[f"{name}::tokenizer"] = _restored_tokenizer(
                    column,
                    vocabularies[name],
                    integers=column["type"] == "categorical"
                    and column["dtype"] == "int"
                    and name not in processor.text_categories,
                    max_len=processor.feature_map.features[name].get("max_len", 0),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{directory}: column {name!r} cannot be restored ({error!r}): build it again") from None
    return processor


def _check_buckets(state: Mapping[str, Any]) -> None:
    """The state of a bucketed column is of a form that `bucket_codes` reads."""
    if state["category_processor"] == "hash_bucket":
        int(state["num_buckets"])
    else:
        list(map(float, state["boundaries"]))


def _restored_tokenizer(
    column: Mapping[str, Any], vocabulary: Mapping[str, int], *, integers: bool, max_len: int
) -> Tokenizer:
    # JSON has text keys; the tokens of a sequence are text, those of a category have the dtype of the column.
    as_token = int if integers else str
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
