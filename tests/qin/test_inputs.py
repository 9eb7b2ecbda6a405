"""QIN reads ids, FuxiCTR's triple and flat columns alike; several behaviours and events of history items too."""

import copy

import numpy as np
import pytest
import torch
from fuxictr.features import FeatureMap
from sklearn.metrics import roc_auc_score

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN import QIN
from model_zoo.QIN.fields import Fields
from tests.helpers.flat_qin import (
    EVENTS,
    feature_map_of_items,
    flat_columns,
    flat_feature_map_of,
    qin_of,
    random_rows,
    table_of,
    without_events,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
OPTIONS = [
    {},
    {"attention_activation": "softmax"},
    {"pooling": "mean"},
    {"first_order": ["level", "item_id", "level*brand"]},
    {"feature_dropout": {"level": 0.3, "item_id": 0.3}},
]
TWO = ("history", "carts")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def run(model: QIN, inputs) -> dict[str, torch.Tensor]:
    """Logits, the loss and all gradients."""
    model.zero_grad()
    torch.manual_seed(5)
    found = model.forward(inputs)
    loss = model.compute_loss(found, model.get_labels(inputs))
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logit": found["logit"].detach(), "loss": loss.detach(), **grads}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ids_the_triple_and_flat_columns_give_the_same(rng, options, form):
    table, batch = table_of(rng), without_events(random_rows(rng, rows=12))
    of_items = qin_of(feature_map_of_items(), table=table, form=form, **options)
    flat = qin_of(flat_feature_map_of(), form=form, **options)
    assert of_items.state_dict().keys() == flat.state_dict().keys()
    expected = run(of_items, batch)
    assert_same(run(of_items, as_longctr(batch, table)), expected)
    for padding in ("pre", "post"):
        assert_same(run(flat, flat_columns(batch, table, padding=padding)), expected)
    assert flat.get_group_id(flat_columns(batch, table)).tolist() == list(range(12))


@pytest.mark.parametrize("options", [*OPTIONS, {"net_dropout": 0.3}], ids=str)
@pytest.mark.parametrize("longest", [6, 30])  # fewer slots, and more, than values of an event feature
def test_behaviours_and_events_are_equal_in_both_implementations_and_in_flat_columns(rng, options, longest):
    table, batch = table_of(rng), random_rows(rng, rows=12, behaviours=TWO, longest=longest)
    features = feature_map_of_items(behaviours=TWO, events=True)
    fast = qin_of(features, table=table, event_features="all", **options)
    plain = copy.deepcopy(fast)
    plain.form = "plain"
    assert fast.attention_layers is not fast.behaviour_attention["carts"]
    expected = run(plain, batch)
    assert_same(run(fast, batch), expected)
    flat = qin_of(flat_feature_map_of(behaviours=TWO, events=True), **options)
    renamed = {name.replace("carts_item_id", "carts"): value for name, value in flat.state_dict().items()}
    assert renamed.keys() == fast.state_dict().keys()
    flat.load_state_dict({name.replace(".carts.", ".carts_item_id."): v for name, v in fast.state_dict().items()})
    columns = flat_columns(batch, table, slots=longest)
    found = {name.replace("carts_item_id", "carts"): value for name, value in run(flat, columns).items()}
    assert_same(found, expected)


@pytest.mark.parametrize(("rows", "longest"), [(2, 1), (12, 6), (12, 30)])
@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_attention_with_events_equals_loops_over_the_formulas(rng, activation, rows, longest):
    """Few rows have fewer ids than there are values of an event feature, which are then looked up one by one."""
    table, batch = table_of(rng), random_rows(rng, rows=rows, longest=longest)
    features = feature_map_of_items(events=True)
    model = qin_of(features, table=table, event_features="all", attention_activation=activation)
    state = {name: value.numpy() for name, value in model.state_dict().items()}

    def embed(name, value):
        return state[f"embedding_layer.embedding_layer.embedding_layers.{name}.weight"][int(value)]

    def vector(item, events):
        brand = table.features["brand"][int(item)]
        return np.concatenate([embed("item_id", item), embed("brand", brand), *map(embed, EVENTS, events)])

    w_q, w_k, w_v, w_o = (state[f"attention_layers.W_{name}.weight"] for name in "qkvo")
    weigh = {
        "relu": lambda s: np.maximum(s, 0),
        "softmax": lambda s: np.exp(s) / np.exp(s).sum(),
    }[activation]
    reader = model._read(batch, model._columns(batch))
    target_BD, ((_, history),) = reader.interests(model.item_vectors)
    pooled = model.attention_layers(target_BD, history).detach().numpy()
    weights = model.attention_weights(batch)
    for row in range(rows):
        start, stop = batch.history.offsets[row : row + 2].tolist()
        target = vector(batch.target[row], [batch.features[name][row] for name in EVENTS])
        np.testing.assert_allclose(target_BD[row].detach().numpy(), target, **EXACT)
        items = [
            vector(batch.history.values[n], [batch.history.events[name][n] for name in EVENTS])
            for n in range(start, stop)
        ]
        a = weigh(np.array([(w_q @ target) @ (w_k @ h) / np.sqrt(len(w_q)) for h in items])) if items else []
        np.testing.assert_allclose(weights.values[start:stop].numpy(), a, **EXACT)
        summed = sum((a_s * (w_v @ h) for a_s, h in zip(a, items, strict=True)), np.zeros(len(w_v)))
        np.testing.assert_allclose(pooled[row], w_o @ summed + target, **EXACT)


def test_events_are_not_read_unless_they_are_asked_for(rng):
    table, batch = table_of(rng), random_rows(rng, rows=12)
    features = feature_map_of_items(events=True)
    silent = qin_of(features, table=table)
    assert run(silent, batch)["logit"].equal(run(qin_of(feature_map_of_items(), table=table), batch)["logit"])
    assert not any("age" in name for name in silent.state_dict())
    only = qin_of(features, table=table, event_features=["age"])
    assert any("age" in name for name in only.state_dict())
    assert not any("hour" in name for name in only.state_dict())
    batch.history.events["hour"].zero_()
    assert torch.isfinite(only(batch)["logit"]).all()


def test_event_features_that_are_not_there():
    with pytest.raises(ConfigError, match=r"'page' is not an event feature .*: the dataset has age, hour"):
        QIN(feature_map_of_items(events=True), verbose=0, event_features=["page"])
    with pytest.raises(ConfigError, match=r"'age' is not an event feature .*: the dataset has none"):
        QIN(feature_map_of_items(), verbose=0, event_features="age")


def test_a_history_without_an_event_reads_it_as_unknown(rng):
    table, batch = table_of(rng), random_rows(rng, rows=12)
    model = qin_of(feature_map_of_items(events=True), table=table, event_features="all")
    unknown = {**batch.history.events, "hour": torch.zeros_like(batch.history.events["hour"])}
    zeros = Jagged(batch.history.values, batch.history.offsets, unknown)
    absent = Jagged(batch.history.values, batch.history.offsets, {"age": batch.history.events["age"]})
    one, other = (Batch(batch.features, batch.target, history, batch.group) for history in (zeros, absent))
    assert_same(run(model, one), run(model, other))


def test_the_contrast_is_of_items_and_the_first_behaviour(rng):
    table, batch = table_of(rng), random_rows(rng, rows=12, behaviours=TWO)
    features = feature_map_of_items(behaviours=TWO, events=True)
    fast = qin_of(features, table=table, event_features="all", contrastive_loss=3)
    plain = copy.deepcopy(fast)
    plain.form = "plain"
    assert_same(run(fast, batch), run(plain, batch))
    target_BD, mean_BD = fast(batch)["contrasted"]
    assert target_BD.shape == mean_BD.shape == (12, 8)
    with pytest.raises(ConfigError, match="the dataset has no history"):
        QIN(flat_feature_map_of(behaviours=()), verbose=0, contrastive_loss=3)


def test_without_histories_it_is_the_quadratic_network_over_the_features(rng):
    features = flat_feature_map_of(behaviours=())
    model = qin_of(features)
    assert model.attention_layers is None
    assert not any("attention" in name for name in model.state_dict())
    table, batch = table_of(rng), random_rows(rng, rows=12)
    columns = flat_columns(batch, table)
    embedded = [
        model.embedding_layer.embedding_layer.embedding_layers[name].weight[columns[name].long()]
        for name in ("level", "item_id", "brand")
    ]
    torch.testing.assert_close(model(columns)["logit"], model.qnn(torch.cat(embedded, dim=1)), **EXACT)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    assert_same(run(model, columns), run(plain, columns))
    with pytest.raises(InputError, match="QIN reads none"):
        model.attention_weights(batch)


def test_items_without_a_history_are_context_in_fuxictrs_runner():
    """FuxiCTR's `source: item` alone does not make histories: its own runner has columns only."""
    features = feature_map_of_items()
    del features.behaviours
    params = {"data_format": "parquet", "train_data": "train.parquet"}
    assert Fields.of(features, params).context == ("level", "item_id", "brand")
    for more in ({"max_len": 64}, {"item_info": "item_info.parquet"}):
        assert Fields.of(features, {**params, **more}).items == ("item_id", "brand")
    assert Fields.of(features, {}).items == ("item_id", "brand")
    features.behaviours = ()
    assert Fields.of(features, {"max_len": 64}).items == ()


def sequences(**shared: str) -> FeatureMap:
    found = flat_feature_map_of(behaviours=())
    for name, target in shared.items():
        found.features[name] = {"type": "sequence", "padding_idx": 0, "vocab_size": 23, "max_len": 4}
        if target:
            found.features[name]["share_embedding"] = target
    return found


def fields_of(features: FeatureMap, **given):
    found = Fields.of(features, {}, **given)
    return [(b.name, b.fields, b.columns) for b in found.behaviours]


def test_the_kth_sequence_of_a_field_is_of_behaviour_k():
    features = sequences(clicks="item_id", brands="brand", carts="item_id")
    assert fields_of(features) == [
        ("history", ("item_id", "brand"), ("clicks", "brands")),
        ("carts", ("item_id",), ("carts",)),
    ]
    assert Fields.of(features, {}).context == ("level",)


@pytest.mark.parametrize(
    ("targets", "histories", "expected"),
    [
        ("item_id", "carts", [("history", ("item_id",), ("carts",))]),
        (["item_id"], ["clicks"], [("history", ("item_id",), ("clicks",))]),
        ([["brand", "item_id"]], [["brands", "clicks"]], [("history", ("item_id", "brand"), ("clicks", "brands"))]),
        ([("item_id", "brand"), "item_id"], [("clicks", "brands"), "carts"], None),
        ([], [], []),
    ],
)
def test_fields_as_fuxictrs_models_are_told(targets, histories, expected):
    features = sequences(clicks="item_id", brands="brand", carts="item_id")
    for name in ("clicks", "brands", "carts"):
        features.features[name]["feature_encoder"] = "layers.MaskedAveragePooling()"
    found = fields_of(features, target_fields=targets, sequence_fields=histories)
    assert found == (fields_of(features) if expected is None else expected)


@pytest.mark.parametrize(
    ("targets", "histories", "message"),
    [
        ("item_id", None, "go together"),
        ("item", "clicks", "din_target_field: unknown feature 'item'. Did you mean 'item_id'"),
        ("item_id", "clickz", "din_sequence_field: unknown feature 'clickz'. Did you mean 'clicks'"),
        ("item_id", "level", "'level' is of type categorical, not sequence"),
        (["item_id", "brand"], ["clicks"], "must pair each target field with one sequence"),
        ("item_id", "others", r"does not share the embedding of 'item_id'.*share_embedding: item_id"),
        (["item_id", 3], ["clicks", "carts"], "must be the name of a feature, or a list of names"),
    ],
)
def test_fields_that_cannot_be_read(targets, histories, message):
    features = sequences(clicks="item_id", carts="item_id", others="")
    with pytest.raises(ConfigError, match=message):
        fields_of(features, target_fields=targets, sequence_fields=histories)


def test_a_sequence_that_nothing_pools_is_named():
    with pytest.raises(ConfigError, match=r"the sequence 'others' has no feature_encoder .*feature_specs"):
        QIN(sequences(others=""), verbose=0)


def test_a_feature_map_without_features_is_refused():
    """As FuxiCTR's `rebuild_dataset: False` leaves behind."""
    features = flat_feature_map_of(behaviours=())
    for name in ("level", "item_id", "brand"):
        del features.features[name]
    with pytest.raises(ConfigError, match="the feature map of flat has no feature that a model could read"):
        QIN(features, verbose=0)


def test_the_target_may_share_the_table_of_the_sequence(rng):
    """The other way round: FuxiCTR's table is then that of the sequence, and keeps its name."""
    features = sequences(clicks="")
    features.features["item_id"]["share_embedding"] = "clicks"
    features.features.move_to_end("item_id")
    model = QIN(features, verbose=0, embedding_dim=4)
    layers = model.embedding_layer.embedding_layer.embedding_layers
    assert layers["item_id"] is layers["clicks"]
    assert fields_of(features) == [("history", ("item_id",), ("clicks",))]
    clicks = torch.tensor([[0, 3], [4, 5]])
    columns = {"level": torch.ones(2), "brand": torch.ones(2), "item_id": torch.tensor([1, 2]), "clicks": clicks}
    assert torch.isfinite(model(columns)["logit"]).all()


def test_a_batch_of_another_form_is_refused(rng):
    table, batch = table_of(rng), random_rows(rng, rows=4)
    model = qin_of(feature_map_of_items(), table=table)
    with pytest.raises(InputError, match="a batch of flat columns has none"):
        model(flat_columns(batch, table))
    two = qin_of(feature_map_of_items(behaviours=TWO), table=table)
    with pytest.raises(InputError, match="a batch lacks the behaviour 'carts'"):
        two(batch)
    with pytest.raises(InputError, match="has the behaviours history, carts: pass a Batch"):
        two(as_longctr(batch, table))
    flat = qin_of(flat_feature_map_of())
    columns = flat_columns(batch, table)
    del columns["history_brand"]
    with pytest.raises(InputError, match="a batch lacks the feature 'history_brand'"):
        flat(columns)


def test_a_rule_of_events_is_learnt():
    """Clicked exactly when the target was seen within the newest age: items alone do not say."""
    rng = np.random.default_rng(0)
    table = table_of(rng)

    def rows(count: int) -> Batch:
        batch = random_rows(rng, rows=count)
        ages = batch.history.events["age"].clamp(min=1)
        owner = batch.history.row_index()
        values = batch.history.values.clone()
        lengths = batch.history.lengths
        values[batch.history.offsets[:-1][lengths > 0]] = batch.target[lengths > 0]
        hit = ((values == batch.target[owner]) & (ages == 1)).float()
        label = (torch.zeros(count).index_add(0, owner, hit) > 0).float()
        return Batch(
            {**batch.features, "label": label}, batch.target, Jagged(values, batch.history.offsets, {"age": ages})
        )

    def auc(**options: object) -> float:
        torch.manual_seed(0)
        defaults = {"embedding_dim": 8, "num_layers": 2, "learning_rate": 0.01, "embedding_regularizer": 1e-6}
        model = QIN(feature_map_of_items(events=True), verbose=0, **defaults, **options)
        model.attach(table)
        model.train()
        for _ in range(60):
            model.train_step(rows(512))
        test = rows(2000)
        return roc_auc_score(test.features["label"].numpy(), model.predict([test]))

    assert auc(event_features=["age"]) > 0.95
    assert auc() < 0.85
