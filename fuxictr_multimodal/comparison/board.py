"""The comparison of one dataset as plain data: what every output format reads, and its compact JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fuxictr_multimodal.comparison.statistics import Interval, Spread
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import write_text
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

FORMAT_VERSION = 1
DIGITS = 6  # of a number in the JSON: beyond what any output shows
STRICT = ConfigDict(extra="forbid")


def _spread(found: Any) -> Spread:
    """A spread is its list of values in the JSON."""
    if isinstance(found, Spread):
        return found
    if not isinstance(found, list | tuple) or not found or not all(type(value) in (int, float) for value in found):
        raise ValueError("it must be a list of numbers, one a seed")
    return Spread(tuple(found))


Values = Annotated[Spread, BeforeValidator(_spread)]


@dataclass(frozen=True, config=STRICT)
class Difference:
    """Mean AUC minus that of the baseline, with an interval over samples and one over the seeds that both have."""

    mean: float
    rows: Interval | None = None
    seeds: Interval | None = None
    shared_seeds: int = 0


@dataclass(frozen=True, config=STRICT)
class Curve:
    """The learning curve of one seed: at `x` the training loss and the valid AUC (None where not measured)."""

    seed: int
    x: tuple[int | float, ...]
    loss: tuple[float, ...]
    auc: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.loss) == len(self.auc):
            raise ValueError("x, loss and auc of a curve must be equally long")


@dataclass(frozen=True, config=STRICT)
class Published:
    """A curve that others published for this data: its name, where it is from, and its points by epoch."""

    name: str
    source: str
    curve: Curve


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One experiment over its seeds.

    Attributes:
        name: the expid.
        model: name of the model class.
        runs, seeds: names and seeds of its complete runs, in order of the seed.
        metrics: by split, then by metric.
        minutes: of a whole run.
        auc_rows: interval of its mean AUC over resampled samples of the compared split.
        difference: to the baseline; None for the baseline itself and without a baseline.
        parameters: `total` and `embedding`.
        rows_per_s: mean over seeds, `train` and `score`.
        memory_mib: most over seeds, `host` and `device`.
        trials: configurations tried before this one was chosen; None where not recorded.
        curves: one per seed.
        tied_with_best: the bootstrap over samples does not separate it from the first entry; None without a bootstrap.
        slices: by slicing, one AUC over seeds a bin; None where a bin holds too few samples.
        marks: footnotes that concern it.
    """

    name: str
    model: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, dict[str, Values]]
    minutes: Values
    auc_rows: Interval | None = None
    difference: Difference | None = None
    tied_with_best: bool | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    rows_per_s: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float | None] = field(default_factory=dict)
    trials: int | None = None
    curves: tuple[Curve, ...] = ()
    slices: dict[str, tuple[Values | None, ...]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    def value(self, split: str, metric: str) -> Spread | None:
        """A metric of a split, or None if it was not computed."""
        return self.metrics.get(split, {}).get(metric)


@dataclass(frozen=True, config=STRICT)
class Slicing:
    """A partition of the compared samples: a title and, by bin, its label, samples and positives."""

    name: str
    title: str
    bins: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, config=STRICT)
class Reference:
    """A known reference of the dataset, a baseline or the Bayes-optimal model: values by split, then by metric."""

    name: str
    kind: str  # `floor` or `ceiling`, as the JSON has it
    metrics: dict[str, dict[str, float]]

    @property
    def word(self) -> str:
        """The kind in the words of tables and page."""
        return "baseline" if self.kind == "floor" else "Bayes-optimal"


@dataclass(frozen=True, config=STRICT)
class Unfinished:
    """A run that is not in the table: its name, its state and the reason."""

    run: str
    status: str
    reason: str


@dataclass(frozen=True, config=STRICT)
class Board:
    """All that the outputs show of one dataset.

    Attributes:
        dataset_id, manifest_hash: which data, which build of it.
        compared: the split whose samples decide, `test`, or `valid` where the test split has no labels.
        splits: samples and positives by split; empty where the dataset was not found.
        baseline: name of the entry that differences refer to, or None.
        bootstrap: `replicates`, `seed` and `unit` (`rows`, which are samples, or `groups`), or None if it was not
            computed.
        curve_axis: what `Curve.x` counts, `epoch` or `step`.
        entries: best first.
        footnotes: text by mark.
        notes: sentences on settings and fairness.
        published: curves of others, drawn beside those of the entries.
    """

    dataset_id: str
    manifest_hash: str
    compared: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    baseline: str | None = None
    bootstrap: dict[str, Any] | None = None
    curve_axis: str = "epoch"
    entries: tuple[Entry, ...] = ()
    slicings: tuple[Slicing, ...] = ()
    references: tuple[Reference, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    footnotes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"replicates": int, "seed": int, "unit": str}
        if self.bootstrap and not all(isinstance(self.bootstrap.get(key), kind) for key, kind in kinds.items()):
            raise ValueError("bootstrap must have replicates, seed and unit")

    @property
    def resampled(self) -> str:
        """What the bootstrap draws, in words: `samples`, or `users` with all their samples."""
        return "users" if self.bootstrap and self.bootstrap["unit"] == "groups" else "samples"

    def best(self, split: str, metric: str) -> frozenset[str]:
        """Names of the entries whose mean is the best, ties included."""
        means = {e.name: v.mean for e in self.entries if (v := e.value(split, metric)) is not None}
        if len(means) < 2:
            return frozenset()
        target = min(means.values()) if metric in LOWER_IS_BETTER else max(means.values())
        return frozenset(name for name, mean in means.items() if mean == target)

    def write(self, path: Path) -> None:
        """Write the compact JSON: one line per key and per entry, numbers rounded to `DIGITS`."""
        content = {"format_version": FORMAT_VERSION, **_plain(self)}
        lines = [f"{json.dumps(key)}: {_listed(value)}" for key, value in content.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def read(cls, path: Path) -> Board:
        """Read the compact JSON.

        Raises:
            DataError: the file is missing, not a leaderboard, or of another format version.
        """
        try:
            stored = read_json_file(path)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: write it with --export") from None
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}; write it again with --export") from None
        version = stored.pop("format_version", None) if isinstance(stored, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format_version {version!r}, this release reads {FORMAT_VERSION}: export it again")
        try:
            return _BOARD.validate_python(stored)
        except ValidationError as error:
            wrong = error.errors()[0]
            where, said = ".".join(map(str, wrong["loc"])), wrong["msg"].removeprefix("Value error, ")
            raise DataError(f"{path} is not a leaderboard of this version ({where}: {said}): export it again") from None


_BOARD = TypeAdapter(Board)
LOWER_IS_BETTER = frozenset({"logloss", "binary_crossentropy", "ECE"})


def rounded(board: Board) -> Board:
    """The board as its JSON restores it, so that both give the same output."""
    return _BOARD.validate_python(_plain(board))


def _listed(value: Any) -> str:
    """JSON text, a list of objects with a line each."""
    dumps = functools.partial(json.dumps, ensure_ascii=False, allow_nan=False)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(dumps(item) for item in value) + "\n]"
    return dumps(value)


def _plain(value: Any) -> Any:
    """Dataclasses to mappings without their empty fields, tuples to lists, floats rounded."""
    if isinstance(value, Spread):
        return [_plain(v) for v in value.values]
    if dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(v) for name, v in items if v is not None and v != () and v != {}}
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return round(value, DIGITS) if isinstance(value, float) else value
