"""The text encoder `base-en` in bf16 on a GPU, for `gpu_check.py`: attention, training and encoding."""

from __future__ import annotations

import functools

import numpy as np
import torch
from _gpu_runner import Options, Report
from _gpu_timing import device_of, finish, known, peak_gib, product_rate, seconds_of
from _texts import item_texts

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training.gradient_cache import backward_through
from bilingual_embedding.training.losses import pairs_loss
from bilingual_embedding.vectors.encoding import encode_table

TOKENS = 8192
TOLERANCE = 2e-3  # of a number of a vector of length 1, between two forms of attention in float32


def text(options: Options, report: Report) -> None:
    """Tokens per second of a batch of 8192 tokens of item texts, and of one text of 8192 tokens."""
    device, small = device_of(options), options.small
    preset, tokens = ("nano", 256) if small else ("base-en", TOKENS)
    torch.manual_seed(0)
    encoder = Encoder.from_preset(preset, dropout=0.0).to(device)
    texts = _about(tokens, encoder.config.vocabulary_size)
    report(preset=preset, tokens=int(texts.offsets[-1]), texts=len(texts), **_backends(encoder, texts, device))
    peak = product_rate(device, "bf16", small=small)
    flops = encoder.config.flops_per_token
    repeats = 2 if small else 10
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-5, fused=True)
    half = len(texts) // 2

    def train(table: TokenTable) -> None:
        optimiser.zero_grad()
        loss = functools.partial(_loss, half=half if table is texts else 0)
        backward_through(encoder, table, loss, max_tokens=2 * tokens, precision="bfloat16")
        optimiser.step()

    long = TokenTable.from_lists([np.arange(tokens) % 100 + 4]) if not small else texts
    for name, table in (("", texts), ("one_text_", long)):
        count = int(table.offsets[-1])
        encode = functools.partial(encode_table, encoder, table, batch_tokens=2 * tokens, precision="bfloat16")
        rate = count / seconds_of(device, encode, repeats=repeats, warm_up=2)
        report(**{f"{name}encode_tokens_per_s": rate, f"{name}encode_of_peak": rate * flops / peak})
        encoder.train()
        rate = count / seconds_of(device, functools.partial(train, table), repeats=repeats, warm_up=2)
        report(**{f"{name}train_tokens_per_s": rate, f"{name}train_of_peak": 3 * rate * flops / peak})
    finish(device)
    report(**known(peak_memory_gib=peak_gib(device)))
    if not all(torch.isfinite(parameter).all() for parameter in encoder.parameters()):
        raise AssertionError("training in bf16 gave weights that are not finite")


def _backends(encoder: Encoder, texts: TokenTable, device: torch.device) -> dict[str, float]:
    """Largest difference of a vector's number between the form of attention of this device and the formula."""
    some = texts.take(range(0, len(texts), 8))
    own = encode_table(encoder, some)
    encoder.backend = "eager"
    exact = encode_table(encoder, some)
    encoder.backend = "auto"
    error = float(np.abs(own - exact).max())
    if not error < TOLERANCE:
        raise AssertionError(f"attention on {device} is off by {error:.1e} against the formula")
    return {"attention_error": error}


def _about(tokens: int, vocabulary: int) -> TokenTable:
    """Texts of an even number with nearly so many tokens together, and not more."""
    texts = item_texts(tokens // 8, vocabulary)
    count = int(np.searchsorted(texts.offsets, tokens, side="right")) - 1
    return texts.take(range(count - count % 2))


def _loss(vectors_ND: torch.Tensor, *, half: int) -> torch.Tensor:
    """Of pairs, or of a single vector, where there are none."""
    return pairs_loss(vectors_ND[:half], vectors_ND[half:]) if half else vectors_ND.square().mean()
