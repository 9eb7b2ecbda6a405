"""The runs selected by `--expid` and `--seeds`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.config.expids import list_expids
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.training.run_names import seed_suffix

GLOB_CHARACTERS = frozenset("*?[")
# NumPy's generator takes no larger seed; a range of more runs is a slip of the hand.
MOST_SEED, MOST_RUNS = 2**32 - 1, 10_000


@dataclass(frozen=True)
class Plan:
    """One run that the user asked for.

    Attributes:
        expid: the experiment.
        seed: None for the one in its configuration.
        config_dir: the config folder of the experiment.
    """

    expid: str
    seed: int | None = None
    config_dir: Path = Path("./config/")

    @property
    def name(self) -> str:
        """What messages call the run.

        >>> Plan("DIN_demo", 3).name
        'DIN_demo_s3'
        """
        return self.expid + seed_suffix(self.seed)


def is_one_run(expid: str, seeds: str | None) -> bool:
    """Whether `--expid` and `--seeds` name a single run.

    >>> is_one_run("QIN_test", None), is_one_run("QIN_*", None), is_one_run("QIN_test", "1,2")
    (True, False, False)
    """
    return seeds is None and not GLOB_CHARACTERS & set(expid) and "," not in expid


def expand(
    config_dir: Path, expids: str, seeds: str | None = None, *, known: Sequence[str] | None = None
) -> list[Plan]:
    """All runs that `--expid` and `--seeds` name; the seeds of an expid stay together.

    Args:
        config_dir: the config folder.
        expids: as in `select`.
        seeds: as in `parse_seeds`; None for one run of each expid with its own seed.
        known: the expids of the folder; by default those of its CTR experiments.

    Raises:
        ConfigError: an expid or glob that matches nothing, or a malformed list of seeds.
    """
    names = select(expids, list_expids(config_dir) if known is None else known, where=config_dir)
    numbers = parse_seeds(seeds) if seeds else [None]
    return [Plan(name, seed, config_dir) for name in names for seed in numbers]


def select(expids: str, known: Sequence[str], *, where: Path) -> list[str]:
    """The known expids that `--expid` names: a name, a glob, or a list of both.

    >>> select("QIN*,DIN", ["DCN", "DIN", "QIN_a", "QIN_b"], where=Path("config"))
    ['QIN_a', 'QIN_b', 'DIN']

    Raises:
        ConfigError: a name or glob that matches nothing in the folder `where`.
    """
    names: list[str] = []
    for pattern in filter(None, (part.strip() for part in expids.split(","))):
        found = [pattern] if pattern in known else []
        if GLOB_CHARACTERS & set(pattern):
            found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ConfigError(f"--expid: {pattern!r} matches nothing in {where}. {did_you_mean(pattern, known)}")
        names += found
    if not names:
        raise ConfigError("--expid is empty: give a name, a glob or a list")
    return list(dict.fromkeys(names))


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds; a range includes both ends.

    >>> parse_seeds("1,2,5-7,2")
    [1, 2, 5, 6, 7]

    Raises:
        ConfigError: a part that is neither a whole number from 0 nor a range, a seed above `MOST_SEED`, or more than
            `MOST_RUNS` seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = (_seed(number) for number in (first, last if dash else first))
        if low is None or high is None or low > high:
            shown = f"{part.strip()[:40]!r} is not a seed; write 1,2,3 or 1-3, of numbers up to {MOST_SEED}"
            raise ConfigError(f"--seeds {text[:80]!r}: {shown}")
        if high - low >= MOST_RUNS or len(seeds) > MOST_RUNS:
            raise ConfigError(f"--seeds {text[:80]!r} names more than {MOST_RUNS:,} seeds")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


def _seed(text: str) -> int | None:
    """A seed; None for any other text."""
    # Python refuses to convert thousands of digits.
    if not text.isdecimal() or len(text) > 20:
        return None
    return number if (number := int(text)) <= MOST_SEED else None
