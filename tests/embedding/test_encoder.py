"""The encoder: exact sizes, ALiBi as published, backends equal, padding and order never change a vector."""

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from bilingual_embedding.model import alibi, attention, attention_flex
from bilingual_embedding.model.attention import attend
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.presets import BLOCKS, PRESETS, EncoderConfig, preset
from bilingual_embedding.model.reference import embed_padded, pad
from bilingual_embedding.model.tokens import TokenTable
from fuxictr_multimodal.errors import ConfigError, DataError


def some_rows(lengths, vocabulary=512, seed=0):
    generator = np.random.default_rng(seed)
    return TokenTable.from_lists([generator.integers(4, vocabulary, n) for n in lengths])


def a_model(seed=0, **changes):
    torch.manual_seed(seed)
    encoder = Encoder.from_preset("nano", **changes)
    with torch.no_grad():  # away from the identity norms and zero biases of a fresh model
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder.eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [("small-en", 32_690_688), ("base-en", 137_368_320), ("base-de", 160_813_824), ("base-es", 160_850_688)],
)
def test_published_sizes(name, count):
    with torch.device("meta"):
        encoder = Encoder.from_preset(name)
    assert sum(p.numel() for p in encoder.parameters()) == PRESETS[name].parameters == count


@pytest.mark.parametrize("positions", ["alibi", "learned"])
@pytest.mark.parametrize("name", ["nano", "static", "static-tiny", "tiny", "mini"])
def test_small_sizes_follow_the_formula(name, positions):
    with torch.device("meta"):
        encoder = Encoder.from_preset(name, positions=positions)
    assert sum(p.numel() for p in encoder.parameters()) == encoder.config.parameters


def test_slopes_and_bias_as_published():
    assert alibi.slopes_H(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    sixteen = [2 ** (-0.5 * k) for k in range(1, 17)]
    assert alibi.slopes_H(16).tolist() == pytest.approx(sixteen)
    assert alibi.slopes_H(12).tolist() == pytest.approx([2.0**-k for k in range(1, 9)] + sixteen[0:8:2])
    bias = alibi.bias_HQL(alibi.slopes_H(8), 5)
    for head, i, j in [(0, 0, 4), (3, 4, 1), (7, 2, 2)]:
        assert bias[head, i, j] == -(2.0 ** -(head + 1)) * abs(i - j)
    assert torch.equal(bias, bias.mT)
    assert torch.equal(alibi.bias_HQL(alibi.slopes_H(8), 5, 2, 4), bias[:, 2:4])


@pytest.mark.parametrize("backend", ["sdpa", "blocked"])
def test_backends_equal_eager_in_values_and_gradients(backend, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 7)
    packed = Packed.from_table(some_rows([1, 5, 9, 30, 9, 5, 5]))
    torch.manual_seed(1)
    inputs = [torch.randn(len(packed.ids_T), 3, 8, dtype=torch.float64) for _ in range(3)]
    probe = torch.randn(len(packed.ids_T), 3, 8, dtype=torch.float64)
    found = {}
    for name in ("eager", backend):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        out = attend(q, k, v, packed=packed, slopes=alibi.slopes_H(3).double(), backend=name)
        found[name] = [out, *torch.autograd.grad((out * probe).sum(), (q, k, v))]
    for one, other in zip(found["eager"], found[backend], strict=True):
        # The eager form takes its softmax in float32, whatever the inputs.
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_equals_eager_in_values():
    packed = Packed.from_table(some_rows([1, 5, 9, 30, 9]))
    torch.manual_seed(1)
    q, k, v = (torch.randn(len(packed.ids_T), 3, 16) for _ in range(3))
    one, other = (attend(q, k, v, packed=packed, slopes=alibi.slopes_H(3), backend=name) for name in ("eager", "flex"))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[1], [128, 128], [1, 127, 40, 3], [700, 5], [300, 256, 129, 128, 90]])
def test_blocks_of_flex_are_those_that_pytorch_finds_token_by_token(lengths):
    packed = Packed.from_table(some_rows(lengths))
    found, tokens = attention_flex._row_mask(packed), sum(lengths)
    expected = create_block_mask(found.mask_mod, None, None, tokens, tokens, device="cpu")
    assert found.shape == expected.shape
    for side in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(expected, f"{side}_num_blocks")[0, 0]
        assert torch.equal(getattr(found, f"{side}_num_blocks")[0, 0], counts)
        pairs = zip(getattr(found, f"{side}_indices")[0, 0], getattr(expected, f"{side}_indices")[0, 0], strict=True)
        for (own, theirs), count in zip(pairs, counts.tolist(), strict=True):
            assert torch.equal(own[:count], theirs[:count])


