"""Synthetic data in the files of the raw MicroLens release: who commented on what, titles, categories, likes and views.

A user's interactions are the history and then, in order, the clicked targets. The release has no negatives, quantile
bins or embeddings: recipes compute them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fuxictr_multimodal.data.synthetic.challenge_files import refuse_existing
from fuxictr_multimodal.data.synthetic.rows import blocks
from fuxictr_multimodal.data.synthetic.spec import SyntheticSpec
from fuxictr_multimodal.data.synthetic.texts import make_titles, topic
from fuxictr_multimodal.data.synthetic.world import World, generator, make_world
from fuxictr_multimodal.system.files import make_folder, replace_atomically

SIZE = "MicroLens-synthetic"
# The release keeps users with at least five items.
LEAST_ITEMS = 5
START_MS, SPAN_MS, STEP_MS = 1_600_000_000_000, 300 * 86_400_000, 3 * 86_400_000
VIEWS_OF_ALL, LIKES_PER_VIEW = 2e9, 0.04
# The parts of a generator's key that are not splits and blocks.
TIME_KEY, COUNT_KEY = 6, 7


def write_raw_release(spec: SyntheticSpec, out: Path, *, overwrite: bool = False, progress: bool = True) -> list[Path]:
    """Write the release's files to `out`, and return their paths.

    `*_pairs.csv` has times in milliseconds; `*_pairs.tsv` holds the same pairs, a user a line, oldest first. Users are
    those of the training rows with at least five different items; a pair occurs once.

    Args:
        spec: what to generate; the sizes of valid and test are not used.
        out: folder of the files.
        overwrite: replace existing files.
        progress: show progress on stderr.

    Raises:
        DataError: a file is there and `overwrite` is not given.
    """
    names = ("pairs.csv", "pairs.tsv", "titles.csv", "likes_and_views.txt")
    csv_path, tsv_path, titles_path, counts_path = paths = [out / f"{SIZE}_{name}" for name in names]
    categories_path = out / "tags_to_summary.csv"
    refuse_existing([*paths, categories_path], overwrite=overwrite)
    make_folder(out)
    world = make_world(spec)

    with (
        replace_atomically(csv_path) as csv_temporary,
        replace_atomically(tsv_path) as tsv_temporary,
        csv_temporary.open("w", encoding="utf-8") as pairs,
        tsv_temporary.open("w", encoding="utf-8") as lines,
        tqdm(desc=csv_path.name, unit=" users", unit_scale=True, disable=not progress) as bar,
    ):
        pairs.write("user,item,timestamp\n")
        for user, items, times in _users(spec, world):
            pairs.writelines(f"{user},{item},{time}\n" for item, time in zip(items, times, strict=False))
            lines.write(f"{user}\t{' '.join(map(str, items))}\n")
            bar.update(1)
    with replace_atomically(titles_path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["item", "title"])
        table.writerows(list(enumerate(make_titles(spec, world)))[1:])
    with replace_atomically(counts_path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{item}\t{likes}\t{views}\n" for item, likes, views in _counts(spec, world))
    with replace_atomically(categories_path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{item}, {topic(cluster)}\n" for item, cluster in enumerate(world.cluster.tolist()) if item)
    return [*paths, categories_path]


def _users(spec: SyntheticSpec, world: World) -> Iterator[tuple[int, list[int], list[int]]]:
    """User, items oldest first, and times of at least as many items."""
    for index, block in enumerate(blocks(spec, world, "train")):
        rng = generator(spec, TIME_KEY, index)
        user = block.columns["user_id"]
        firsts = np.flatnonzero(np.diff(user, prepend=0))
        bounds = np.append(firsts, len(user))
        longest = spec.max_len + spec.rows_per_user
        # The same number of draws for every user, so that users are independent of each other.
        start = START_MS + rng.integers(SPAN_MS, size=len(firsts))
        targets, clicked = block.columns["item_id"], block.label.astype(bool)
        for number, (low, high) in enumerate(pairwise(bounds.tolist())):
            times = start[number] + np.cumsum(1 + rng.integers(STEP_MS, size=longest))
            history = block.history_values[block.history_offsets[low] : block.history_offsets[low + 1]]
            items = list(dict.fromkeys([*history.tolist(), *targets[low:high][clicked[low:high]].tolist()]))
            if len(items) >= LEAST_ITEMS:
                yield int(user[low]), items, times.tolist()


def _counts(spec: SyntheticSpec, world: World) -> Iterator[tuple[int, int, int]]:
    """Item, likes and views at the time of the crawl."""
    rng = generator(spec, COUNT_KEY)
    views = VIEWS_OF_ALL * world.popularity * np.exp(0.5 * rng.standard_normal(len(world.content)))
    likes = views * LIKES_PER_VIEW * np.exp(0.5 * rng.standard_normal(len(views)))
    for item in range(1, len(views)):
        yield item, int(likes[item]), int(views[item])
