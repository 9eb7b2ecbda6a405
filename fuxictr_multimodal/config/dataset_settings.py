"""Settings of a dataset: its entry in the YAML, its columns, and what is generated for a synthetic one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SkipValidation, model_validator

from fuxictr_multimodal.config.binder import AS_WRITTEN, UNSET, Count, ListOf, Settings, UserPath
from fuxictr_multimodal.config.entry_settings import (
    EventColumn,
    InteractionSettings,
    NegativeSettings,
    SplitSettings,
    check_form,
    form_of,
    unread_format,
)
from fuxictr_multimodal.errors import ConfigError

MOST_ROWS = 2**31 - 1
# The fold of a sample is one byte.
MOST_FOLDS = 250
FeatureType = Literal["meta", "categorical", "sequence", "numeric", "embedding"]
FEATURE_TYPES = get_args(FeatureType)
# Texts become an embedding while the dataset is built.
RawFeatureType = Literal["meta", "categorical", "sequence", "numeric", "embedding", "text"]
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
Slots = Annotated[int, Field(ge=1, le=2**16)]


class SyntheticSettings(Settings):
    """The `synthetic:` block of a dataset. The same block gives the same bytes."""

    rows: Rows = Field(description="Samples of the training split.", examples=[100_000])
    valid_rows: Rows = Field(description="Samples of the validation split.", examples=[10_000])
    test_rows: Rows = Field(description="Samples of the test split.", examples=[10_000])
    items: Annotated[int, Field(ge=20, le=2**24)] = Field(
        description="Number of items. Their ids are 1 to this number; row 0 is padding.", examples=[3_000]
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(1, description="Seed of everything that is generated.")
    tags: Annotated[int, Field(ge=0, le=2**24)] = Field(
        0, description="Size of the tag vocabulary without padding. 0 scales it with `items` (11,739 for 91,717 items)."
    )
    interests: Annotated[int, Field(ge=0, le=2**16)] = Field(
        0, description="Number of content clusters, at most half of `items`. 0 scales it with `items`."
    )
    rows_per_user: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="Samples that share a user and a history."
    )
    mean_history: Annotated[float, Field(ge=1, le=MOST_ROWS), AS_WRITTEN] = Field(
        9.6, description="Mean length of a history before it is cut at `max_len`."
    )
    max_len: Slots = Field(64, description="Number of history slots.")

    @model_validator(mode="after")
    def _fit_together(self) -> SyntheticSettings:
        if self.mean_history > self.max_len:
            raise ConfigError(f"mean_history must not exceed max_len, found {self.mean_history} and {self.max_len}")
        if 2 * self.interests > self.items:
            raise ConfigError(f"interests must be at most half of items, found {self.interests} and {self.items}")
        return self


class LabelColumn(Settings):
    """The column that holds the label, FuxiCTR's `label_col`."""

    name: str = Field(description="Name of the column.", examples=["label"])
    dtype: Literal["int", "float"] = Field("float", description="Type of its values in the raw files.")