@pytest.mark.parametrize("backend", ["eager", "sdpa", "blocked"])
@pytest.mark.parametrize("query_key_norm", [False, True])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_packed_equals_the_plain_padded_form(backend, query_key_norm, blocks):
    torch.manual_seed(0)
    config = EncoderConfig(
        vocabulary_size=99, hidden=24, inner=40, layers=2, heads=3, dropout=0.0, query_key_norm=query_key_norm,
        blocks=blocks, pooling="weighted" if blocks == "zero_start" else "mean",
    )  # fmt: skip
    encoder = Encoder(config, backend=backend)
    with torch.no_grad():  # away from maps that start at zero
        for block in encoder.blocks:
            block.output.weight.add_(torch.randn_like(block.output.weight), alpha=0.1)
            block.down.weight.add_(torch.randn_like(block.down.weight), alpha=0.1)
        if encoder.log_token_weight is not None:
            encoder.log_token_weight.normal_()
    table = some_rows([4, 17, 4, 30, 1, 17], vocabulary=99)
    plain = embed_padded(encoder, *pad(table))
    packed = encoder.embed(Packed.from_table(table))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
    weights = [p for name, p in encoder.named_parameters() if "pooler" not in name]
    grads = [torch.autograd.grad(x.square().sum(), weights) for x in (plain, packed)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["alibi", "learned"])
def test_neither_company_nor_order_changes_a_vector(positions):
    encoder = a_model(positions=positions)
    table = some_rows([3, 40, 8, 8, 120, 21])
    together = encoder.embed(Packed.from_table(table))
    order = [5, 2, 0, 4, 3, 1]
    shuffled = encoder.embed(Packed.from_table(table.take(order)))
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=0)
    for row in range(len(table)):
        alone = encoder.embed(Packed.from_table(table.take([row])))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    ids, mask = pad(table)
    wider = (torch.nn.functional.pad(x, (0, 9)) for x in (ids, mask))
    from_padded = encoder.embed(Packed.from_padded(*wider))
    torch.testing.assert_close(from_padded, together, atol=1e-5, rtol=0)


def test_zero_start_is_the_mean_of_the_token_vectors():
    config = EncoderConfig(vocabulary_size=99, hidden=24, inner=40, layers=3, heads=3, blocks="zero_start")
    encoder = Encoder(config).eval()
    table = some_rows([4, 17, 1], vocabulary=99)
    vectors = encoder.embed(Packed.from_table(table))
    for row in range(len(table)):
        ids = torch.from_numpy(table.row(row)).long()
        tokens = encoder.embedding_norm(encoder.token_embedding(ids) + encoder.type_embedding.weight[0])
        torch.testing.assert_close(vectors[row], tokens.mean(dim=0), atol=1e-6, rtol=1e-5)
    # Every block learns from the first step: a gradient reaches its last maps.
    vectors.square().sum().backward()
    assert all(block.output.weight.grad.abs().max() > 0 for block in encoder.blocks)


def test_weights_start_at_the_inverse_document_frequency():
    encoder = Encoder(
        EncoderConfig(vocabulary_size=9, hidden=4, inner=1, layers=0, heads=1, pooling="weighted", dropout=0.0)
    )
    encoder.start_weights(TokenTable.from_lists([[1, 5, 5, 2], [1, 6, 2], [1, 5, 7, 2]]))
    expected = {1: 0.05, 2: 0.05, 5: np.log(4 / 3), 6: np.log(2), 7: np.log(2), 8: np.log(4)}
    for token, weight in expected.items():
        assert float(encoder.log_token_weight[token].detach().exp()) == pytest.approx(weight)


def test_word_order_matters():
    encoder = a_model()
    table = TokenTable.from_lists([[1, 7, 8, 9, 2], [1, 9, 8, 7, 2]])
    one, other = encoder.embed(Packed.from_table(table))
    assert (one - other).abs().max() > 1e-3


def test_gradient_checkpointing_changes_nothing():
    table = some_rows([5, 9, 9])
    grads = []
    for flag in (False, True):
        encoder = a_model(gradient_checkpointing=flag).train()
        encoder.embed(Packed.from_table(table)).square().sum().backward()
        grads.append([p.grad for n, p in encoder.named_parameters() if "pooler" not in n])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_bad_sizes_are_named():
    with pytest.raises(ConfigError, match="'tinny' is unknown. Did you mean 'tiny'?"):
        preset("tinny")
    with pytest.raises(ConfigError, match="hidden 768 is not a multiple of heads 5"):
        EncoderConfig(vocabulary_size=9, hidden=768, inner=8, layers=1, heads=5)
    with pytest.raises(ConfigError, match="'flx' is unknown. Did you mean 'flex'?"):
        Encoder.from_preset("nano", backend="flx")
    with pytest.raises(DataError, match="300 tokens is longer than max_length 256"):
        a_model()(Packed.from_table(some_rows([300])))
