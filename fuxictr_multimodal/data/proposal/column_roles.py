"""Which columns are ids, label, time, history and kind of event. Each guess that may be wrong leaves a note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from fuxictr_multimodal.data.proposal.dates import remedy
from fuxictr_multimodal.data.proposal.facts import Facts, flat, is_dates, is_rating, kinds, overlap
from fuxictr_multimodal.data.proposal.file_roles import arrange
from fuxictr_multimodal.data.proposal.hints import (
    BEHAVIOUR,
    HISTORY,
    ITEM,
    LABEL,
    OUTCOME,
    RATING,
    TIME,
    USER,
    hinted,
    is_id,
    is_index,
    words,
)
from fuxictr_multimodal.data.proposal.roles import Roles
from fuxictr_multimodal.data.proposal.tables import Look
from fuxictr_multimodal.errors import ConfigError, did_you_mean

MOST_BEHAVIOURS = 12


def find_roles(looks: list[Look], named: Mapping[str, str | None]) -> Roles:
    """Decide what each file and each key column is.

    Args:
        looks: the files.
        named: columns that the user named, by role: `user`, `item`, `label`, `time`.

    Raises:
        ConfigError: files that do not belong together, no label, or a named column that is not there.
    """
    roles = arrange(looks)
    columns = roles.main.columns
    for role, name in named.items():
        if name is not None and name not in columns:
            raise ConfigError(f"{roles.main.name} has no column {name!r} for --{role}. {did_you_mean(name, columns)}")
    _keys(roles, named)
    roles.time = named.get("time") or _time(roles)
    _histories(roles)
    roles.label = named.get("label") or _label(roles)
    if roles.form == "log":
        roles.behaviour = _behaviour(roles)
    elif roles.label is None:
        raise ConfigError(
            f"{roles.main.name}: no column of 0 and 1 looks like the label: name it with --label. "
            f"Columns: {', '.join(columns)}"
        )
    elif not columns[roles.label].binary:
        raise ConfigError(_no_samples(roles, columns[roles.label]))
    roles.check_names()
    return roles


def _no_samples(roles: Roles, label: Facts) -> str:
    """Why a table whose label is not 0 and 1 is no table of samples, and no log either."""
    name, missing = roles.main.name, [role for role in ("user", "item") if getattr(roles, role) is None]
    rule = f"the label {label.name!r} is not 0 and 1, as samples need it ({label.shown()})"
    if roles.form != "flat" or not missing or roles.splits:
        return f"{name}: {rule}: write it as 0 and 1, or name another column with --label"
    absent, options = " and no ".join(missing), " and ".join(f"--{role}" for role in missing)
    return (
        f"{name}: it has no column of {absent} ids, as a log needs it, and {rule}: name the column with {options}, or "
        f"write the label as 0 and 1. Columns: {', '.join(roles.main.columns)}"
    )


def _keys(roles: Roles, named: Mapping[str, str | None]) -> None:
    """The columns of users and items."""
    for role, hints in (("user", USER), ("item", ITEM)):
        name = named.get(role)
        if name is None:
            name = getattr(roles, role) or _best_key(roles, hints, taken=(roles.user, roles.item, named.get("label")))
        setattr(roles, role, name)
    if roles.items and roles.item not in roles.items.columns:
        raise ConfigError(f"{roles.items.name} has no column {roles.item!r}: give the item's id one name in both files")
    if roles.users and roles.user not in roles.users.columns:
        raise ConfigError(f"{roles.users.name} has no column {roles.user!r}: give the user's id one name in both files")


def _best_key(roles: Roles, hints: tuple[str, ...], *, taken: Iterable[str | None]) -> str | None:
    columns = roles.main.columns
    found = [
        facts
        for name, facts in columns.items()
        if name not in taken and facts.kind in ("int", "text") and not facts.splitter and not facts.binary
        and facts.distinct > 1 and hinted(facts.words, hints)
    ]  # fmt: skip
    if not found:
        _refuse_float_ids(roles, hints)
        return None
    role = "user" if hints is USER else "item"
    # An id says so in its name, or is the name itself; `item_category` is neither.
    plain = [facts for facts in found if is_id(facts.words, hints)]

    def rank(facts: Facts) -> tuple[int, int]:
        return min(hints.index(hint) for hint in hints if hinted(facts.words, (hint,))), -facts.distinct

    best = min(plain or found, key=rank)
    others = [facts.name for facts in plain or found if facts is not best]
    if not plain:
        roles.checks[role] = f"{best.name} is taken for the {role}: {best.shown()}"
    elif others:
        roles.checks[role] = f"{best.name} is taken for the {role}; so could be {', '.join(others)}"
    return best.name


def _refuse_float_ids(roles: Roles, hints: tuple[str, ...]) -> None:
    """A gap turns the ids of pandas into 3.0, which would be taken for a measure."""
    for name, facts in roles.main.columns.items():
        says_so = facts.words[-1:] == ("id",) or (facts.words and facts.words[-1].endswith("id"))
        if facts.kind == "float" and says_so and is_id(facts.words, hints) and (facts.values % 1 == 0).all():
            raise ConfigError(
                f"{roles.main.name}: the ids in column {name!r} are written with a point, such as {facts.values[0]}: "
                "write them as whole numbers or texts"
            )


def _time(roles: Roles) -> str | None:
    columns = {n: f for n, f in roles.main.columns.items() if n not in (roles.user, roles.item) and not f.constant}
    found = [facts for facts in columns.values() if facts.time_unit]
    # Days or steps of another count, by the name alone.
    found = found or [
        facts for facts in columns.values()
        if facts.kind in ("int", "float") and hinted(facts.words[-1:], TIME[:4]) and not hinted(facts.words, OUTCOME)
    ]  # fmt: skip
    if not found:
        for name, facts in columns.items():
            if is_dates(facts):
                roles.checks["time"] = f"{name} {remedy(facts.values)}, so that it is taken for the time"
        return None

    def rank(facts: Facts) -> tuple[bool, int, int]:
        position = next((-TIME.index(word) for word in facts.words if word in TIME), -len(TIME))
        return facts.time_unit is not None, position, facts.distinct

    best = max(found, key=rank)
    if len(found) > 1 or best.time_unit is None or not ({*best.words} & {*TIME} or best.kind == "time"):
        others = [facts.name for facts in found if facts is not best]
        roles.checks["time"] = f"{best.name} is taken for the time: {best.shown()}" + (
            f"; so could be {', '.join(others)}" if others else ""
        )
    return best.name


def _histories(roles: Roles) -> None:
    """Lists of items, and lists that are aligned with them."""
    columns, item = roles.main.columns, roles.item
    lists = {name: facts for name, facts in columns.items() if facts.lists is not None and facts.lengths[-1] > 0}
    if item is None:
        return
    known = pl.concat([columns[item].values, roles.items.columns[item].values]) if roles.items else columns[item].values
    for name, facts in lists.items():
        assert facts.lists is not None
        values = flat(facts.lists)
        values = values.filter(values != 0) if facts.inner == "int" else values  # padding
        fraction = overlap(values, known)
        if fraction >= 0.5 or (fraction > 0 and hinted(facts.words, (*HISTORY, *ITEM))):
            roles.histories.append(name)
            if fraction < 0.5:
                roles.checks[f"history {name}"] = (
                    f"{name} is taken for a history of items, though only {fraction:.0%} of its ids are known items"
                )
    roles.histories.sort(key=lambda name: not hinted(words(name), HISTORY[:4]))
    for name in lists.keys() - {*roles.histories}:
        for history in roles.histories:
            if _same_lengths(lists[name], lists[history]):
                roles.aligned.setdefault(history, []).append(name)
                break


def _same_lengths(one: Facts, other: Facts) -> bool:
    """Whether two columns of lists have as many values in each row; a column of missing lists is compared by totals."""
    assert one.lists is not None
    assert other.lists is not None
    if len(one.lists) != len(other.lists):
        return one.lengths == other.lengths
    equal = one.lists.list.len() == other.lists.list.len()
    return bool(equal.all()) and one.lengths[0] != one.lengths[-1]


def _label(roles: Roles) -> str | None:
    columns = {n: f for n, f in roles.main.columns.items() if n not in (roles.user, roles.item, roles.time)}
    binary = [facts for name, facts in columns.items() if facts.binary and not is_index(name)]

    def rank(facts: Facts) -> int:
        return min((LABEL.index(word) for word in facts.words if word in LABEL), default=len(LABEL))

    candidates = sorted(binary, key=rank)
    if candidates and rank(candidates[0]) < len(LABEL):
        best, others = candidates[0], [facts.name for facts in candidates[1:] if rank(facts) < len(LABEL)]
        if others:
            roles.checks["label"] = f"{best.name} is taken for the label; so could be {', '.join(others)}"
        return best.name
    ratings = [f for f in columns.values() if f.kind in ("int", "float") and is_rating(f) and hinted(f.words, RATING)]
    if ratings and not roles.histories and not roles.splits:
        return ratings[0].name
    if candidates:
        roles.checks["label"] = f"{candidates[0].name} is taken for the label: {candidates[0].shown()}"
        return candidates[0].name
    return None


def _behaviour(roles: Roles) -> str | None:
    """The column that says which kind each event is."""
    taken = (roles.user, roles.item, roles.label, roles.time)
    for name, facts in roles.main.columns.items():
        if name in taken or facts.kind not in ("text", "int") or facts.splitter:
            continue
        if not 2 <= facts.distinct <= MOST_BEHAVIOURS or not (hinted(facts.words, BEHAVIOUR)):
            continue
        roles.checks["behaviour"] = f"{name} is taken for the kind of event: {', '.join(kinds(facts))}"
        return name
    return None