class FeatureColumn(Settings):
    """One column of `feature_cols`, in FuxiCTR's form."""

    name: SkipValidation[str | tuple[str, ...]] = Field(
        description="Name of the column, or a list of names of columns with the same settings."
    )
    active: bool = Field(True, description="Whether the column is part of the dataset.")
    dtype: Literal["int", "float", "str", "list"] = Field(description="Type of its values in the raw files.")
    type: RawFeatureType = Field(
        description="`categorical` is one id, `sequence` a list of ids, `numeric` a number, `embedding` a pretrained "
        "vector, `text` a text of the item that becomes a vector of `pretrain_dim` numbers. `meta` travels with the "
        "sample and is not a model input."
    )
    source: SkipValidation[str] = Field(
        "",
        description="`item` for a column of the item table, `user` for one of `user_data`, `event` for a feature of "
        "history events. By default the column is part of the samples.",
    )
    vocab_size: Annotated[int, Field(ge=2)] = Field(
        UNSET,
        description="Size of the vocabulary, padding included, of ids that are encoded already. Without it the "
        "vocabulary is learnt from the training split.",
    )
    max_len: Slots = Field(UNSET, description="Number of slots of a sequence.")
    feature_encoder: SkipValidation[str | tuple[str, ...]] = Field(
        UNSET, description="Layers over the embedding, such as `nn.Linear(128, 64, bias=False)`; see FuxiCTR."
    )
    embedding_dim: Count = Field(UNSET, description="Width of the embedding of this column.")
    emb_output_dim: Count = Field(UNSET, description="Width after `feature_encoder`.")
    pretrain_dim: Count = Field(UNSET, description="Width of the pretrained vectors.")
    share_embedding: SkipValidation[str] = Field(
        UNSET, description="Earlier column whose embedding and vocabulary this one uses."
    )
    fill_na: SkipValidation[Any] = Field(UNSET, description="Value in place of a missing one.")
    min_categr_count: Count = Field(1, description="Values that are less frequent in the training split share one id.")
    splitter: Annotated[str, Field(min_length=1)] = Field(
        "^", description="Text between the values of a sequence that is written as one text."
    )
    padding: Literal["pre", "post"] = Field("post", description="Side on which short sequences are padded.")
    normalizer: Literal["StandardScaler", "MinMaxScaler"] = Field(
        UNSET, description="How numbers are scaled, fitted on the training split."
    )
    category_processor: Literal["quantile_bucket", "hash_bucket"] = Field(
        UNSET,
        description="Makes `num_buckets` categories: of a number by quantiles of the training split, of an id by a "
        "hash.",
    )
    num_buckets: Annotated[int, Field(ge=2)] = Field(UNSET, description="Number of buckets; see `category_processor`.")
    preprocess: SkipValidation[str] = Field(
        UNSET, description="`copy_from(<column>)` makes this column of another one. FuxiCTR's other functions are code."
    )
    embedding_file: SkipValidation[str] = Field(
        UNSET,
        description="Vectors by item id for a column of `type: embedding`: `.npz` or `.h5` with `key` and `value`, or "
        "`.parquet` with a column of ids and one of lists.",
    )
    encoder: SkipValidation[str] = Field(
        UNSET,
        description="How a column of `type: text` becomes vectors: `tfidf` (the default) with a truncated SVD; else a "
        "text encoder: the expid of a run in `./checkpoints/embedding`, else a folder (of a run, a stage or a model of "
        "sentence-transformers), else the name of a model of sentence-transformers. `pretrain_dim` reduces or pads its "
        "vectors.",
    )
    item_vectors: Literal["cooccurrence"] = Field(
        UNSET,
        description="Vectors of items from training behaviour alone, for a column of `type: embedding` with `source: "
        "item`: pairs of items in one user's history, PPMI, truncated SVD. No sample reads vectors to which a history "
        "of its own user with its target has added; see `folds`. Ready samples with another `group_id` than `user_id` "
        "need `user_col` for it.",
    )
    window: Count = Field(
        UNSET,
        description="For `item_vectors`: only pairs at most so many events apart count, the nearer the more. Without "
        "it all pairs within `max_len` events count alike.",
    )
    folds: Annotated[int, Field(ge=2, le=MOST_FOLDS)] = Field(
        5,
        description="For `item_vectors`: where the target of any sample stands in a counted history of its user, a "
        "sample reads vectors that all users but those of its own fold have made.",
    )
    remap: SkipValidation[bool] = Field(
        True, description="FuxiCTR's. `False` works for `meta` columns only; give `vocab_size` for encoded ids."
    )


