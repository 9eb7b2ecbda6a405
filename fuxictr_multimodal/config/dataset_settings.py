"""Settings of a dataset: its entry in the YAML, its columns, and what is generated for a synthetic one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SkipValidation, model_validator

from fuxictr_multimodal.config.binder import AS_WRITTEN, UNSET, Count, Settings, UserPath
from fuxictr_multimodal.errors import ConfigError

MOST_ROWS = 2**31 - 1
FeatureType = Literal["meta", "categorical", "sequence", "numeric", "embedding"]
FEATURE_TYPES = get_args(FeatureType)
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]


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
    max_len: Annotated[int, Field(ge=1, le=2**16)] = Field(64, description="Number of history slots.")

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
    type: FeatureType = Field(
        description="`categorical` is one id, `sequence` a list of ids, `numeric` a number, `embedding` a pretrained "
        "vector. `meta` travels with the sample and is not a model input."
    )
    source: SkipValidation[str] = Field(
        "", description="`item` for a column of the item table. By default the column is part of the samples."
    )
    vocab_size: Annotated[int, Field(ge=2)] = Field(
        UNSET,
        description="Size of the vocabulary, padding included, of ids that are encoded already. Without it the "
        "vocabulary is learnt from the training split.",
    )
    max_len: Count = Field(UNSET, description="Number of slots of a sequence.")
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
    remap: SkipValidation[bool] = Field(
        True, description="FuxiCTR's. `False` works for `meta` columns only; give `vocab_size` for encoded ids."
    )


class DatasetSettings(Settings):
    """An entry of `dataset_config/*.yaml`, in FuxiCTR's form."""

    data_root: UserPath = Field(
        description="Folder of the datasets. This one is in `<data_root>/<dataset_id>/`.", examples=["./data/"]
    )
    feature_cols: SkipValidation[tuple[FeatureColumn, ...]] = Field(
        description="The columns, in the order in which models read them."
    )
    label_col: SkipValidation[LabelColumn | tuple[LabelColumn, ...]] = Field(description="The label.")
    max_len: Count = Field(UNSET, description="Number of history slots. The newest items are kept.")
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
    rebuild_dataset: SkipValidation[bool] = Field(UNSET, description="FuxiCTR's. Accepted and not read.")
    data_format: SkipValidation[str] = Field(UNSET, description="FuxiCTR's. Accepted and not read.")
    train_data: SkipValidation[str] = Field(
        UNSET, description="FuxiCTR's. Accepted and not read: a built dataset knows its own files."
    )
    valid_data: SkipValidation[str] = Field(UNSET, description="As `train_data`.")
    test_data: SkipValidation[str] = Field(UNSET, description="As `train_data`.")


DATASET_KEYS = frozenset(DatasetSettings.model_fields)
