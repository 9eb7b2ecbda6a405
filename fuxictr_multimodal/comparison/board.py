"""The comparison of one dataset as plain data: what every output format reads, and its compact JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuxictr_multimodal.comparison.statistics import Interval, Spread
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import replace_atomically

FORMAT_VERSION = 1
DIGITS = 6  # of a number in the JSON: beyond what any output shows


@dataclass(frozen=True)
class Difference:
    """Mean AUC minus that of the baseline, with an interval over rows and one over the seeds that both have."""

    mean: float
    rows: Interval | None = None
    seeds: Interval | None = None
    shared_seeds: int = 0


@dataclass(frozen=True)
class Curve:
    """The learning curve of one seed: at `x` the training loss and the valid AUC (None where not measured)."""

    seed: int
    x: tuple[float, ...]
    loss: tuple[float, ...]
    auc: tuple[float | None, ...]


@dataclass(frozen=True)
class Published:
    """A curve that others published for this data: its name, where it is from, and its points by epoch."""

    name: str
    source: str
    curve: Curve


@dataclass(frozen=True)
class Entry:
    """One experiment over its seeds.

    Attributes:
        name: the expid.
        model: name of the model class.
        runs, seeds: names and seeds of its complete runs, in order of the seed.
        metrics: by split, then by metric.
        minutes: of a whole run.
        auc_rows: interval of its mean AUC over resampled rows of the compared split.
        difference: to the baseline; None for the baseline itself and where there is none.
        parameters: `total` and `embedding`.
        rows_per_s: mean over seeds, `train` and `score`.
        memory_mib: most over seeds, `host` and `device`.
        trials: configurations tried before this one was chosen; None where not recorded.
        curves: one a seed.
        tied_with_best: not told apart from the first entry by the bootstrap over rows; None where there is none.
        slices: by slicing, one AUC over seeds a bin; None where a bin holds too few rows.
        marks: footnotes that concern it.
    """

    name: str
    model: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, dict[str, Spread]]
    minutes: Spread
    auc_rows: Interval | None = None
    difference: Difference | None = None
    tied_with_best: bool | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    rows_per_s: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float | None] = field(default_factory=dict)
    trials: int | None = None
    curves: tuple[Curve, ...] = ()
    slices: dict[str, tuple[Spread | None, ...]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    def value(self, split: str, metric: str) -> Spread | None:
        """A metric of a split, or None where it was not computed."""
        return self.metrics.get(split, {}).get(metric)


@dataclass(frozen=True)
class Slicing:
    """A partition of the compared rows: a title and, by bin, its label, rows and positives."""

    name: str
    title: str
    bins: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Reference:
    """A known floor or ceiling of the dataset: values by split, then by metric."""

    name: str
    kind: str  # floor or ceiling
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Unfinished:
    """A run that is in no row: what it is called, its state and why."""

    run: str
    status: str
    reason: str


@dataclass(frozen=True)
class Board:
    """All that the outputs show of one dataset.

    Attributes:
        dataset_id, manifest_hash: which data, which build of it.
        compared: the split whose rows decide, `test`, or `valid` where the test split has no labels.
        splits: rows and positives by split; empty where the store was not at hand.
        baseline: name of the entry that differences refer to, or None.
        bootstrap: `replicates`, `seed` and `unit` (`rows` or `groups`), or None where it was not computed.
        curve_axis: what `Curve.x` counts, `epoch` or `step`.
        entries: best first.
        footnotes: text by mark.
        notes: sentences on settings and fairness.
        published: curves of others, drawn beside those of the entries.
    """

    dataset_id: str
    manifest_hash: str
    compared: str
    splits: dict[str, dict[str, int]]
    baseline: str | None
    bootstrap: dict[str, Any] | None
    curve_axis: str
    entries: tuple[Entry, ...]
    slicings: tuple[Slicing, ...] = ()
    references: tuple[Reference, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    footnotes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def resampled(self) -> str:
        """What the bootstrap draws, in words: `rows`, or `users` with all their rows."""
        return "users" if self.bootstrap and self.bootstrap["unit"] == "groups" else "rows"

    def best(self, split: str, metric: str) -> frozenset[str]:
        """Names of the entries whose mean is the best, ties included."""
        means = {e.name: v.mean for e in self.entries if (v := e.value(split, metric)) is not None}
        if len(means) < 2:
            return frozenset()
        target = min(means.values()) if metric in LOWER_IS_BETTER else max(means.values())
        return frozenset(name for name, mean in means.items() if mean == target)

    def write(self, path: Path) -> None:
        """Write the compact JSON: a line a key and a line an entry, numbers rounded to `DIGITS`."""
        content = {"format_version": FORMAT_VERSION, **_plain(self)}
        lines = [f"{json.dumps(key)}: {_listed(value)}" for key, value in content.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Board:
        """Read the compact JSON.

        Raises:
            DataError: missing file, no leaderboard, or another format version.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: write it with --export") from None
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}; write it again with --export") from None
        version = stored.pop("format_version", None) if isinstance(stored, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format_version {version!r}, this release reads {FORMAT_VERSION}: export it again")
        try:
            return _board(stored)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no leaderboard of this version ({error!r}): export it again") from None


LOWER_IS_BETTER = frozenset({"logloss", "binary_crossentropy", "ECE"})


def rounded(board: Board) -> Board:
    """The board as a reader of its JSON sees it, so that both give the same output."""
    return _board(_plain(board))


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


def _board(stored: Mapping[str, Any]) -> Board:
    return Board(
        **{
            "splits": {},
            "baseline": None,
            "bootstrap": None,
            **stored,
            "entries": tuple(_entry(entry) for entry in stored.get("entries", ())),
            "slicings": tuple(
                Slicing(**{**slicing, "bins": tuple((b[0], b[1], b[2]) for b in slicing["bins"])})
                for slicing in stored.get("slicings", ())
            ),
            "references": tuple(Reference(**reference) for reference in stored.get("references", ())),
            "unfinished": tuple(Unfinished(**run) for run in stored.get("unfinished", ())),
            "notes": tuple(stored.get("notes", ())),
            "published": tuple(
                Published(item["name"], item["source"], _curve(item["curve"])) for item in stored.get("published", ())
            ),
        }
    )


def _curve(stored: Mapping[str, Any]) -> Curve:
    return Curve(stored["seed"], tuple(stored["x"]), tuple(stored["loss"]), tuple(stored["auc"]))


def _entry(stored: Mapping[str, Any]) -> Entry:
    difference = stored.get("difference")
    return Entry(
        **{
            **stored,
            "runs": tuple(stored["runs"]),
            "seeds": tuple(stored["seeds"]),
            "metrics": {
                split: {name: Spread(tuple(values)) for name, values in metrics.items()}
                for split, metrics in stored["metrics"].items()
            },
            "auc_rows": _interval(stored.get("auc_rows")),
            "difference": None
            if difference is None
            else Difference(
                **{
                    **difference,
                    "rows": _interval(difference.get("rows")),
                    "seeds": _interval(difference.get("seeds")),
                }
            ),
            "minutes": Spread(tuple(stored["minutes"])),
            "curves": tuple(_curve(curve) for curve in stored.get("curves", ())),
            "slices": {
                name: tuple(None if values is None else Spread(tuple(values)) for values in bins)
                for name, bins in stored.get("slices", {}).items()
            },
            "marks": tuple(stored.get("marks", ())),
        }
    )


def _interval(stored: Mapping[str, float] | None) -> Interval | None:
    return None if stored is None else Interval(stored["low"], stored["high"])