class DatasetSettings(Settings):
    """An entry of `dataset_config/*.yaml`, in FuxiCTR's form.

    With `train_data` (samples) or `interactions` (a log of events) the dataset is built from its entry at first use.
    Without them, and with `data_format: h5`, a script builds it.
    """

    data_root: UserPath = Field(
        description="Folder of the datasets. This one is in `<data_root>/<dataset_id>/`.", examples=["./data/"]
    )
    feature_cols: SkipValidation[tuple[FeatureColumn, ...]] = Field(
        UNSET,
        description="The columns, in the order in which models read them. Data that FuxiCTR prepared has them in its "
        "feature_map.json.",
    )
    label_col: SkipValidation[LabelColumn | tuple[LabelColumn, ...]] = Field(
        UNSET, description="The label. Data that FuxiCTR prepared has it in its feature_map.json."
    )
    max_len: Rows = Field(
        UNSET,
        description="Number of history slots. The newest items are kept. An experiment may set fewer.",
    )
    item_col: SkipValidation[str] = Field(
        "item_id", description="Column of the target item's id; histories hold ids of the same vocabulary."
    )
    group_id: SkipValidation[str] = Field(UNSET, description="Column that groups samples for grouped metrics.")
    min_categr_count: SkipValidation[int] = Field(
        1, description="Values that are less frequent in the training split share one id. A column may have its own."
    )
    synthetic: SyntheticSettings = Field(
        UNSET, description="Generate the dataset at first use instead of building it from files."
    )
    obtain: SkipValidation[str] = Field(
        UNSET, description="How to get the data. The text is part of the error when the dataset is missing."
    )
    data_format: SkipValidation[str] = Field(
        UNSET,
        description="Format of the files: `csv`, `parquet`, or `npz` (data that FuxiCTR encoded). Others are accepted "
        "and not read.",
    )
    train_data: SkipValidation[str] = Field(
        UNSET, description="Training samples: a file, a glob or a folder of parts. Not read with `data_format: h5`."
    )
    valid_data: SkipValidation[str] = Field(UNSET, description="Validation samples, as `train_data`.")
    test_data: SkipValidation[str] = Field(UNSET, description="Test samples, as `train_data`; labels may be missing.")
    interactions: InteractionSettings = Field(UNSET, description="A log of events instead of samples.")
    split: SplitSettings = Field(
        UNSET, description="How `train_data` alone, or a log, is cut into splits. A log is cut by time by default."
    )
    samples: Literal["all", "last"] = Field(
        UNSET, description="Samples of a log: `all` events, or the `last` positive of a user and split."
    )
    history: Literal["positive", "all"] = Field(
        UNSET, description="Events of a log that are history: `positive` ones (the default), or `all`."
    )
    negatives: NegativeSettings = Field(UNSET, description="Draw negatives, for a log that has positives only.")
    item_data: str = Field(
        UNSET,
        description="One row an item, with the columns of `source: item`. Without it they are taken from the samples.",
    )
    user_data: str = Field(UNSET, description="One row a user, with the columns of `source: user`.")
    user_col: str = Field(
        UNSET,
        description="Column that names the user of a sample: by it `user_data` is joined and `split` by user cuts. By "
        "default `group_id`, else `user_id`.",
    )
    history_col: str | ListOf[str] = Field(
        UNSET,
        description="Column of item ids, newest last: lists, or text with `splitter` between ids. Several columns have "
        "an attention each; the first is the main one.",
    )
    splitter: Annotated[str, Field(min_length=1)] = Field(
        UNSET, description="Text between the values of histories that are written as text. By default `^`."
    )
    weight_col: str = Field(UNSET, description="Column of the weight of each sample in the loss.")
    event_cols: ListOf[EventColumn] = Field(
        UNSET, description="Features of history events, such as their age; models read them where they are told to."
    )
    sep: Annotated[str, Field(min_length=1, max_length=1)] = Field(UNSET, description="Separator of csv files.")
    rebuild_dataset: SkipValidation[bool] = Field(UNSET, description="FuxiCTR's. Accepted and not read.")
    data_block_size: SkipValidation[int] = Field(UNSET, description="FuxiCTR's. Accepted and not read.")

    @model_validator(mode="after")
    def _fit_together(self) -> DatasetSettings:
        # A merged run has the keys that its dataset's entry has.
        values = {name: getattr(self, name) for name in type(self).model_fields}
        missing = [key for key in ("feature_cols", "label_col") if values[key] is None]
        if form_of(values) != "prepared" and missing:
            raise ConfigError(f"does not set `{missing[0]}`{unread_format(values)}")
        check_form(values)
        return self


DATASET_KEYS = frozenset(DatasetSettings.model_fields)
