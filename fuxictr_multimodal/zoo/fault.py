"""One fault of FuxiCTR: where and what goes wrong, the handling, and the test of it."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "2.3.10"
AREAS = ("Configuration", "Dataset", "Loading", "Training", "Metrics", "Models", "Tuning", "Clone")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of FuxiCTR.

    Attributes:
        name: a few words.
        area: of `AREAS`.
        where: file of FuxiCTR and the function in it, or the model.
        wrong: what goes wrong.
        handling: what this project does.
        handled_by: module or object of this project that does it, by its dotted name; none if it is only reported.
        test: file and function.
        models: the models that have it; empty where it is none of models.
        footnote: the footnote of a leaderboard for these models.
        version: of FuxiCTR, in which it was seen.
    """

    name: str
    area: str
    where: str
    wrong: str
    handling: str
    handled_by: str = ""
    test: str
    models: frozenset[str] = frozenset()
    footnote: str = ""
    version: str = VERSION
