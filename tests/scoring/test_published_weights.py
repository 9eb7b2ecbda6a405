"""Weights under their published names: they score as the formulas say, and whatever does not fit is refused by name."""

import csv
import pickle

import numpy as np
import polars as pl
import pytest
import torch

from fuxictr_multimodal.data.recipes.microlens.challenge import build
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.scoring.published_weights import export_weights, import_weights
from fuxictr_multimodal.scoring.scores import predict
from model_zoo.QIN import QIN
from tests.helpers import challenge_files as files
from tests.helpers.reference_qin import feature_map, small_qin

WIDTH, LAYERS, ROWS = 8, 2, 3
LOOKUP = "embedding_layer.embedding_layer.embedding_layers."
GIVEN = "embedding_layer.embedding_layer.feature_encoders.item_emb_d128.weight"


def published_shapes(*, items, tags=11_740, levels=11, given=128, width, layers, rows):
    """Names and shapes of a published weight file, from the formulas."""
    item = 3 * width
    attention, whole = 2 * item, 2 * width + 2 * item
    shapes = {
        LOOKUP + "likes_level.weight": (levels, width),
        LOOKUP + "views_level.weight": (levels, width),
        LOOKUP + "item_id.weight": (items, width),
        LOOKUP + "item_tags.weight": (tags, width),
        GIVEN: (width, given),
        **{f"attention_layers.W_{name}.weight": (attention, item) for name in "qkv"},
        "attention_layers.W_o.weight": (item, attention),
        "qnn.fc.weight": (1, whole),
        "qnn.fc.bias": (1,),
    }
    for i in range(layers):
        shapes[f"qnn.layer.{i}.linear.0.weight"] = (rows * whole, whole)
        shapes[f"qnn.layer.{i}.linear.0.bias"] = (rows * whole,)
        shapes |= {f"qnn.norm.{i}.{name}": (whole,) for name in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"qnn.norm.{i}.num_batches_tracked"] = ()
        shapes[f"qnn.activation.{i}.weight"] = (1,)
    return shapes


