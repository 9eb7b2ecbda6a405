"""What `fxmm init` proposes to train: the recommended form of QIN, item vectors where they can be made, a search."""

import numpy as np
import polars as pl
import pytest
import yaml

from fuxictr_multimodal.config.expids import check_model_keys, list_expids, load_config, load_dataset_config
from fuxictr_multimodal.data.proposal import behaviour
from fuxictr_multimodal.data.proposal.write import propose
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning.space import Space
from fuxictr_multimodal.zoo.models import resolve
from tests.helpers import shop


@pytest.fixture
def proposed(tmp_path, monkeypatch):
    """Write tables, propose, and return the entry, the experiments' folder and the texts of all three files."""
    monkeypatch.chdir(tmp_path)

    def run(frames, **options):
        paths = [f"{name}.parquet" for name in frames]
        for path, frame in zip(paths, frames.values(), strict=True):
            frame.write_parquet(path)
        found = propose(paths, dataset_id="Shop", config_dir=tmp_path / "config", overwrite=True, **options)
        return load_dataset_config(tmp_path / "config", "Shop"), [path.read_text() for path in found.files]

    return run


def qin(tmp_path):
    return load_config(tmp_path / "config", "QIN_Shop")


def vectors_of(entry):
    return [column for column in entry["feature_cols"] if "item_vectors" in column]


def test_a_log_gets_item_vectors_and_the_recommended_form(proposed, tmp_path):
    entry, (text, models, _) = proposed({"log": shop.log(2400), "items": shop.items()})
    assert vectors_of(entry) == [
        {
            "name": "item_cooc_d64", "active": True, "dtype": "float", "type": "embedding", "source": "item",
            "pretrain_dim": 64, "item_vectors": "cooccurrence",
        }
    ]  # fmt: skip
    assert "# vectors of items that the same training users have; a sample's target is not counted\n" in text
    params = qin(tmp_path)
    recipe = {
        "attention_activation": "relu_mean", "attention_similarity": True, "contrastive_loss": 1.0, "num_row": 1,
        "weight_averaging": 0.98,
    }  # fmt: skip
    assert {key: params[key] for key in recipe} == recipe
    assert "attention_activation: relu_mean  # starts as the mean of the history; the published form: relu\n" in models
    for expid in list_expids(tmp_path / "config"):
        params = load_config(tmp_path / "config", expid)
        check_model_keys(params, resolve(params["model"]).model_class)


def test_samples_with_histories_get_them_by_their_users(proposed):
    entry, _ = proposed({"impressions": shop.samples(1200).rename({"user_id": "uid"})})
    assert [column["name"] for column in vectors_of(entry)] == ["item_cooc_d64"]
    assert entry["user_col"] == entry["group_id"] == "uid"
    # Samples without a user are refused then.
    users = pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("user_id").alias("user_id")
    entry, (text, *_) = proposed({"impressions": shop.samples(1200).with_columns(users)})
    assert not vectors_of(entry)
    assert "uncomment it once no user_id is missing" in text
    # The build would write the fold of a user under this name.
    entry, (text, *_) = proposed({"impressions": shop.samples(1200).with_columns(item_fold=pl.int_range(pl.len()) % 7)})
    assert "item_fold" not in [column["name"] for column in entry["feature_cols"]]
    assert "# - {name: item_fold" in text
    # Nobody knows then whose histories they are.
    entry, _ = proposed({"impressions": shop.samples(1200).drop("user_id")})
    assert not vectors_of(entry)


@pytest.mark.parametrize(
    ("log", "note"),
    [
        (shop.log(2400).unique("user_id"), "here too few have any in common"),
        (
            shop.log(2400).with_columns(item_id=pl.lit("sku-") + (pl.int_range(2400) % 3).cast(pl.String)),
            "here too few",
        ),
    ],
    ids=["one event a user", "three items"],
)
def test_without_pairs_the_vectors_are_a_comment(proposed, log, note):
    entry, (text, *_) = proposed({"log": log})
    assert not vectors_of(entry)
    (line,) = [line for line in text.splitlines() if "item_vectors" in line]
    assert line.strip().startswith("# - {name: item_cooc_d64")
    assert note in line


