"""Sizes follow the counts of a dataset, and every model of a comparison takes its entry and the search space."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from fuxictr_multimodal.comparison.budgeted import models
from fuxictr_multimodal.comparison.budgeted.generate import Files, expid_of, write_comparison, write_configs
from fuxictr_multimodal.comparison.budgeted.models import BY_LABEL, CORE, MODELS, PEERS
from fuxictr_multimodal.comparison.budgeted.shape import Shape
from fuxictr_multimodal.comparison.settings import Comparison
from fuxictr_multimodal.config.expids import base_entry, check_model_keys, load_config, load_dataset_config
from fuxictr_multimodal.data.proposal.sizes import Counts, Sizes
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning.settings import Range
from fuxictr_multimodal.launch.tuning.space import Space
from fuxictr_multimodal.zoo.models import resolve
from model_zoo.QIN.options import QINOptions


def shape(rows, *, positives=0.3, items=5_000, mean_history=10.0, **other):
    counts = {"valid_rows": rows // 10 + 1, "test_rows": rows // 10 + 1, "positives": int(rows * positives)}
    return Shape(rows=rows, items=items, mean_history=mean_history, **counts, **other)


WITH_USERS = {"item_id": "item_id", "item_content": ("tags",), "item_tags": (("tags", 20),), "user": ("user", 6_000)}
SHAPES = {
    "tiny": shape(300, items=40),
    "small": shape(4_000, items=500),
    "MovieLens": shape(80_000, positives=0.52, **WITH_USERS, known_users=0.99),
    "new users": shape(60_000, **WITH_USERS, known_users=0.0),
    "flat": shape(200_000, items=0, mean_history=0.0),
    "rare clicks": shape(2_000_000, positives=0.0005),
    "MicroLens": shape(3_600_000, items=91_717),
    "many items": shape(40_000_000, items=60_000_000),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_usable_at_every_shape(name):
    sizes = Sizes.of(SHAPES[name])
    rows = SHAPES[name].rows
    assert sizes.batch_size in sizes.batch_sizes
    assert sizes.embedding_dim in sizes.embedding_dims
    assert list(sizes.batch_sizes) == sorted(set(sizes.batch_sizes))
    assert all(size & (size - 1) == 0 for size in (*sizes.batch_sizes, *sizes.embedding_dims))
    assert max(sizes.batch_sizes) <= max(32, rows / 30)
    assert SHAPES[name].items * max(sizes.embedding_dims) <= 2**28
    least, most = sizes.regularizer
    # Where users are new, a stronger penalty pays.
    assert 0 < least < sizes.embedding_regularizer < most <= (0.3 if name == "new users" else 0.03)
    for value in sizes.space().values():
        if isinstance(value, dict):
            Range.model_validate(value)


def test_sizes_are_those_that_searches_ended_at():
    movielens, microlens = Sizes.of(SHAPES["MovieLens"]), Sizes.of(SHAPES["MicroLens"])
    assert (movielens.batch_sizes, movielens.embedding_dims) == ((512, 1024, 2048), (8, 16, 32))
    assert (microlens.batch_size, microlens.embedding_dim) == (8192, 128)
    assert microlens.widths[-1] == (1024, 512, 256)
    assert movielens.regularizer[0] <= 6e-3 <= movielens.regularizer[1]
    assert 6e-3 <= movielens.embedding_regularizer <= 1e-2
    assert microlens.embedding_regularizer == 1e-4
    assert (movielens.cpu_threads, microlens.cpu_threads) == (1, None)


def test_more_samples_want_larger_models_and_weaker_penalties():
    found = [Sizes.of(shape(rows)) for rows in (1_000, 10_000, 100_000, 1_000_000, 10_000_000)]
    for smaller, larger in itertools.pairwise(found):
        assert smaller.batch_size <= larger.batch_size
        assert smaller.embedding_dim <= larger.embedding_dim
        assert smaller.regularizer >= larger.regularizer
        assert smaller.epochs >= larger.epochs
        assert max(smaller.widths) <= max(larger.widths)


def test_where_users_are_new_the_penalty_is_strong_and_the_network_short():
    rows = (30_000, 64_000, 160_000, 400_000, 3_600_000)
    new = [Sizes.of(Counts(count, known_users=0.1)) for count in rows]
    known = [Sizes.of(Counts(count, known_users=0.9)) for count in rows]
    assert [sizes.embedding_regularizer for sizes in new[:2]] == [1e-1, 1e-1]
    assert [sizes.regularizer for sizes in new[:2]] == [(1e-2, 3e-1)] * 2
    for few, more in itertools.pairwise(new[1:]):
        assert few.embedding_regularizer > more.embedding_regularizer
        assert few.regularizer > more.regularizer
    assert all(n.embedding_regularizer > k.embedding_regularizer for n, k in zip(new[:4], known[:4], strict=True))
    # With millions of samples it is the same.
    assert new[4].embedding_regularizer == known[4].embedding_regularizer
    assert [sizes.num_layers for sizes in new] == [1, 1, 1, 1, 3]
    assert (new[1].net_dropout, new[1].epochs) == (0.4, 20)
    assert (known[1].num_layers, known[1].net_dropout, known[1].epochs) == (2, 0.3, 12)
    # What nobody knows is taken for known.
    assert Sizes.of(Counts(64_000)) == known[1]


def test_rare_clicks_count_as_fewer_samples():
    assert SHAPES["rare clicks"].informative_rows == 10_000
    assert Sizes.of(SHAPES["rare clicks"]).embedding_dim < Sizes.of(shape(2_000_000)).embedding_dim


def test_options_of_the_recommended_form_follow_the_counts():
    def recommended(name):
        return models.experiment(BY_LABEL["QIN_best"], SHAPES[name], Sizes.of(SHAPES[name]), dataset_id="d")

    known, new, flat, tiny = map(recommended, ("MovieLens", "new users", "flat", "tiny"))
    assert known["first_order"] == ["user", "item_id", "tags", "user*tags"]
    # Near what the search by hand ended at on MovieLens, a factor of two at most.
    for term, value in {"user": 2.4e-5, "item_id": 1.0e-5, "tags": 4.0e-5, "user*tags": 1.0e-4}.items():
        assert 0.5 < known["first_order_regularizer"][term] / value < 2
    assert "first_order" not in new
    assert (new["attention_activation"], new["contrastive_loss"], new["weight_averaging"]) == ("relu_mean", 1.0, 0.98)
    assert (new["num_layers"], new["num_row"], new["net_dropout"]) == (1, 1, 0.4)
    assert not {"contrastive_loss", "attention_activation", "first_order"} & set(flat)
    assert not {"feature_dropout", "attention_similarity"} & {*known, *new, *flat}
    assert "weight_averaging" not in tiny
    # Features of history events cost more than they gave on data whose events do not tell by their times.
    timed = dataclasses.replace(SHAPES["new users"], events=True)
    entry = models.experiment(BY_LABEL["QIN_best"], timed, Sizes.of(timed), dataset_id="d")
    assert not any("event_features" in found for found in (known, new, flat, tiny, entry))
    pretrained = dataclasses.replace(SHAPES["new users"], item_vectors=("title",))
    similar = models.experiment(BY_LABEL["QIN_best"], pretrained, Sizes.of(pretrained), dataset_id="d")
    assert similar["attention_similarity"] is True
    for entry in (known, new, flat, tiny, similar):
        QINOptions.of(entry)


def test_mean_pooling_with_the_losses_of_the_recommended_form_has_nothing_else_of_it():
    found = {
        label: models.experiment(BY_LABEL[label], SHAPES["MovieLens"], Sizes.of(SHAPES["MovieLens"]), dataset_id="d")
        for label in ("MeanMLP", "MeanMLP_losses", "QIN_best")
    }
    own = {k: v for k, v in found["MeanMLP_losses"].items() if k not in found["MeanMLP"]}
    assert own == {key: found["QIN_best"][key] for key in ("contrastive_loss", "weight_averaging")}
    assert {**found["MeanMLP_losses"], **found["MeanMLP"]} == found["MeanMLP_losses"]
    assert BY_LABEL["MeanMLP_losses"] not in MODELS


def test_models_without_histories_are_the_default_of_a_flat_dataset():
    found, core = models.choose(None, SHAPES["flat"], zoo_root=None)
    assert [model.label for model in found] == ["QIN_best", "QIN", "DCNv2", "FinalMLP", "MeanMLP", "Trees"]
    assert core == 6
    assert models.choose(None, SHAPES["small"], zoo_root=None)[1] == CORE
    with_columns = dataclasses.replace(SHAPES["flat"], history_columns=True)
    assert models.choose(None, with_columns, zoo_root=None)[1] == CORE
    assert models.choose(None, with_columns, zoo_root=None)[0] == [*MODELS]
    assert models.choose(["MUSE", "BST"], with_columns, zoo_root=None)[0] == [BY_LABEL["MUSE"], BY_LABEL["BST"]]
    chosen, core = models.choose(["DIN", "QIN", "DIN"], SHAPES["flat"], zoo_root=None)
    assert ([model.label for model in chosen], core) == (["DIN", "QIN"], 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("DINN", "'DINN' is not a model of the comparison. Did you mean 'DIN'"),
        ("qin", "Did you mean 'QIN'"),
        ("clone/DeepFM", "is of a FuxiCTR clone: give its folder with --zoo-root"),
    ],
)
def test_an_unknown_model_is_named(label, message):
    with pytest.raises(ConfigError, match=message):
        models.check_labels(["QIN", label], zoo_root=None)


def test_a_model_of_a_clone_is_read_off_its_constructor(tmp_path):
    folder = tmp_path / "model_zoo" / "Crossing" / "src"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .Crossing import Crossing\n")
    (folder / "Crossing.py").write_text(
        "from fuxictr.pytorch.models import BaseModel\n\n\n"
        "class Crossing(BaseModel):\n"
        "    def __init__(self, feature_map, num_cross_layers=3, hidden_units=[64], net_dropout=0, **kwargs):\n"
        "        super().__init__(feature_map, **kwargs)\n"
    )
    (model,) = models.choose(["Crossing"], SHAPES["small"], zoo_root=tmp_path)[0]
    assert (model.label, model.name) == ("clone/Crossing", "clone_Crossing")
    assert model.keys == {"num_layers": ["num_cross_layers"], "batch_norm": []}
    entry = models.experiment(model, SHAPES["small"], Sizes.of(SHAPES["small"]), dataset_id="d")
    assert (entry["model"], entry["num_cross_layers"], entry["hidden_units"]) == ("clone/Crossing", 2, [64, 32])
    assert "batch_norm" not in entry
    with pytest.raises(ConfigError, match="Did you mean 'clone/Crossing'"):
        models.check_labels(["clone/Crosing"], zoo_root=tmp_path)


@pytest.fixture
def written(tmp_path, repository, monkeypatch):
    """The files of a comparison of all models on Synthetic_test, which need no built dataset."""
    monkeypatch.chdir(tmp_path)
    files = Files(Path("results/compare"))
    small = SHAPES["small"]
    write_configs(
        files,
        models=(*MODELS, *PEERS),
        shape=small,
        sizes=Sizes.of(small),
        base=base_entry(repository / "config"),
        dataset=load_dataset_config(repository / "config", "Synthetic_test"),
        group_id="user_id",
        zoo_root=None,
        command=["python", "run_comparison.py", "--dataset", "Synthetic_test"],
    )
    return files


@pytest.mark.parametrize("model", [*MODELS, *PEERS], ids=lambda model: model.label)
def test_every_model_takes_its_entry_and_the_space(written, model):
    expid = expid_of(model, "Synthetic_test")
    params = load_config(written.config, expid)
    space = Space.read(written.search, expid=expid)
    space.refuse_unlisted_keys()
    (trial,) = space.representatives()
    for settings in (params, trial.params):
        check_model_keys(settings, resolve(settings["model"]).model_class)
    assert params["group_id"] == "user_id"
    assert params["model_root"] == "results/compare/checkpoints"
    if model.own_space:
        assert set(space.varied) == set(model.own_space)
        return
    # The same for all: what is not a model's own.
    assert {"learning_rate", "embedding_regularizer", "batch_size", "embedding_dim"} <= set(space.varied)
    assert not {axis for other in MODELS for axis in other.own_space} & set(space.varied)


def test_the_comparison_file_repeats_the_comparison(written):
    expids = ["QIN_Synthetic_test", "DIN_Synthetic_test"]
    write_comparison(
        written,
        expids,
        dataset_id="Synthetic_test",
        trials=3,
        seeds="1-2",
        baseline="DIN_Synthetic_test_tuned",
        resample="groups",
    )
    comparison = Comparison.read(written.comparison)
    assert comparison.tuning is not None
    assert set(comparison.tuning.trials.values()) == {3}
    assert comparison.names == ["QIN_Synthetic_test_tuned", "DIN_Synthetic_test_tuned"]
    assert comparison.tuning.folder("QIN_Synthetic_test").path == written.sweep("QIN_Synthetic_test").path


def test_grouped_metrics_need_a_group(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset_config(repository / "config", "Synthetic_test")
    files = Files(Path("out"))
    write_configs(
        files,
        models=MODELS[:1],
        shape=SHAPES["small"],
        sizes=Sizes.of(SHAPES["small"]),
        base=base_entry(repository / "config"),
        dataset=dataset,
        group_id=None,
        zoo_root=None,
        command=["x"],
    )
    params = load_config(files.config, "QIN_best_Synthetic_test")
    assert params["metrics"] == ["AUC", "logloss"]
    assert "group_id" not in params
