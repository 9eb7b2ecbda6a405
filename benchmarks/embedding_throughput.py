"""Tokens per second of training and of encoding, against the machine's products and against padded batches in one run.

Texts are random tokens with the lengths of item texts: mostly titles, some descriptions.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _common import emit, median_seconds, product_flops_per_s
from _texts import item_texts

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.presets import PRESETS
from bilingual_embedding.model.reference import embed_padded, pad
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training.gradient_cache import backward_through
from bilingual_embedding.training.losses import pairs_loss
from bilingual_embedding.training.optimisation import OptimiserSettings, make_optimiser
from bilingual_embedding.vectors.encoding import encode_table

NAIVE_BATCH = 32  # the usual default


@torch.no_grad()
def encode_padded(encoder: Encoder, table: TokenTable) -> np.ndarray:
    """Batches in the order given, padded to their longest."""
    parts = [
        torch.nn.functional.normalize(
            embed_padded(encoder, *pad(table.take(range(i, min(i + NAIVE_BATCH, len(table))))))
        )
        for i in range(0, len(table), NAIVE_BATCH)
    ]
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="pairs of a training step")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder = Encoder.from_preset(args.preset, dropout=0.0).eval()
    config = encoder.config
    table = item_texts(args.texts, config.vocabulary_size)
    tokens = int(table.offsets[-1])
    gap = float(np.abs(encode_table(encoder, table) - encode_padded(encoder, table)).max())
    assert gap < 1e-4, gap
    fast = median_seconds(lambda: encode_table(encoder, table), repeats=args.repeats)
    padded = median_seconds(lambda: encode_padded(encoder, table), repeats=args.repeats)

    pairs = item_texts(2 * args.batch, config.vocabulary_size)
    optimiser = make_optimiser(encoder, OptimiserSettings(learning_rate=1e-4))
    size = args.batch

    def train_step() -> None:
        optimiser.zero_grad()
        backward_through(encoder, pairs, lambda v: pairs_loss(v[:size], v[size:]), max_tokens=1 << 20)
        optimiser.step()

    train = median_seconds(train_step, repeats=args.repeats)
    train_tokens = int(pairs.offsets[-1])
    flops = product_flops_per_s()
    padded = sum(
        int(part.max()) * len(part) for part in np.split(table.lengths, range(NAIVE_BATCH, len(table), NAIVE_BATCH))
    )
    emit(
        name="embedding_throughput",
        shapes={"preset": args.preset, "texts": args.texts, "tokens": tokens, "pairs": args.batch},
        rows_per_s=tokens / fast,
        ceiling=flops / config.flops_per_token,
        ceiling_is="tokens/s if the linear layers' products ran at the measured speed of a matrix product",
        ratio_to_plain=padded / fast,
        plain_is=f"padded batches of {NAIVE_BATCH} in the given order, eager attention",
        check=f"vectors of both agree within {gap:.1e}",
        rows_are="tokens",
        texts_per_s=len(table) / fast,
        padding_share_of_plain=1 - tokens / padded,
        train_tokens_per_s=train_tokens / train,
        train_ceiling_fraction=train_tokens / train / (flops / (3 * config.flops_per_token)),
    )


if __name__ == "__main__":
    main()
