"""Losses against independent ones: SciPy's Pearson, sentence-transformers' InfoNCE, a loop; gradient caching."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training.gradient_cache import backward_through
from bilingual_embedding.training.losses import (
    at_widths,
    correlation_loss,
    info_nce,
    pair_cosine_B,
    pairs_loss,
    pearson,
    retrieval_loss,
    squared_error_loss,
)  # fmt: skip


def vectors(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_nce(queries, candidates, temperature=0.05):
    """The paper's formula, a row and a candidate at a time."""
    total = 0.0
    for i, query in enumerate(queries):
        scores = [float(query @ c / query.norm() / c.norm()) / temperature for c in candidates]
        total -= math.log(math.exp(scores[i]) / sum(map(math.exp, scores)))
    return total / len(queries)


def test_info_nce_is_the_formula_and_ignores_length():
    queries, candidates = vectors(6, 5), vectors(9, 5, seed=1)
    assert float(info_nce(queries, candidates)) == pytest.approx(loop_nce(queries, candidates), abs=1e-10)
    torch.testing.assert_close(info_nce(3 * queries, candidates), info_nce(queries, candidates))


def test_pairs_loss_is_the_sum_of_both_directions():
    left, right = vectors(7, 4), vectors(7, 4, seed=1)
    expected = loop_nce(left, right) + loop_nce(right, left)
    assert float(pairs_loss(left, right)) == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(pairs_loss(left, right), pairs_loss(right, left))


def test_hard_negatives_of_all_rows_are_candidates_one_way():
    query, positive, negative = vectors(4, 5), vectors(4, 5, seed=1), vectors(8, 5, seed=2)
    expected = loop_nce(query, torch.cat([positive, negative])) + loop_nce(positive, query)
    assert float(retrieval_loss(query, positive, negative)) == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(retrieval_loss(query, positive, negative[:0]), pairs_loss(query, positive))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 50.0]))
def test_correlation_equals_scipys(size, seed, scale):
    generator = np.random.default_rng(seed)
    left, right = (torch.from_numpy(generator.normal(size=(size, 6))) for _ in range(2))
    score = torch.from_numpy(generator.normal(3.0, scale, size))
    expected = -stats.pearsonr(pair_cosine_B(left, right).numpy(), score.numpy()).statistic
    assert float(correlation_loss(left, right, score)) == pytest.approx(expected, abs=1e-6)
    assert float(correlation_loss(left.float(), right.float(), score.float())) == pytest.approx(expected, abs=2e-4)


def test_float32_correlation_of_a_usual_batch_to_1e_6():
    left, right, score = vectors(64, 16).float(), vectors(64, 16, seed=1).float(), vectors(64, seed=2).float()
    expected = -stats.pearsonr(pair_cosine_B(left, right).numpy(), score.numpy()).statistic
    assert float(correlation_loss(left, right, score)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constant", ["score", "cosine"])
def test_no_variance_gives_zero_and_no_gradient(constant):
    left = vectors(5, 4).requires_grad_()
    right = left * 1.0 if constant == "cosine" else vectors(5, 4, seed=1)
    score = torch.full((5,), 0.1, dtype=torch.float64) if constant == "score" else vectors(5, seed=2)
    loss = correlation_loss(left, right, score)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(left.grad, torch.zeros_like(left))


def test_gradients_are_checked_numerically():
    left, right, score = vectors(6, 3).requires_grad_(), vectors(6, 3, seed=1).requires_grad_(), vectors(6, seed=2)
    negative = vectors(4, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: correlation_loss(a, b, score), (left, right))
    assert torch.autograd.gradcheck(lambda a, b: squared_error_loss(a, b, score), (left, right))
    assert torch.autograd.gradcheck(lambda a, b: pairs_loss(a, b, temperature=0.5), (left, right))
    assert torch.autograd.gradcheck(lambda a, b, c: retrieval_loss(a, b, c, temperature=0.5), (left, right, negative))


def test_correlation_ignores_scale_and_shift_of_the_score():
    left, right, score = vectors(9, 3), vectors(9, 3, seed=1), vectors(9, seed=2)
    torch.testing.assert_close(correlation_loss(left, right, 5 * score + 7), correlation_loss(left, right, score))
    assert float(pearson(score, -score)) == pytest.approx(-1.0)


def test_matryoshka_is_the_mean_over_prefixes():
    left, right = vectors(5, 8), vectors(5, 8, seed=1)
    expected = (pairs_loss(left[:, :2], right[:, :2]) + pairs_loss(left, right)) / 2
    torch.testing.assert_close(at_widths(pairs_loss, [left, right], [2, 8]), expected)


def test_gradient_cache_equals_the_whole_batch():
    """Also with dropout: the second pass draws the masks of the first."""
    generator = np.random.default_rng(0)
    table = TokenTable.from_lists([generator.integers(4, 512, n) for n in (9, 4, 9, 14, 4, 4, 21, 9)])

    def loss_of(vectors_ND):
        return pairs_loss(vectors_ND[:4], vectors_ND[4:])

    found = []
    for max_tokens in (1000, 25):
        torch.manual_seed(0)
        encoder = Encoder.from_preset("nano")
        loss = backward_through(encoder, table, loss_of, max_tokens=max_tokens)
        found.append([loss, *(p.grad for n, p in encoder.named_parameters() if "pooler" not in n)])
    for whole, cached in zip(*found, strict=True):
        torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-4)


def test_gradient_cache_repeats_the_dropout():
    torch.manual_seed(0)
    encoder = Encoder.from_preset("nano", dropout=0.5)
    table = TokenTable.from_lists([[1, 5, 6, 2], [1, 7, 8, 9, 2]])
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    backward_through(encoder, table, lambda v: v.square().sum(), max_tokens=5)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
