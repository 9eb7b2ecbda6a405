"""A small raw release of MicroLens in its own files, with the oddities of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

USERS, ITEMS = 90, 70
WORDS = "cat dog car song dance goal train snow river night game food cake city beach".split()


def write_release(folder: Path, *, size: str = "MicroLens-50k", times: bool = False, seed: int = 0) -> Path:
    """Write pairs (tsv, or csv with times), titles, likes and views, and categories."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    popular = 1 / np.arange(1, ITEMS + 1)
    users = rng.permutation(np.arange(1, USERS + 1)) * 3
    lists = {
        int(user): (1 + rng.choice(ITEMS, rng.integers(5, 15), replace=False, p=popular / popular.sum())).tolist()
        for user in users
    }
    lists[int(users[0])].append(lists[int(users[0])][0])
    if times:
        rows = [
            (u, i, 1_600_000_000_000 + int(rng.integers(0, 40)) * 1000) for u, items in lists.items() for i in items
        ]
        rng.shuffle(rows)
        text = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
        (folder / f"{size}_pairs.csv").write_text(text)
    else:
        text = "".join(f"{user}\t{' '.join(map(str, items))}\n" for user, items in lists.items())
        (folder / f"{size}_pairs.tsv").write_text(text)
    with (folder / f"{size}_titles.csv").open("w") as file:
        file.write("item,title\n")
        for item in range(1, ITEMS + 5):
            words = " ".join(rng.choice(WORDS, 4))
            file.write(f'{item},"A {words}, ""really"" #{WORDS[item % 5].upper()} #{WORDS[item % 7]}"\n')
    with (folder / f"{size}_likes_and_views.txt").open("w") as file:
        for item in range(1, ITEMS - 3):
            file.write(f"{item}\t{item * 10}\t{10_000 - item * 100}\n")
    with (folder / "tags_to_summary.csv").open("w") as file:
        for item in range(1, ITEMS):
            file.write(f"{item}, Topic {item % 3}\n")
    return folder