def test_vectors_that_would_fill_the_memory_are_a_comment(proposed, monkeypatch):
    monkeypatch.setattr(behaviour, "MOST_PAIRS", 1000)
    entry, (text, *_) = proposed({"log": shop.log(2400)})
    assert not vectors_of(entry)
    assert "uncomment it if there is about 0 GB of memory" in text


def test_titles_become_vectors_where_items_have_no_others(proposed, tmp_path):
    bare = shop.items().drop("vector")
    entry, _ = proposed({"log": shop.log(300).unique("user_id"), "items": bare})
    (title,) = [column for column in entry["feature_cols"] if column["name"] == "title"]
    assert (title["type"], title["encoder"], title["pretrain_dim"]) == ("text", "tfidf", 64)
    assert qin(tmp_path)["attention_similarity"] is True
    proposed({"log": shop.log(300).unique("user_id"), "items": bare.drop("title")})
    assert "attention_similarity" not in qin(tmp_path)


def test_the_split_says_whether_users_are_new(proposed, tmp_path):
    log = shop.log(2400)
    entry, (_, models, _) = proposed({"log": log}, split_by="user")
    assert entry["split"] == {"by": "user", "valid": 0.1, "test": 0.1, "seed": 1}
    assert (qin(tmp_path)["embedding_regularizer"], qin(tmp_path)["num_layers"]) == (0.1, 1)
    assert "users of valid are new, so it is strong: ids of items overfit" in models
    entry, _ = proposed({"log": log}, split_by="last_item")
    assert entry["split"] == {"by": "last_item"}
    assert (qin(tmp_path)["embedding_regularizer"], qin(tmp_path)["num_layers"]) == (0.01, 2)
    # By time, as the files suggest: the users come back, unless each stays for a day.
    proposed({"log": log})
    assert qin(tmp_path)["embedding_regularizer"] == 0.01
    guests = log.with_columns(user_id=pl.lit("u") + (pl.int_range(2400) // 10).cast(pl.String))
    proposed({"log": guests})
    assert qin(tmp_path)["embedding_regularizer"] == 0.1
    ready = shop.samples(1200)
    proposed({"train": ready[:900], "valid": ready[900:]})
    assert qin(tmp_path)["embedding_regularizer"] == 0.01
    strangers = ready[900:].with_columns(user_id=pl.lit("new ") + pl.col("user_id"))
    proposed({"train": ready[:900], "valid": strangers})
    assert qin(tmp_path)["embedding_regularizer"] == 0.1


@pytest.mark.parametrize(
    ("frames", "by", "message"),
    [
        ({"train": shop.samples(90), "valid": shop.samples(90)}, "user", "--split user: the files are split already"),
        ({"ready": shop.samples(90)}, "last_item", "--split last_item is for a log of events, and ready.parquet has"),
        ({"log": shop.log(90).drop("timestamp")}, "time", "--split time: log.parquet has no column of times"),
        ({"ready": shop.samples(90).drop("user_id")}, "user", "no column of users: name it with --user"),
    ],
)
def test_files_that_cannot_be_split_so(proposed, tmp_path, frames, by, message):
    with pytest.raises(ConfigError, match=message):
        proposed(frames, split_by=by)
    assert not (tmp_path / "config").exists()


def test_the_search_is_that_of_the_data(proposed, tmp_path):
    _, (_, _, text) = proposed({"log": shop.log(2400)}, split_by="user")
    path = tmp_path / "config/tuner/QIN_Shop_search.yaml"
    assert f"# fxmm tune --config {path} --search tpe --trials 20\n" in text
    space = Space.read(path)
    assert space.base_expid == "QIN_Shop"
    assert {*space.varied} == {
        "learning_rate", "embedding_regularizer", "net_dropout", "num_layers", "embedding_dim", "contrastive_loss",
    }  # fmt: skip
    assert yaml.safe_load(text)["tuner_space"]["embedding_regularizer"] == {"low": 0.01, "high": 0.3, "log": True}
    (trial,) = space.representatives()
    check_model_keys(trial.params, resolve("QIN").model_class)


def test_plain_features_have_neither_histories_nor_their_options(proposed, tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"clk": rng.integers(0, 2, 900), "I1": rng.normal(size=900), "C1": rng.choice(["a", "b"], 900)}
    )
    _, (*_, search) = proposed({"data": frame})
    assert not {"attention_activation", "attention_similarity", "contrastive_loss"} & set(qin(tmp_path))
    assert "contrastive_loss" not in search
