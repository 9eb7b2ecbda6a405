"""The item column of vectors from training behaviour: proposed wherever there are enough pairs of items to count."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

from fuxictr_multimodal.data.proposal.facts import Facts, flat, is_rating, mean
from fuxictr_multimodal.data.proposal.lines import Noted
from fuxictr_multimodal.data.proposal.roles import Roles

WIDTH = 64
# Different pairs take up to 50 bytes each while they are counted.
MOST_PAIRS = 100_000_000
FEWEST_ITEMS = 10
# Pairs an event of a log whose users were not counted.
USUAL_PAIRS = 32
# Events of one user that are counted, and of a history that is a column.
LONGEST = 200


def item_vectors(roles: Roles, taken: Collection[str]) -> Noted | None:
    """The column, a comment where it is not worth it; None where there are no histories.

    Args:
        roles: of the files.
        taken: names that columns have.
    """
    if roles.user is None or not (roles.form == "log" or roles.histories):
        return None
    name = next(name for name in (f"item_cooc_d{WIDTH}", f"item_vectors_of_pairs_d{WIDTH}") if name not in taken)
    settings: dict[str, Any] = {"name": name, "active": True, "dtype": "float", "type": "embedding", "source": "item"}
    settings |= {"pretrain_dim": WIDTH, "item_vectors": "cooccurrence"}
    pairs, items = _pairs(roles), _items(roles)
    if items < FEWEST_ITEMS or pairs < items:
        return Noted(settings, "vectors of items that users have in common: here too few have any in common", off=True)
    if roles.form != "log" and roles.main.columns[roles.user].missing:
        note = f"vectors of items that users have in common: uncomment it once no {roles.user} is missing"
        return Noted(settings, note, off=True)
    if (most := min(pairs, items**2 / 2)) > MOST_PAIRS:
        memory = f"about {most * 5e-8:,.0f} GB of memory"
        return Noted(
            settings, f"vectors of items that users have in common: uncomment it if there is {memory}", off=True
        )
    return Noted(settings, "vectors of items that the same training users have; a sample's target is not counted")


def _items(roles: Roles) -> int:
    assert roles.item is not None
    if roles.form == "log":
        return max(roles.main.columns[roles.item].distinct, roles.items.rows if roles.items else 0)
    lists = roles.main.columns[roles.histories[0]].lists
    assert lists is not None
    return flat(lists).n_unique()


def _pairs(roles: Roles) -> float:
    """About how many pairs of items the histories of training users have."""
    if roles.form != "log":
        lists = roles.main.columns[roles.histories[0]].lists
        assert lists is not None
        lengths = lists.list.len().cast(pl.Float64).clip(upper_bound=LONGEST)
        return float((lengths * (lengths - 1) / 2).sum())
    assert roles.user is not None
    users = roles.main.columns[roles.user]
    if not roles.main.whole:
        return roles.main.rows * USUAL_PAIRS
    events = users.values.value_counts(name="events")["events"].cast(pl.Float64) * _positive(roles)
    # The newest event of a user is no history of any sample.
    lengths = (events - 1).clip(0, LONGEST)
    return float((lengths * (lengths - 1).clip(lower_bound=0) / 2).sum())


def _positive(roles: Roles) -> float:
    """Fraction of the events that histories hold."""
    facts: Facts | None = roles.main.columns[roles.label] if roles.label else None
    if facts is None or not len(facts.values) or facts.kind not in ("int", "float", "bool"):
        return 1.0
    values = facts.values.cast(pl.Float64)
    return mean(values >= 0.8 * float(values.max() or 1)) if is_rating(facts) else mean(values > 0)  # type: ignore[arg-type]
