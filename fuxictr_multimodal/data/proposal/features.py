"""One column of a file to one line of `feature_cols`: its type and encoding, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from fuxictr_multimodal.data.proposal.dates import remedy
from fuxictr_multimodal.data.proposal.facts import Facts, flat, is_bracketed, is_dates, is_prose, is_rating
from fuxictr_multimodal.data.proposal.hints import LABEL, OUTCOME, hinted, is_index
from fuxictr_multimodal.data.proposal.lines import Noted
from fuxictr_multimodal.data.proposal.roles import Roles

# Numbers that name something, rather than count or measure it.
NAMES = (
    "id", "code", "type", "category", "cat", "class", "zip", "postal", "bucket", "level", "group", "city", "region",
    "country", "state", "gender", "sex", "occupation", "job", "brand", "weekday", "hour", "month", "channel", "device",
    "os", "tab", "position", "slot", "cluster", "segment", "status", "flag", "zone", "store", "seller", "shop",
    "author",
)  # fmt: skip
SPENT = ("dwell", "watch", "watched", "duration", "progress", "playtime", "stay")
FEW = 50
MANY = 1000
LONGEST_SEQUENCE = 50
BUCKETS = 10


def feature(facts: Facts, source: str, *, rows: int, texts: bool = False) -> Noted:
    """Propose what a column is as a feature.

    Args:
        facts: of the column.
        source: `item`, `user`, or "" for a column of the samples or the log.
        rows: of its file, examined or not.
        texts: make vectors of an item's texts, in place of a comment that says how.
    """
    seen = facts.shown()
    if is_index(facts.name):
        # A comment, since each file may have one.
        return replace(_off(facts, source, f"{seen}: the index of pandas, no feature"), off=True)
    if facts.kind == "empty":
        return _off(facts, source, seen)
    if facts.kind == "other":
        return _off(facts, source, f"{seen}: no column of a dataset; write it as a number, a text or a list of these")
    if facts.kind == "time":
        return _off(facts, source, f"{seen}: write what matters of it as a number, such as the age or the year")
    if facts.constant:
        return _off(facts, source, f"{seen}: tells nothing")
    if is_bracketed(facts):
        return _off(facts, source, "check: lists in brackets; write the values with ^ between them")
    if is_dates(facts):
        return _off(facts, source, f"check: {remedy(facts.values)}")
    if facts.kind == "list" or facts.splitter:
        return _of_lists(facts, source, seen)
    if source == "" and (kept := _outcome(facts, source, seen)) is not None:
        return kept
    if is_prose(facts):
        text = {"name": facts.name, "active": True, "dtype": "str", "type": "text"} | _source(source)
        if source == "item":
            vector = {**text, "encoder": "tfidf", "pretrain_dim": 64}
            use = "as vectors of their words" if texts else "uncomment it for vectors of their words"
            return Noted(vector, f"{seen} of several words: {use}", off=not texts)
        return _off(facts, source, f"{seen} of several words: only texts of items become vectors")
    if facts.kind == "text":
        return _categorical(facts, source, seen, rows, "str")
    if facts.kind == "bool":
        return _noted(
            facts, source, {"dtype": "int" if facts.dtype == "Boolean" else "str", "type": "categorical"}, seen
        )
    named = hinted(facts.words[-1:], NAMES) or any(hinted((word,), NAMES[:2]) for word in facts.words)
    if facts.kind == "int" and (named or facts.distinct <= FEW):
        return _categorical(facts, source, seen, rows, "int")
    return _numeric(facts, source)


def _outcome(facts: Facts, source: str, seen: str) -> Noted | None:
    """What is known of an event only afterwards is no feature of the target: it would be the answer."""
    outcome = hinted(facts.words, OUTCOME) or hinted(facts.words, LABEL[:2])
    if (
        not outcome
        or facts.kind not in ("int", "float", "bool")
        or hinted(facts.words, ("count", "num", "avg", "mean"))
    ):
        return None
    if facts.binary or is_rating(facts) or hinted(facts.words, SPENT):
        return _off(facts, source, f"check: {seen}; it looks like an outcome of the event, which would be the answer")
    return None


def spent(roles: Roles) -> list[str]:
    """Columns of a log that say how long or how far an event went: known of history events, not yet of the target."""
    taken = (roles.user, roles.item, roles.label, roles.time)
    return [
        name
        for name, facts in roles.main.columns.items()
        if name not in taken
        and facts.kind in ("int", "float")
        and facts.distinct > BUCKETS
        and hinted(facts.words, SPENT)
    ]


def _categorical(facts: Facts, source: str, seen: str, rows: int, dtype: str) -> Noted:
    # In a table of items or users a value that occurs once teaches nothing.
    of_table = source != "" and rows > 100
    if facts.distinct > 0.9 * len(facts.values) and (of_table or (rows > 1000 and dtype == "str")):
        return _off(
            facts, source, f"{seen} in {facts.examined:,} rows: nearly each occurs once, so nothing can be learnt"
        )
    settings: dict[str, Any] = {"dtype": dtype, "type": "categorical"}
    if facts.distinct > MANY:
        settings["min_categr_count"] = 2 if source else 5
        seen += "; those that are less frequent share one id"
    return _noted(facts, source, settings, seen)


def _numeric(facts: Facts, source: str) -> Noted:
    values = facts.values.cast(pl.Float64)
    middle, high, least = values.quantile(0.5) or 0.0, values.quantile(0.99) or 0.0, float(values.min() or 0)  # type: ignore[arg-type]
    seen = f"{'whole ' if facts.kind == 'int' else ''}numbers from {least:.4g} to {float(values.max() or 0):.4g}, median {middle:.4g}"  # type: ignore[arg-type]  # noqa: E501
    if facts.missing:
        seen += f", {facts.missing / facts.examined:.1%} missing"
    # A long tail on one side, as of prices and counts.
    if least >= 0 and high > 5 * max(middle, 1e-12):
        buckets: dict[str, Any] = {
            "type": "categorical",
            "category_processor": "quantile_bucket",
            "num_buckets": BUCKETS,
        }
        return _noted(facts, source, {"dtype": "float", **buckets}, f"{seen}: a long tail, so by quantiles")
    return _noted(facts, source, {"dtype": "float", "type": "numeric", "normalizer": "StandardScaler"}, seen)


def _of_lists(facts: Facts, source: str, seen: str) -> Noted:
    if facts.width is not None:
        vector = {"dtype": "float", "type": "embedding", "pretrain_dim": facts.width}
        return _noted(facts, source, vector, f"{seen}: a pretrained vector")
    if facts.inner not in ("int", "text"):
        return _off(facts, source, f"{seen}: write vectors of one width, or lists of ids")
    settings: dict[str, Any] = {"dtype": "str", "type": "sequence"}
    if facts.splitter:
        settings["splitter"] = facts.splitter
    assert facts.lists is not None
    distinct = flat(facts.lists).n_unique()
    if distinct > MANY:
        settings["min_categr_count"] = 2
    if source != "item":
        settings["max_len"] = max(min(facts.lengths[2], LONGEST_SEQUENCE), 1)
    return _noted(facts, source, settings, f"{seen}, {distinct:,} distinct")


def _noted(facts: Facts, source: str, settings: dict[str, Any], comment: str) -> Noted:
    return Noted({"name": facts.name, "active": True, **settings, **_source(source)}, comment)


def _off(facts: Facts, source: str, comment: str) -> Noted:
    number = facts.kind in ("int", "float", "bool")
    settings = {"dtype": "float", "type": "numeric"} if number else {"dtype": "str", "type": "categorical"}
    return Noted({"name": facts.name, "active": False, **settings, **_source(source)}, comment)


def _source(source: str) -> dict[str, str]:
    return {"source": source} if source else {}
