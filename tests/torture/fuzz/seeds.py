"""Files that are attacked again and again: seeds written once, a mutated one under a name that no cache knows."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.torture.fuzz import byte_mutator, tree_mutator

Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_numbers = itertools.count()


def of_bytes(seeds: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    """Makes mutated files of a kind."""

    def make(rng: random.Random) -> bytes:
        return byte_mutator.mutated(rng.choice(seeds), seeds, rng)

    return make


def of_json(seeds: Sequence[Any], *, raw: float = 0.3) -> Callable[[random.Random], bytes]:
    """Makes mutated JSON files; the share `raw` of them by their bytes, the others by what they hold."""
    texts = [json.dumps(seed).encode() for seed in seeds]

    def make(rng: random.Random) -> bytes:
        if rng.random() < raw:
            return byte_mutator.mutated(rng.choice(texts), texts, rng)
        return json.dumps(tree_mutator.mutated(rng.choice(seeds), seeds, rng)).encode()

    return make


def of_yaml(seeds: Sequence[Any], texts: Sequence[bytes] = (), *, raw: float = 0.35) -> Callable[..., bytes]:
    """Makes mutated YAML files of trees, and of the texts that they come from."""
    texts = texts or [yaml.dump(seed, Dumper=Dumper).encode() for seed in seeds]

    def make(rng: random.Random) -> bytes:
        if rng.random() < raw:
            return byte_mutator.mutated(rng.choice(texts), texts, rng)
        tree = tree_mutator.mutated(rng.choice(seeds), seeds, rng, yaml=True)
        form: dict[str, Any] = {"sort_keys": False, "allow_unicode": rng.random() < 0.5}
        try:
            return yaml.dump(tree, Dumper=Dumper, **form).encode()
        except UnicodeEncodeError:
            # Halves of surrogate pairs; only the dumper in Python writes them.
            return yaml.dump(tree, Dumper=yaml.SafeDumper, sort_keys=False).encode("utf-8", "surrogatepass")

    return make


class Written:
    """Writes each input as a new file of a folder, and removes the one before.

    Args:
        folder: of the file.
        suffix: of its name.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._suffix = folder, suffix
        self._last: Path | None = None

    def __call__(self, content: bytes) -> Path:
        """Path of the file."""
        if self._last is not None:
            self._last.unlink(missing_ok=True)
        self._last = self._folder / f"f{next(_numbers)}{self._suffix}"
        self._last.write_bytes(content)
        return self._last


def shrink_bytes(content: bytes) -> Iterator[bytes]:
    """See `byte_mutator.smaller`."""
    return byte_mutator.smaller(content)


def shrink_tree(tree: Any) -> Iterator[Any]:
    """See `tree_mutator.smaller`."""
    return tree_mutator.smaller(tree)
