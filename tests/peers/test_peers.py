"""What every peer must do: padding, empty histories, order, groups of rows, settings, and the same loss again."""

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from model_zoo.BST import BST
from model_zoo.HSTU import HSTU
from model_zoo.MUSE import MUSE
from model_zoo.peers import peer as base
from model_zoo.RankMixer import RankMixer
from tests.helpers.peer_inputs import PARAMS, ROWS, feature_map, peer, scores, triple

PEERS = [BST, HSTU, MUSE, RankMixer]
each = pytest.mark.parametrize("model_class", PEERS, ids=lambda cls: cls.__name__)
MANY = [([1 + (n * k) % 8 for k in range(n % 6)], 1 + n % 8) for n in range(40)]


@each
def test_padding_changes_nothing(model_class):
    model = peer(model_class)
    np.testing.assert_allclose(scores(model, slots=11), scores(model, slots=4), rtol=1e-5, atol=1e-7)
    for history, target in ROWS:
        alone = scores(model, [(history, target)], slots=max(len(history), 1))
        np.testing.assert_allclose(scores(model, [(history, target)], slots=9), alone, rtol=1e-5, atol=1e-7)


@each
def test_what_stands_in_a_padded_slot_is_not_read(model_class):
    model = peer(model_class)
    columns, items, mask = triple(ROWS, slots=6)
    padded = torch.nn.functional.pad(mask == 0, (0, 1)).flatten()
    other = {name: values.clone() for name, values in items.items()}
    for values in other.values():
        values[padded] = 3
    with torch.no_grad():
        torch.testing.assert_close(
            model((columns, other, mask))["y_pred"], model((columns, items, mask))["y_pred"], rtol=0, atol=0
        )


@each
def test_only_sequence_models_read_the_order_of_a_history(model_class):
    """Positions are part of BST and HSTU; MUSE and RankMixer pool a set."""
    model = peer(model_class)
    moved = np.abs(scores(model, [([3, 1, 7, 2], 5)]) - scores(model, [([7, 3, 2, 1], 5)])).max()
    assert moved > 1e-4 if model_class in (BST, HSTU) else moved < 1e-6


@each
def test_history_target_and_context_matter(model_class):
    model = peer(model_class)
    (start,) = scores(model, [([3, 1], 5)])
    assert abs(start - scores(model, [([3, 2], 5)])[0]) > 1e-5
    assert abs(start - scores(model, [([3, 1], 6)])[0]) > 1e-5
    columns, items, mask = triple([([3, 1], 5)], slots=2)
    with torch.no_grad():
        changed = model(({**columns, "user": (columns["user"] + 1) % 5}, items, mask))["y_pred"].item()
    assert abs(start - changed) > 1e-5


@each
def test_a_dataset_may_have_no_context(model_class):
    made = feature_map(context=False)
    assert np.isfinite(scores(peer(model_class, made))).all()


@each
def test_groups_of_like_length_are_the_whole_batch(model_class, monkeypatch):
    model = peer(model_class)
    seen = []
    interest = model.interest
    monkeypatch.setattr(model, "interest", lambda *args: seen.append(args[2].shape) or interest(*args))
    grouped = scores(model, MANY, slots=9)
    assert len(seen) == base.GROUPS
    assert sum(rows for rows, _ in seen) == 40
    assert [slots for _, slots in seen] == sorted(slots for _, slots in seen)
    assert seen[-1][1] == 5
    monkeypatch.setattr(base, "GROUPS", 99)
    np.testing.assert_allclose(grouped, scores(model, MANY, slots=9), rtol=1e-5, atol=1e-7)
    assert seen[-1] == (40, 9)


@each
def test_losses_fall_and_are_the_same_again(model_class):
    def losses():
        torch.manual_seed(2)
        model = model_class(feature_map(), **PARAMS, net_dropout=0.1, batch_norm=True, learning_rate=1e-2)
        model._max_gradient_norm = 10.0
        model.train()
        found = []
        for _ in range(30):
            columns, items, mask = triple(MANY, slots=5)
            columns["label"] = torch.tensor([float(target % 2) for _, target in MANY])
            found.append(float(model.train_step((columns, items, mask)).detach()))
        return found

    first = losses()
    assert first == losses()
    assert first[-1] < 0.5 < first[0]


@each
def test_every_weight_is_trained(model_class):
    model = peer(model_class)
    loss = torch.nn.functional.binary_cross_entropy(model(triple(MANY, slots=5))["y_pred"][:20], torch.ones(20, 1))
    loss.backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@each
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_units": 64}, r"hidden_units must be a list of widths such as \[128, 64\], got 64"),
        ({"hidden_units": [64, 0]}, "hidden_units must be a whole number of at least 1, got 0"),
        ({"net_dropout": 1.0}, "net_dropout must be a number from 0 to below 1, got 1.0"),
        ({"net_dropout": "1e-1"}, "net_dropout must be a number from 0 to below 1, got '1e-1'"),
    ],
)
def test_a_shared_setting_that_cannot_be_is_named(model_class, settings, message):
    with pytest.raises(ConfigError, match=message):
        peer(model_class, **settings)


@pytest.mark.parametrize(
    ("model_class", "setting", "value"),
    [
        (BST, "num_layers", 0),
        (BST, "num_heads", 1.5),
        (BST, "dim_feedforward", -1),
        (BST, "dim_feedforward", 0),
        (BST, "attention_dropout", True),
        (HSTU, "head_dim", 0),
        (HSTU, "max_len", "64"),
        (MUSE, "attention_dim", 0),
        (MUSE, "similarity_tiers", 0),
        (RankMixer, "token_dim", 0),
        (RankMixer, "expansion", 0),
        (RankMixer, "mixer_dropout", 1),
        (RankMixer, "attention_hidden_units", "64"),
    ],
)
def test_a_setting_of_its_own_that_cannot_be_is_named(model_class, setting, value):
    with pytest.raises(ConfigError, match=f"^{setting}"):
        peer(model_class, **{setting: value})
