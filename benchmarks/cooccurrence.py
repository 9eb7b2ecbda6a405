"""Users per second of item vectors from co-occurrence: counting, factorising, and the folds; and the peak memory.

Users with histories of about ten items, drawn by popularity within interests, are made up. `one_block` is what a
dataset needs where users are new, `folds` where they return: K more blocks and their rotations. Each part runs in its
own process. The peak is one sort of as many 64-bit integers as there are pairs, by numpy. The reference counts pairs of
some users in a dictionary.

    python benchmarks/cooccurrence.py
    python benchmarks/cooccurrence.py --users 1000000 --items 100000
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from _common import emit, in_its_own_process, peak_rss_mib, seconds

from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.data.recipes.cooccurrence import FOLDS, cooccurrence_vectors, counts_of_pairs
from fuxictr_multimodal.data.recipes.user_events import UserEvents

MAX_LEN = 64
PLAIN_USERS = 2_000


def main() -> None:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    options = parser.parse_args()
    found = {name: in_its_own_process(measure, options, name == "folds") for name in ("one_block", "folds")}
    plain = in_its_own_process(compare, options)
    pairs = found["one_block"].pop("counted_pairs")
    keys = np.random.default_rng(0).integers(0, 2**62, pairs)
    emit(
        name="cooccurrence",
        shapes={**vars(options), "events": found["one_block"].pop("events"), "counted_pairs": pairs},
        rows_per_s=options.users / found["one_block"]["seconds"],
        ceiling=options.users / min(seconds(lambda: np.sort(keys), repeats=2)),
        ceiling_is="one sort of as many random 64-bit integers as pairs are counted, by numpy",
        ratio_to_plain=plain["ratio"],
        plain_is=f"pairs of the first {PLAIN_USERS:,} users counted in a dictionary, against the same count here",
        check=plain["check"],
        **found,
    )


def made_up(options: argparse.Namespace, *, exposed: bool) -> UserEvents:
    """Users who like a tenth of the items each, the popular ones more."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.geometric(1 / 9, options.users) + 1, 2, MAX_LEN)
    interest = np.repeat(rng.integers(0, 10, options.users), lengths)
    within = (options.items // 10 * rng.random(lengths.sum()) ** 3).astype(np.int64)
    return UserEvents(
        (1 + within * 10 + interest).astype(np.int32), offsets_from_lengths(lengths), range(options.users), exposed
    )


def measure(options: argparse.Namespace, exposed: bool) -> dict[str, Any]:
    """Seconds and memory of all vectors, in a fresh process."""
    counted = made_up(options, exposed=exposed)
    before, start = peak_rss_mib(), time.perf_counter()
    made = cooccurrence_vectors(counted, items=options.items + 1, dim=options.dim, max_len=MAX_LEN, where="benchmark")
    taken = time.perf_counter() - start
    lengths = np.diff(counted.offsets)
    return {
        "seconds": taken,
        "peak_mib": peak_rss_mib(),
        "peak_before_mib": before,
        "distinct_pairs": made.metadata["pairs"],
        "explained": made.metadata["explained"],
        **({"folds": FOLDS} if exposed else {"events": len(counted.items), "counted_pairs": int((lengths**2).sum())}),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The same counts by a dictionary."""
    counted = made_up(options, exposed=False)
    counted = counted.take(np.arange(len(counted)) < PLAIN_USERS)
    counts_of_pairs(counted, items=options.items + 1, most=MAX_LEN - 1)
    start = time.perf_counter()
    ours = counts_of_pairs(counted, items=options.items + 1, most=MAX_LEN - 1)
    taken = time.perf_counter() - start
    start = time.perf_counter()
    plain: Counter[tuple[int, int]] = Counter()
    items = counted.items.tolist()
    for begin, end in pairwise(counted.offsets.tolist()):
        plain.update(pair for pair in combinations(items[begin:end], 2) if pair[0] != pair[1])
    ratio = (time.perf_counter() - start) / taken
    expected = {pair: count + plain[pair[::-1]] for pair, count in plain.items()}
    differing = sum(ours[pair] != count for pair, count in list(expected.items())[:1000])
    total = int(ours.sum()) - 2 * sum(plain.values())
    return {"ratio": ratio, "check": f"{differing} of 1,000 counts and {total} of all pairs differ"}


if __name__ == "__main__":
    main()