@pytest.fixture(scope="module")
def weights():
    """A published file's content at small width, in NumPy; large enough values that errors would show."""
    rng = np.random.default_rng(5)
    made = {}
    shapes = published_shapes(items=files.ITEMS, width=WIDTH, layers=LAYERS, rows=ROWS)
    for name, shape in shapes.items():
        if "tracked" in name:
            made[name] = np.array(7)
        elif "running_var" in name:
            made[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            scale = 0.3 if "embedding" in name or len(shape) < 2 else 0.5 / np.sqrt(shape[1])
            made[name] = rng.normal(scale=scale, size=shape).astype(np.float32)
    for name in ("likes_level", "views_level", "item_id", "item_tags"):
        made[f"{LOOKUP}{name}.weight"][0] = 0
    return made


@pytest.fixture
def weight_file(weights, tmp_path):
    path = tmp_path / "QIN_variety_v9.model"
    torch.save({name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}, path)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("published")
    raw = files.write_challenge(folder / "raw")
    build(
        raw=raw, dataset_id="MicroLens_1M_x1", config_dir=repository / "config", data_root=folder / "data",
        any_size=True, progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture
def score(dataset, repository, tmp_path):
    def run(**arguments):
        settings = {"embedding_dim": WIDTH, "num_layers": LAYERS, "num_row": ROWS, "verbose": 0, "batch_size": 32}
        settings |= {"data_root": dataset / "data", "model_root": tmp_path / "checkpoints"} | arguments.pop("set", {})
        return predict(
            config_dir=repository / "config", expid="QIN_MicroLens_1M_x1",
            overrides=[f"{key}={value}" for key, value in settings.items()], **arguments,
        )  # fmt: skip

    return run


def scores_by_formula(weights, rows, item_tags, item_emb):
    """Probabilities in float64, from the formulas and the raw files alone, row by row."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def item(i):
        tags = [t for t in item_tags[i] if t]
        mean = np.mean([w[LOOKUP + "item_tags.weight"][t] for t in tags], axis=0) if tags else np.zeros(WIDTH)
        return np.concatenate([w[LOOKUP + "item_id.weight"][i], mean, w[GIVEN] @ item_emb[i]])

    scores = []
    for row in range(len(rows["item_id"])):
        target = item(rows["item_id"][row])
        query = w["attention_layers.W_q.weight"] @ target
        pooled = np.zeros(len(query))
        for i in rows["item_seq"][row]:
            if i:
                history = item(i)
                weight = max(0.0, query @ (w["attention_layers.W_k.weight"] @ history) / np.sqrt(len(query)))
                pooled += weight * (w["attention_layers.W_v.weight"] @ history)
        context = [w[f"{LOOKUP}{name}.weight"][rows[name][row]] for name in ("likes_level", "views_level")]
        x = np.concatenate([*context, target, w["attention_layers.W_o.weight"] @ pooled + target])
        for i in range(LAYERS):
            maps = w[f"qnn.layer.{i}.linear.0.weight"].reshape(ROWS, len(x), len(x))
            biases = w[f"qnn.layer.{i}.linear.0.bias"].reshape(ROWS, len(x))
            y = x * sum(maps[r] @ x + biases[r] for r in range(ROWS))
            y = (y - w[f"qnn.norm.{i}.running_mean"]) / np.sqrt(w[f"qnn.norm.{i}.running_var"] + 1e-5)
            y = y * w[f"qnn.norm.{i}.weight"] + w[f"qnn.norm.{i}.bias"]
            x = x + np.where(y > 0, y, w[f"qnn.activation.{i}.weight"] * y)
        logit = w["qnn.fc.weight"][0] @ x + w["qnn.fc.bias"][0]
        scores.append(1 / (1 + np.exp(-logit)))
    return np.array(scores)


def test_imported_weights_score_as_the_formulas_say(score, dataset, weights, weight_file, tmp_path):
    scored = score(imported=weight_file, out=tmp_path / "scores.parquet")
    rows = files.load(dataset / "raw/MicroLens_1M_x1/test.parquet")
    items = files.load(dataset / "raw/MicroLens_1M_x1/item_info.parquet")
    expected = scores_by_formula(weights, rows, items["item_tags"], items["item_emb_d128"])
    found = pl.read_parquet(scored.out)
    assert found.columns == ["ID", "user_id", "item_id", "score"]
    assert (found["ID"].to_numpy() == rows["ID"]).all()
    assert np.abs(found["score"].to_numpy() - expected).max() < 1e-5
    assert expected.std() > 0.05


def test_export_gives_the_published_file_back(score, weights, weight_file, tmp_path):
    assert score(imported=weight_file, exported=tmp_path / "again/x.model", score=False) is None
    again = torch.load(tmp_path / "again/x.model", weights_only=True)
    assert set(again) == set(weights)
    for name, value in weights.items():
        assert np.array_equal(again[name].numpy(), value), name


def test_the_published_network_has_the_published_names_and_size():
    model = QIN(feature_map(items=91_718, tags=11_740, given={"item_emb_d128": 128}), verbose=0)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == published_shapes(items=91_718, width=128, layers=4, rows=4)
    assert sum(value.numel() for value in model.parameters()) == 31_244_293


def test_a_file_without_counters_is_fine(weights, tmp_path, score):
    kept = {name: torch.from_numpy(np.asarray(v)) for name, v in weights.items() if "tracked" not in name}
    torch.save(kept, tmp_path / "x.model")
    assert score(imported=tmp_path / "x.model").rows == files.ROWS["test"]


CASES = {
    "missing": (lambda w: w.pop("qnn.fc.bias"), r"'qnn.fc.bias' is missing\. The file is of another network"),
    "unknown": (
        lambda w: w.update({"qnn.fc.offset": w["qnn.fc.bias"]}),
        r"'qnn.fc.offset' is no weight of this model\. The file is of another network",
    ),
    "missing layer": (
        lambda w: [w.pop(name) for name in list(w) if ".1." in name],
        r"'qnn.layer.1.linear.0.weight' is missing\. It is of layer 2 where the other side has 1: see num_layers",
    ),
    "further layer": (
        lambda w: w.update({"qnn.layer.2.linear.0.bias": w["qnn.layer.0.linear.0.bias"]}),
        r"'qnn.layer.2.linear.0.bias' is no weight .*layer 3 where the other side has 2",
    ),
    "other rows": (
        lambda w: w.update({n: v[: len(v) // 3] for n, v in w.items() if ".0.linear.0." in n}),
        r"'qnn.layer.0.linear.0.weight' has shape \(64, 64\), the model needs \(192, 64\)\. .*--set num_row=1",
    ),
    "other items": (
        lambda w: w.update({LOOKUP + "item_id.weight": w[LOOKUP + "item_id.weight"][:-1]}),
        r"item_id.weight' has shape \(39, 8\), the model needs \(40, 8\)\. The vocabulary of the dataset",
    ),
    "other width": (
        lambda w: w.update({"attention_layers.W_q.weight": w["attention_layers.W_q.weight"][:-1]}),
        r"'attention_layers.W_q.weight' has shape \(47, 24\), the model needs \(48, 24\)\. .*embedding_dim",
    ),
    "integers": (
        lambda w: w.update({"qnn.fc.bias": w["qnn.fc.bias"].long()}),
        "'qnn.fc.bias' holds torch.int64, the model needs torch.float32",
    ),
    "not finite": (
        lambda w: w["qnn.fc.weight"].fill_(float("nan")),
        "'qnn.fc.weight' holds a value that is not finite",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused_by_name(case, weights, score, tmp_path):
    spoil, message = CASES[case]
    changed = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    spoil(changed)
    torch.save(changed, tmp_path / "x.model")
    with pytest.raises(DataError, match=message):
        score(imported=tmp_path / "x.model")


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file of weights"),
        (b"", "no state dict of tensors, or a damaged one"),
        (b"hello", "no state dict of tensors, or a damaged one"),
        (pickle.dumps(Evil(), protocol=2), "no state dict of tensors, or a damaged one"),
        ([1, 2], "holds list, wanted is a state dict"),
        ({"a": 1}, "holds dict, wanted is a state dict"),
        ({"a": Evil()}, "no state dict of tensors, or a damaged one"),
    ],
)
def test_files_that_are_no_weights(content, message, tmp_path, capsys):
    path = tmp_path / "x.model"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DataError, match=message) as caught:
        import_weights(small_qin(), path)
    assert "\n" not in str(caught.value)
    assert "code was run" not in capsys.readouterr().out


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    model = small_qin()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = {**before, "qnn.fc.bias": torch.zeros(2)}
    torch.save({name: value + 1 for name, value in wrong.items()}, tmp_path / "x.model")
    with pytest.raises(DataError):
        import_weights(model, tmp_path / "x.model")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_ablation_has_no_published_names(tmp_path):
    model = small_qin(interaction="mlp")
    for call in (import_weights, export_weights):
        with pytest.raises(ConfigError, match="QIN has the weight 'mlp.*only QIN with its attention"):
            call(model, tmp_path / "x.model")


def test_scores_change_with_the_weights(tmp_path):
    from tests.helpers.reference_qin import random_batch

    model, other = small_qin(seed=1), small_qin(seed=2)
    batch = random_batch(model.feature_map, np.random.default_rng(0), rows=9)
    export_weights(other, tmp_path / "x.model")
    other.attach(model.item_table)
    with torch.no_grad():
        model.eval(), other.eval()
        before, expected = model(batch)["y_pred"], other(batch)["y_pred"]
        import_weights(model, tmp_path / "x.model")
        assert not torch.allclose(before, expected)
        assert torch.equal(model(batch)["y_pred"], expected)


def test_the_published_curves(repository):
    with (repository / "results/published_microlens_1m.csv").open() as file:
        rows = list(csv.DictReader(file))
    for run, epochs, best, num_row in (("QIN_9701", 41, 0.970104, "4"), ("QIN_9695", 31, 0.969521, "3")):
        curve = [row for row in rows if row["run"] == run]
        assert [int(row["epoch"]) for row in curve] == list(range(1, epochs + 1))
        assert max(float(row["valid_auc"]) for row in curve) == best
        assert {row["num_row"] for row in curve} == {num_row}
        highest, rate = -1.0, 2e-3
        for row in curve:
            assert float(row["learning_rate"]) == pytest.approx(rate)
            if float(row["valid_auc"]) <= highest:
                rate = max(rate / 2, 1e-6)
            highest = max(highest, float(row["valid_auc"]))
