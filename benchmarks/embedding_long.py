"""One long text on the CPU: seconds and peak memory of each attention form, each in its own process.

The published size: `python benchmarks/embedding_long.py --preset base-de --tokens 8192`. Its eager form wants more than
6 GiB of attention logits at a time and is left out where it would not fit into half of the free memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import psutil
import torch
from _common import emit, peak_rss_mib, product_flops_per_s

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.presets import PRESETS
from bilingual_embedding.model.tokens import TokenTable

BACKENDS = ("eager", "sdpa", "blocked")
EAGER_COPIES = 5  # of one layer's (heads, tokens, tokens) in float32: distances, bias, logits, their sum, softmax


def measure(preset: str, tokens: int, backend: str) -> dict:
    """Encode one text of random tokens once."""
    torch.manual_seed(0)
    encoder = Encoder.from_preset(preset, backend=backend).eval()
    ids = torch.randint(4, encoder.config.vocabulary_size, (tokens,)).tolist()
    packed = Packed.from_table(TokenTable.from_lists([ids]))
    before = peak_rss_mib()
    start, start_cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        vector = encoder.embed(packed)[0]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "backend": backend,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": peak_rss_mib(),
        "model_mib": before,
        "vector": vector[:8].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.preset, args.tokens, args.backends[0])))
        return
    config = PRESETS[args.preset]
    found = {}
    for backend in args.backends:
        wanted = EAGER_COPIES * 4 * config.heads * args.tokens**2
        if backend == "eager" and wanted > psutil.virtual_memory().available / 2:
            print(f"eager: left out, it would want {wanted / 2**30:.1f} GiB")
            continue
        command = [sys.executable, __file__, "--child", "--preset", args.preset, "--tokens", str(args.tokens)]
        done = subprocess.run([*command, "--backends", backend], stdout=subprocess.PIPE, text=True, check=True)
        found[backend] = json.loads(done.stdout.splitlines()[-1])
        row = found[backend]
        print(f"{backend}: {row['seconds']:.2f} s, peak {row['peak_mib']:,.0f} MiB, {row['model_mib']:,.0f} before")
    names = list(found)
    gap = max(
        abs(one - other)
        for name in names
        for one, other in zip(found[name]["vector"], found[names[0]]["vector"], strict=True)
    )
    assert gap < 1e-4, gap
    best = min(("blocked", "sdpa") if {"blocked", "sdpa"} <= set(found) else names, key=lambda n: found[n]["seconds"])
    attention = 4 * config.layers * config.hidden * args.tokens  # operations a token: scores and their use
    ceiling = product_flops_per_s() / (config.flops_per_token + attention)
    plain = found.get("eager", found[names[0]])
    emit(
        name="embedding_long",
        shapes={"preset": args.preset, "tokens": args.tokens},
        rows_per_s=args.tokens / found[best]["seconds"],
        ceiling=ceiling,
        ceiling_is="tokens/s if every operation ran as fast as a float32 matrix product",
        ratio_to_plain=plain["seconds"] / found[best]["seconds"],
        plain_is=plain["backend"],
        check=f"vectors of {', '.join(names)} agree within {gap:.1e}",
        rows_are="tokens",
        backends={
            name: {key: row[key] for key in ("seconds", "cpu_seconds", "peak_mib", "model_mib")}
            for name, row in found.items()
        },
    )


if __name__ == "__main__":
    main()
