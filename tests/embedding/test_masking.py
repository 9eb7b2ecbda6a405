"""Whole-word masking: rates, whole words, special tokens, reproducible; the head learns."""

import numpy as np
import pytest
import torch

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training.masking import (
    MASK_ID,
    MaskedLanguageModel,
    accuracy_by_length,
    mask_words,
    masked_accuracy,
    masked_loss,
)


def words_of_three(rows=2000, words=20):
    """Rows of <cls>, words of 1 to 3 tokens, <sep>."""
    generator = np.random.default_rng(0)
    sizes = [generator.integers(1, 4, words) for _ in range(rows)]
    number = [np.concatenate([[-1], np.repeat(np.arange(words), s), [-1]]) for s in sizes]
    ids = [np.concatenate([[1], generator.integers(4, 512, s.sum()), [2]]) for s in sizes]
    return TokenTable.from_lists(ids, number)


@pytest.fixture(scope="module")
def masked():
    table = words_of_three()
    return table, mask_words(table, np.random.default_rng(1), vocabulary_size=512)


def test_three_tenths_of_the_words_and_80_10_10(masked):
    table, found = masked
    real = table.words >= 0
    assert found.chosen[real].mean() == pytest.approx(0.3, abs=0.005)
    new = found.table.ids[found.chosen]
    old = table.ids[found.chosen]
    assert (new == MASK_ID).mean() == pytest.approx(0.8, abs=0.01)
    assert ((new != MASK_ID) & (new != old)).mean() == pytest.approx(0.1, abs=0.01)
    assert (new == old).mean() == pytest.approx(0.1, abs=0.01)


def test_words_are_chosen_whole_and_the_rest_is_untouched(masked):
    table, found = masked
    rows = np.repeat(np.arange(len(table)), table.lengths)
    key = rows * 1000 + table.words
    for flag in (True, False):
        assert not np.intersect1d(key[found.chosen == flag], key[(found.chosen != flag) & (table.words >= 0)]).size
    assert np.array_equal(found.table.ids[~found.chosen], table.ids[~found.chosen])
    assert not found.chosen[table.words < 0].any()
    assert np.array_equal(found.originals, table.ids)


def test_same_generator_same_mask(masked):
    table, found = masked
    again = mask_words(table, np.random.default_rng(1), vocabulary_size=512)
    assert np.array_equal(again.table.ids, found.table.ids)


def test_head_learns_to_copy():
    """Every row repeats one word: the masked ones follow from the others."""
    torch.manual_seed(0)
    model = MaskedLanguageModel(Encoder.from_preset("nano", vocabulary_size=64))
    table = TokenTable.from_lists([[word] * 8 for word in range(10, 18)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = np.random.default_rng(0)
    first = None
    for _ in range(80):
        loss = masked_loss(*model(mask_words(table, generator, vocabulary_size=64)))
        first = first or float(loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert first == pytest.approx(np.log(64), abs=0.2)
    assert masked_accuracy(model, table, seed=3) > 0.75


def test_accuracy_by_length_reads_whole_windows_of_long_rows():
    torch.manual_seed(0)
    model = MaskedLanguageModel(Encoder.from_preset("nano", vocabulary_size=64))
    with torch.no_grad():
        model.bias[10] = 99.0  # always guesses token 10
    rows = [[1, *[10] * 60, 2], [1, *[11] * 30, 2]]
    table = TokenTable.from_lists(rows, [[-1, *range(len(row) - 2), -1] for row in rows])
    assert accuracy_by_length(model, table, [8, 40], seed=0) == {
        "masked words at 8": 100.0, "masked words at 40": 100.0,
    }  # fmt: skip


def test_a_length_that_no_text_has_has_no_value(caplog):
    model = MaskedLanguageModel(Encoder.from_preset("nano", vocabulary_size=64))
    table = TokenTable.from_lists([[1, 10, 11, 2]])
    assert accuracy_by_length(model, table, [4, 8], seed=0) == {"masked words at 4": None, "masked words at 8": None}
    assert caplog.messages == [
        f"masked words at {length}: no value: no text of the masked source has 8 tokens" for length in (4, 8)
    ]


def test_a_batch_without_a_masked_word_has_loss_zero():
    model = MaskedLanguageModel(Encoder.from_preset("nano"))
    table = TokenTable.from_lists([[1, 2]], [[-1, -1]])
    loss = masked_loss(*model(mask_words(table, np.random.default_rng(0), vocabulary_size=512)))
    loss.backward()
    assert float(loss.detach()) == 0.0
