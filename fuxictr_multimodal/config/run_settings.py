"""Settings of a run: what the runner reads beside the parameters of a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation

from fuxictr_multimodal.config.binder import AS_WRITTEN, UNSET, Count, Settings, UserPath

# `known_values.py` checks what FuxiCTR looks up or evaluates; the types here are for the reference.
Names = SkipValidation[str | tuple[str, ...]]
Regularizer = SkipValidation[float | str]


class RunSettings(Settings):
    """An experiment of `model_config/*.yaml`, with `Base` under it. FuxiCTR's keys keep FuxiCTR's meaning."""

    model: SkipValidation[str] = Field(
        description="Name of the model: `QIN`, a model of FuxiCTR's `LongCTR`, or one of the clone in `zoo_root`."
    )
    dataset_id: SkipValidation[str] = Field(description="Entry of `dataset_config/*.yaml` to train on.")
    model_root: UserPath = Field(
        description="Folder of the results. Files of a run are `<model_root>/<dataset_id>/<run>.*`."
    )
    model_id: SkipValidation[str] = Field("", description="FuxiCTR's name of the run. It is set from the expid.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        description="Seed of the initial weights, dropout and the order of the samples. `--seed` replaces it."
    )
    epochs: Count = Field(description="Largest number of passes over the training split.")
    batch_size: Count = Field(
        description="Samples of a batch. Where several processes train, of all of them together: each has its share."
    )
    metrics: SkipValidation[tuple[str, ...]] = Field(
        description="Metrics of the validation and test split: `AUC`, `gAUC`, `logloss`, `ECE`, `avgAUC`, `MRR`, "
        "`MAP`, `NDCG(k=5)`, `HR(k=5)`, `MAP(k=5)`, `Precision(k=5)`, `Recall(k=5)`. All but `AUC`, `logloss` and "
        "`ECE` are computed within groups and need `group_id`."
    )
    monitor: SkipValidation[str | dict[str, float]] = Field(
        description="What selects on the validation split: a metric, or a weighted sum such as `{AUC: 1, logloss: -1}`."
    )
    monitor_mode: SkipValidation[Literal["max", "min"]] = Field(
        "max", description="Whether a larger or a smaller monitored value is better."
    )
    early_stop_patience: Count = Field(
        2, description="Training stops after this number of evaluations without a better monitored value."
    )
    eval_steps: Count = Field(
        UNSET,
        description="Training steps between two evaluations. By default one epoch.",
    )
    save_best_only: bool = Field(
        True, description="Keep the weights of the best evaluation. Otherwise the last ones are kept."
    )
    reduce_lr_on_plateau: bool = Field(
        True, description="Multiply the learning rate with `factor` after an evaluation without a better value."
    )
    factor: Annotated[float, Field(gt=0, le=1), AS_WRITTEN] = Field(
        0.1, description="What the learning rate is multiplied with; see `reduce_lr_on_plateau`."
    )
    save_minutes: Annotated[float, Field(gt=0), AS_WRITTEN] | None = Field(
        10,
        description="Minutes of training between two states that a killed run resumes from. Each evaluation saves one "
        "too. The last two are kept while a run is unfinished. `null` saves at evaluations alone. Results do not "
        "depend on it.",
    )
    save_steps: Count = Field(
        UNSET, description="Training steps between two such states, beside `save_minutes`. By default none are counted."
    )
    weight_averaging: Annotated[float, Field(ge=0, lt=1), AS_WRITTEN] = Field(
        0, description="Decay of the moving average of weights that is evaluated and saved. 0 means none."
    )
    sync_batch_norm: bool = Field(
        True,
        description="Where several processes train: BatchNorm normalises over the global batch, as one process does. "
        "Otherwise each process normalises over its share, and the running statistics are averaged.",
    )
    rank_timeout: Annotated[float, Field(gt=0), AS_WRITTEN] = Field(
        600,
        description="Where several processes train: seconds after which one that does not answer ends the run. It must "
        "be longer than it takes to compute metrics and to write a state.",
    )
    warm_start: UserPath = Field(
        UNSET,
        description="Start from the weights of a finished run of the same model: its name, `<dataset_id>/<name>`, its "
        "report or its model file. Rows of embeddings are matched by id or token; new ones are initialised.",
    )
    max_gradient_norm: Annotated[float, Field(gt=0), AS_WRITTEN] = Field(
        10, description="Gradients are clipped to this L2 norm."
    )
    optimizer: SkipValidation[str] = Field("adam", description="Optimizer of `torch.optim`.")
    shard_min_rows: Count = Field(
        UNSET,
        description="Spread the rows of embedding tables with at least this number of rows over the processes of the "
        "training, by torchrec. A step then updates the rows that it looked up, whatever the number of processes. "
        "So a run trains differently from one without this setting, where a step updates all rows. "
        "By default each process has all tables.",
    )
    sharded_update: Literal["adam", "sgd", "adagrad", "rowwise_adagrad"] = Field(
        UNSET,
        description="Optimizer of the tables that `shard_min_rows` spreads. `rowwise_adagrad` keeps one number for "
        "each row. By default that of the model.",
    )
    loss: Names = Field("binary_crossentropy", description="Loss of `torch.nn.functional`.")
    task: Names = Field("binary_classification", description="`binary_classification` or `regression`.")
    embedding_regularizer: Regularizer = Field(
        UNSET, description="Penalty on embedding weights: a number for L2, or `l1(x)`, `l2(x)`, `l1_l2(x,y)`."
    )
    net_regularizer: Regularizer = Field(UNSET, description="Penalty on all other weights, in the same form.")
    shuffle: bool = Field(True, description="Give the training samples another order in every epoch.")
    shuffle_window: Count = Field(
        32,
        description="Number of blocks of 65,536 samples that are shuffled together.",
    )
    loader_mode: Literal["auto", "resident", "streaming"] = Field(
        "auto",
        description="`resident` keeps a split in memory, `streaming` reads it in windows, `auto` chooses by free "
        "memory. Results do not depend on it.",
    )
    verify: Literal["auto", "full", "sizes"] = Field(
        "auto",
        description="Which files of the dataset are compared with their checksums before a run: `auto` those that "
        "changed since they last matched, `full` all (`--verify`), `sizes` those of another size, for file systems "
        "whose times are not reliable.",
    )
    group_id: SkipValidation[str] = Field(UNSET, description="Column that groups samples for grouped metrics.")
    use_features: SkipValidation[tuple[str, ...]] = Field(
        UNSET, description="Features that the model reads. By default it reads all of the dataset."
    )
    feature_specs: SkipValidation[tuple[dict[str, Any], ...]] = Field(
        UNSET, description="Changes of single features, such as `[{name: item_emb_d128, feature_encoder: ...}]`."
    )
    event_features: Names = Field(
        UNSET,
        description="Event features of the dataset that the model reads, such as the age of each history item: `all`, "
        "or their names. QIN and models of a clone read them of histories and target, LongCTR models of the target "
        "alone. By default none.",
    )
    zoo_root: UserPath = Field(
        UNSET, description="Folder of a FuxiCTR clone whose `model_zoo` holds the model. Its code is run."
    )
    gpu: SkipValidation[int] = Field(-1, description="Index of the GPU, -1 for the CPU. `--gpu` replaces it.")
    cpu_threads: Count = Field(
        UNSET,
        description="Threads of a run on the CPU, unless `OMP_NUM_THREADS` says otherwise. By default PyTorch's "
        "number. Small models are faster on one.",
    )
    verbose: SkipValidation[int] = Field(1, description="FuxiCTR's: 0 logs no progress within an epoch.")
    tuning_trials: SkipValidation[int] = Field(
        UNSET, description="Number of trials that the setting was found with. Leaderboards show it."
    )
    note: SkipValidation[str] = Field(UNSET, description="Text that is logged when the model is built.")


class ModelSettings(Settings):
    """Parameters that most models take. All others are those of the model's own signature."""

    learning_rate: Annotated[float, Field(gt=0, lt=100), AS_WRITTEN] = Field(
        1e-3, description="Learning rate of the optimizer."
    )
    embedding_dim: Count = Field(
        UNSET,
        description="Width of an embedding, unless the dataset sets it for a feature. By default the model's own, "
        "which is 128 for QIN: set it for small data.",
    )


class IgnoredSettings(Settings):
    """Keys of FuxiCTR's own files that are accepted, so that these files run unchanged, and have no effect."""

    num_workers: SkipValidation[int] = Field(UNSET, description="Worker processes of FuxiCTR's loader.")
    pickle_feature_encoder: SkipValidation[bool] = Field(UNSET, description="A dataset holds JSON and no pickle.")
    debug_mode: SkipValidation[bool] = Field(UNSET, description="Debug switch of older FuxiCTR versions.")
    feature_config: SkipValidation[Any] = Field(UNSET, description="Feature configuration of older FuxiCTR versions.")


RUN_KEYS = frozenset(RunSettings.model_fields)
FUXICTR_KEYS = frozenset(IgnoredSettings.model_fields)
