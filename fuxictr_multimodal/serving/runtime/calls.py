"""Plans calls of the graph: which requests share one, and how many candidates go into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

# Candidates of one call, over all of its requests. Memory stays bounded, and what a layer reads and writes stays in the
# caches: at the published widths 1,000 candidates cost 40 ms of one core in calls of 1,024, 47 ms in calls of 128, and
# 59 ms in one call of 10,000; in int8 15, 15 and 22 ms.
BLOCK = 1024
# What a candidate costs at least, in history slots.
LEAST_SLOTS = 16
# Padding may be this part of a call.
MOST_PADDING = 0.25
# Requests whose numbers of candidates differ by less than this factor are alike.
LIKE = 1.15


def groups(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Requests that share a call, which is padded to the largest of them.

    Args:
        sizes: number of candidates, from 1, and of history items of each request.

    >>> groups([(100, 10), (10, 3), (96, 10), (10, 3)])
    [[0, 2], [1, 3]]
    """
    order = sorted(range(len(sizes)), key=lambda i: (-round(math.log(sizes[i][0], LIKE)), -sizes[i][1]))
    found: list[list[int]] = []
    candidates = slots = used = 0
    for i in order:
        own_candidates, own_slots = sizes[i]
        wide, long = max(candidates, own_candidates), max(slots, own_slots)
        members = len(found[-1]) + 1 if found else 1
        cells = used + own_candidates * (LEAST_SLOTS + own_slots)
        fits = members * wide <= BLOCK and cells >= (1 - MOST_PADDING) * members * wide * (LEAST_SLOTS + long)
        if found and fits:
            found[-1].append(i)
            candidates, slots, used = wide, long, cells
        else:
            found.append([i])
            candidates, slots, used = own_candidates, own_slots, own_candidates * (LEAST_SLOTS + own_slots)
    return found


def blocks(candidates: int) -> list[slice]:
    """Candidates of one request in calls of like sizes.

    >>> blocks(BLOCK), len(blocks(BLOCK + 2)), blocks(BLOCK + 2)[0].stop
    ([slice(0, 1024, None)], 2, 513)
    """
    number = max(-(-candidates // BLOCK), 1)
    bounds = [round(i * candidates / number) for i in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
