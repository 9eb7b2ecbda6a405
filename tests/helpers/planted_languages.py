"""Two made-up languages with a one-to-one dictionary: training and test files whose right answers are known."""

import sys
from pathlib import Path

import numpy as np

CONCEPTS = 60


def write_planted(folder: Path, *, rows: int = 1500, test_rows: int = 100, seed: int = 0) -> Path:
    """Write aligned sentences and pairs scored by their shared concepts; the two languages have no word in common."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfglmnprst" for b in "aeiou"]
    words = generator.permutation([x + y for x in syllables for y in syllables])
    left, right = words[:CONCEPTS], words[CONCEPTS : 2 * CONCEPTS]

    def sentences(count: int) -> np.ndarray:
        return np.array([generator.choice(CONCEPTS, 4, replace=False) for _ in range(count)])

    for part, count in (("train", rows), ("test", test_rows)):
        concepts = sentences(count)
        (folder / f"{part}.left.txt").write_text("".join(" ".join(left[row]) + "\n" for row in concepts))
        # The other language says it backwards.
        (folder / f"{part}.right.txt").write_text("".join(" ".join(right[row[::-1]]) + "\n" for row in concepts))
    for name, count in (("scored.csv", 400), ("test.csv", test_rows)):
        lines = []
        for first in sentences(count):
            shared = generator.integers(0, 5)
            others = generator.choice(np.setdiff1d(np.arange(CONCEPTS), first), 4 - shared, replace=False)
            second = generator.permutation(np.concatenate([first[:shared], others]))
            lines.append(f"{' '.join(left[first])},{' '.join(left[second])},{5 * shared / 4}\n")
        (folder / name).write_text("".join(lines))
    return folder


if __name__ == "__main__":
    print(write_planted(Path(sys.argv[1])))
