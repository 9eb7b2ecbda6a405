"""`QIN.attention_weights`: the weights that pool a history, by attention and by the mean."""

import numpy as np
import pytest
import torch
from torch import nn

from fuxictr_multimodal.zoo.layouts import as_longctr
from tests.helpers.reference_qin import random_batch, small_qin


def example(*, rows=11, **options):
    model = small_qin(**options)
    return model, random_batch(model.feature_map, np.random.default_rng(3), rows=rows)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_attention_weights_are_those_that_pool_the_history(activation):
    model, batch = example(attention_activation=activation)
    model.eval()
    nn.init.normal_(model.attention_layers.W_q.weight)  # some scores of each sign
    weights = model.attention_weights(batch)
    assert weights.offsets.tolist() == batch.history.offsets.tolist()
    with torch.no_grad():
        items, mask = as_longctr(batch, model.item_table)[1:]
        target, history = model.item_vectors.padded(items, mask)
        attention = model.attention_layers
        for row, (start, stop) in enumerate(zip(weights.offsets, weights.offsets[1:], strict=False)):
            vectors = history.vectors_BTD[row][history.mask_BT[row]]
            pooled = (weights.values[start:stop, None] * attention.W_v(vectors)).sum(0)
            expected = attention(target[row : row + 1], type(history)(vectors[None], torch.ones(1, len(vectors)) > 0))
            torch.testing.assert_close(attention.W_o(pooled) + target[row], expected[0])
    if activation == "relu":
        assert 0 < (weights.values == 0).sum() < len(weights.values)


def test_weights_of_mean_pooling():
    model, batch = example(pooling="mean")
    lengths = batch.history.lengths
    weights = model.attention_weights(batch)
    assert weights.values.tolist() == pytest.approx([1 / n for n in lengths.tolist() for _ in range(n)])
