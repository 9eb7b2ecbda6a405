"""Settings of data of the user's own: splits, a log of events, negatives, event features, and the form of an entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from fuxictr_multimodal.config.binder import AS_WRITTEN, UNSET, Count, ListOf, Settings
from fuxictr_multimodal.errors import ConfigError

READ_FORMATS = ("csv", "parquet", "npz")
KNOWN_FORMATS = (*READ_FORMATS, "h5")
Form = Literal["synthetic", "log", "samples", "flat", "prepared", "built"]
TIME_FEATURES = ("age", "weekday", "hour")
TimeUnit = Literal["s", "ms", "us", "ns"]
Fraction = Annotated[float, Field(ge=0, lt=1), AS_WRITTEN]


class Group(Settings):
    """Settings of which those with a default may be null, as FuxiCTR's files write what is not set."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: value for key, value in values.items() if value is not None or key not in optional}


class SplitSettings(Group):
    """How one table becomes the training, validation and test splits."""

    by: Literal["time", "user", "order", "last_item", "column"] = Field(
        description="`time` cuts at points in time, `user` gives each user to one split, `order` cuts in the order of "
        "the rows, `last_item` takes each user's last sample for test and the one before for valid, `column` reads "
        "the name of the split in a column. `last_item` needs `interactions`, `order` needs `train_data`.",
        examples=["time"],
    )
    time: str = Field(UNSET, description="Column of times, for `by: time` of samples. A log has its own.")
    user: str = Field(UNSET, description="Column of users, for `by: user` of samples. By default `user_col`.")
    column: str = Field(UNSET, description="Column with the values train, valid and test, for `by: column`.")
    valid: Fraction = Field(0.1, description="Fraction of the samples, or of the users, in valid.")
    test: Fraction = Field(0.1, description="Fraction in test. 0 makes no test split.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(1, description="Seed of the choice of users.")

    @model_validator(mode="after")
    def _fit_together(self) -> SplitSettings:
        if self.valid + self.test >= 1:
            raise ConfigError(f"valid and test must leave something to train on, found {self.valid} and {self.test}")
        if self.valid == 0 and self.by not in ("last_item", "column"):
            raise ConfigError("valid must be above 0: training selects by the validation split")
        if (self.column is None) != (self.by != "column"):
            raise ConfigError("`by: column` and `column` (the name of the column) belong together")
        return self


class InteractionSettings(Group):
    """A log of events, of which samples and histories are made without a look ahead."""

    file: str = Field(
        description="File, glob or folder of parts: one row an event.", examples=["./raw/interactions.parquet"]
    )
    user: str = Field(description="Column of users.", examples=["user_id"])
    item: str = Field(description="Column of items.", examples=["item_id"])
    time: str = Field(
        UNSET, description="Column of times: whole numbers, dates or datetimes. Without it the order of the rows."
    )
    time_unit: TimeUnit = Field(
        UNSET, description="Unit of times that are whole numbers. By default it is recognised by their size."
    )
    label: str = Field(UNSET, description="Column that says whether an event is positive. Without it all events are.")
    positive: str = Field(
        UNSET,
        description='Which labels are positive: `">= 4"`, `"> 0"`, `"== buy"` or `"in [4, 5]"`. By default `"> 0"`.',
        examples=['">= 4"'],
    )
    behaviour: str = Field(UNSET, description="Column with the kind of each event, such as click or buy.")
    target_behaviour: str | ListOf[str] = Field(
        UNSET, description="Kinds of events that are predicted, the others being history only. By default all."
    )
    behaviours: ListOf[str] = Field(
        UNSET,
        description="Kinds of events that have a history each; the first is the main one. By default one history.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> InteractionSettings:
        for key in ("target_behaviour", "behaviours"):
            if getattr(self, key) is not None and self.behaviour is None:
                raise ConfigError(f"`{key}` needs `behaviour`, the column with the kind of each event")
        if self.positive is not None and self.label is None:
            raise ConfigError("`positive` needs `label`, the column that it is about")
        if self.behaviours is not None and (not self.behaviours or len({*self.behaviours}) < len(self.behaviours)):
            raise ConfigError(f"behaviours must name each kind once, found {list(self.behaviours)}")
        return self


class NegativeSettings(Group):
    """Negatives that are drawn, for a log that has positives only."""

    ratio: Count = Field(3, description="Negatives for each positive.")
    by: Literal["uniform", "popularity"] = Field(
        "uniform", description="Each item equally often, or as often as it is positive in the training split."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(1, description="Seed of the draws.")


class EventColumn(Group):
    """A feature of each history event that has a matching one on the target."""

    name: str = Field(
        description="Name of the feature. `age` is the time since the event, `weekday` and `hour` are of its time; any "
        "other is a column of the log, or of `history` and `target`.",
        examples=["age"],
    )
    history: str | dict[str, str] = Field(
        UNSET,
        description="List column that is aligned with the history: the events' times for `age`, `weekday` and `hour`, "
        "else the values. For several behaviours a mapping from the history column. Only for samples.",
        examples=["click_times"],
    )
    target: str = Field(
        UNSET,
        description="Column of the sample with the target's own time or value. Null where it has none. In a log the "
        "column itself, where its value is known before the event, such as the page; a dwell time or a rating is not.",
    )
    bins: Annotated[int, Field(ge=2, le=2**16)] = Field(
        UNSET,
        description="Number of bins of a number, learnt from the training split. Without it a column other than `age` "
        "is a category with a vocabulary.",
    )
    time_unit: TimeUnit = Field(
        UNSET, description="Unit of times that are whole numbers. By default it is recognised by their size."
    )
    min_categr_count: Count = Field(UNSET, description="Least count of a category in the training split.")
    embedding_dim: Count = Field(UNSET, description="Width of the embedding of this feature.")

    @model_validator(mode="after")
    def _fit_together(self) -> EventColumn:
        if self.bins is not None and self.name in ("weekday", "hour"):
            raise ConfigError(f"{self.name} has its own values and no `bins`")
        return self


# Keys that say something in some forms only, with those forms.
_FORMS_OF_KEYS: Mapping[str, tuple[Form, ...]] = {
    "samples": ("log",),
    "history": ("log",),
    "negatives": ("log",),
    "history_col": ("samples",),
    "splitter": ("samples",),
    "event_cols": ("log", "samples"),
    "item_data": ("log", "samples"),
    "user_data": ("log", "samples", "flat"),
    "user_col": ("log", "samples", "flat"),
    "weight_col": ("log", "samples", "flat"),
    "split": ("log", "samples", "flat"),
    "sep": ("log", "samples", "flat"),
}
_IN_WORDS: Mapping[Form, str] = {
    "synthetic": "a synthetic dataset",
    "log": "a log of events (`interactions`)",
    "samples": "samples that are ready (`train_data` with `item_data` or `history_col`)",
    "flat": "samples without items (`train_data` alone)",
    "prepared": "data that FuxiCTR prepared (no `feature_cols`)",
    "built": "a dataset that a script builds (`data_format` is not csv, parquet or npz)",
}


def form_of(entry: Mapping[str, Any]) -> Form:
    """Which form a dataset's entry, or the parameters of a run, have; `check_form` says whether its keys fit.

    >>> form_of({"interactions": {}}), form_of({"data_format": "h5", "train_data": "x.h5"})
    ('log', 'built')
    >>> form_of({"data_format": "csv", "train_data": "x.csv", "feature_cols": [], "history_col": "clicks"})
    'samples'
    """
    if entry.get("synthetic") is not None:
        return "synthetic"
    if entry.get("interactions") is not None:
        return "log"
    if entry.get("data_format") not in READ_FORMATS:
        return "built"
    if entry.get("feature_cols") is None:
        return "prepared"
    return "flat" if entry.get("item_data") is None and entry.get("history_col") is None else "samples"


def unread_format(entry: Mapping[str, Any]) -> str:
    """What to do about a `data_format` that is not read; nothing where it is.

    >>> unread_format({"data_format": "tfrecord", "train_data": "x"}).split(":")[0]
    "; data_format 'tfrecord' is not read"
    """
    given = entry.get("data_format")
    if entry.get("train_data") is None or given in KNOWN_FORMATS:
        return ""
    problem = "`data_format` is not set" if given is None else f"data_format {given!r} is not read"
    return f"; {problem}: convert the files to csv or parquet, or to npz with FuxiCTR's feature_map.json"


def check_form(entry: Mapping[str, Any]) -> None:
    """Refuse keys that do not fit together, on values that are typed already.

    Raises:
        ConfigError: naming the key and what to do.
    """
    form = form_of(entry)
    given = {key for key, value in entry.items() if value is not None}
    if "interactions" in given and (both := given & {"train_data", "valid_data", "test_data"}):
        raise ConfigError(f"`interactions` (a log) and `{min(both)}` (samples) exclude each other: keep one of them")
    for key, forms in _FORMS_OF_KEYS.items():
        if key in given and form not in forms:
            meant = " or ".join(_IN_WORDS[other] for other in forms)
            hint = ". Is `data_format` missing?" if form == "built" and "data_format" not in given else ""
            raise ConfigError(f"`{key}` means nothing for {_IN_WORDS[form]}; it is for {meant}{hint}")
    if form == "built" or form == "synthetic":
        return
    _check_files(entry, form)


def _check_files(entry: Mapping[str, Any], form: Form) -> None:
    data_format: str | None = entry.get("data_format")
    split: SplitSettings | None = entry.get("split")
    by = None if split is None else split.by
    if form == "log":
        if data_format not in (None, "csv", "parquet"):
            raise ConfigError(f"`interactions` are read from csv or parquet, not {data_format}")
        if by == "order":
            raise ConfigError("a log is split by time, user, last_item or column; `by: order` is for samples")
        return
    if data_format == "npz" and form != "prepared":
        raise ConfigError(
            "`data_format: npz` is for data that FuxiCTR encoded, which its feature_map.json describes: leave out "
            "`feature_cols`, or write the data as parquet"
        )
    if entry.get("train_data") is None:
        raise ConfigError(f"`data_format: {data_format}` needs `train_data`: the file, glob or folder of the samples")
    if split is None and entry.get("valid_data") is None:
        raise ConfigError(
            "there is no `valid_data`, by which training selects: name the file, or cut it off with "
            "split: {by: user, valid: 0.1, test: 0.1}"
        )
    if split is not None and (entry.get("valid_data") is not None or entry.get("test_data") is not None):
        raise ConfigError("`split` cuts `train_data` into pieces: leave out `valid_data` and `test_data`, or `split`")
    if by == "last_item":
        raise ConfigError("`by: last_item` needs `interactions`; samples are split by time, user, order or column")
    if split is not None and by == "time" and split.time is None:
        raise ConfigError("split: `by: time` needs `time`, the column of times of the samples")


assert {form for forms in _FORMS_OF_KEYS.values() for form in forms} <= {*get_args(Form)}
