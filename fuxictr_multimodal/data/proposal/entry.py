"""The dataset entry: files, keys, split, event features and columns, each with what was seen."""

from __future__ import annotations

from typing import Any

import polars as pl

from fuxictr_multimodal.data.proposal.behaviour import item_vectors
from fuxictr_multimodal.data.proposal.facts import TIME_UNITS, Facts, flat, is_rating, kinds, look, mean
from fuxictr_multimodal.data.proposal.features import BUCKETS, feature, spent
from fuxictr_multimodal.data.proposal.hints import target_kind
from fuxictr_multimodal.data.proposal.lines import Noted
from fuxictr_multimodal.data.proposal.roles import Roles, nameable
from fuxictr_multimodal.data.proposal.tables import Look
from fuxictr_multimodal.data.store.manifest import FOLD_COL
from fuxictr_multimodal.errors import ConfigError

HISTORY_SLOTS = (16, 32, 64, 128)
# Names of groups and of the fold column in the files of a dataset.
RESERVED = ("history", "behaviours", FOLD_COL)
WEIGHTS = ("sample_weight", "weight")


def propose_entry(roles: Roles, split_by: str | None = None) -> dict[str, Any]:
    """The entry of a dataset, whose values may be `Noted`; `plain` takes the notes off.

    Args:
        roles: of the files.
        split_by: `time`, `user` or `last_item`, in place of what the files suggest.

    Raises:
        ConfigError: the files cannot be split so, or have several formats.
    """
    formats = {look.data_format for look in (roles.main, *roles.splits.values())}
    if len(formats) > 1:
        raise ConfigError("the files of the splits are csv and parquet: write all of them in one format")
    entry: dict[str, Any] = {"data_root": "./data/", "data_format": formats.pop()}
    separators = {look.sep for look in _looks(roles) if look.data_format == "csv" and ".tsv" not in look.path}
    if len(separators) > 1:
        raise ConfigError("the csv files have several separators: write all of them with commas, or as parquet")
    if separators - {","}:
        entry["sep"] = Noted(separators.pop(), "separator of the csv files")
    form = roles.form
    entry |= {"log": _log, "samples": _samples, "flat": _flat}[form](roles)
    if split_by is not None:
        entry["split"] = _chosen_split(roles, split_by)
    if roles.users is not None:
        entry["user_data"] = Noted(roles.users.path, roles.users.seen)
    if roles.items is not None:
        entry["item_data"] = Noted(roles.items.path, roles.items.seen)
    if roles.user not in (None, "user_id") and (roles.users is not None or roles.histories):
        entry["user_col"] = roles.user
    if form != "flat":
        assert roles.item is not None
        entry["item_col"] = Noted(roles.item, _item_note(roles))
        entry["max_len"] = _max_len(roles)
        events = _events(roles)
        if events:
            entry["event_cols"] = Noted(events, "features of each history event; QIN reads them by `event_features`")
    group = roles.user if roles.user else None
    entry["group_id"] = Noted(group, "gAUC and NDCG are computed within its values" if group else "no column of users")
    if (weight := _weight(roles)) is not None:
        seen = roles.main.columns[weight].shown()
        entry["weight_col"] = Noted(weight, f"check: {seen}; weights of samples in the loss")
    events = [] if form == "flat" else _events(roles)
    entry["feature_cols"] = Noted(_without_repeats(_columns(roles), {noted.value["name"] for noted in events}))
    entry["label_col"] = {"name": _label_name(roles), "dtype": "float"}
    return entry


def plain(value: Any) -> Any:
    """What YAML reads of an entry: without comments, and without the lines that are comments."""
    if isinstance(value, Noted):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if not (isinstance(inner, Noted) and inner.off)}
    if isinstance(value, list):
        return [plain(inner) for inner in value if not (isinstance(inner, Noted) and inner.off)]
    return value


def _looks(roles: Roles) -> list[Look]:
    sides = [look for look in (roles.items, roles.users) if look is not None]
    return [roles.main, *(look for split, look in roles.splits.items() if split != "train"), *sides]


def _note(roles: Roles, role: str, seen: str) -> str:
    """What was seen of a key column, marked where it is an uncertain guess."""
    return f"check: {seen}" if role in roles.checks else seen


def _log(roles: Roles) -> dict[str, Any]:
    columns = roles.main.columns
    assert roles.user is not None
    assert roles.item is not None
    also = f"; in {roles.users.name} too" if roles.users else ""
    log: dict[str, Any] = {
        "file": Noted(roles.main.path, roles.main.seen),
        "user": Noted(roles.user, _note(roles, "user", columns[roles.user].shown() + _of_examined(roles.main) + also)),
        "item": Noted(roles.item, _item_note(roles)),
    }
    if roles.time is not None:
        facts = columns[roles.time]
        log["time"] = Noted(roles.time, _note(roles, "time", _time_note(facts)))
        if facts.kind in ("int", "float"):
            log["time_unit"] = Noted(facts.time_unit or "s", "" if facts.time_unit else "check: the unit is not clear")
    if roles.label is not None:
        facts = columns[roles.label]
        log["label"] = Noted(roles.label, _note(roles, "label", facts.shown()))
        if is_rating(facts):
            bound = _good_rating(facts)
            fraction = mean(facts.values >= bound)
            log["positive"] = Noted(f">= {bound:g}", f"check: {fraction:.0%} of the events are positive then")
            roles.checks["positive"] = f"events with {roles.label} >= {bound:g} are taken as positive"
        else:
            log["positive"] = f"== {facts.true}" if facts.true else "> 0"
    if roles.behaviour is not None:
        found = kinds(columns[roles.behaviour])
        told = _kinds_with_one_label(roles)
        log["behaviour"] = Noted(roles.behaviour, f"check: {', '.join(found)}")
        if told is None:
            log["target_behaviour"] = Noted(target_kind(found), "check: the kind of event that is predicted")
        else:
            found = [kind for kind in found if kind in told]
        log["behaviours"] = Noted(found, "each kind has a history of its own; the first is the main one")
    entry: dict[str, Any] = {"interactions": log}
    if roles.time is not None:
        entry["split"] = Noted({"by": "time", "valid": 0.1, "test": 0.1}, "the newest are test; or by: user, last_item")
    else:
        entry["split"] = Noted({"by": "last_item"}, "without times the order of the rows counts; or by: user")
    if roles.label is None:
        entry["negatives"] = Noted(
            {"ratio": 3, "by": "uniform", "seed": 1},
            "the log has positives only; drawn are items that the user has not",
        )
    return entry


def _kinds_with_one_label(roles: Roles) -> set[str] | None:
    """The kinds whose events are positive, where each kind tells the label; None where a kind has both labels.

    A view that is always 0 and a click that is always 1 are one sample each: no kind alone can be predicted.
    """
    assert roles.behaviour is not None
    if roles.label is None:
        return None
    kind, label = roles.main.columns[roles.behaviour], roles.main.columns[roles.label]
    if not label.binary or kind.missing or label.missing:
        return None
    ends = pl.DataFrame({"kind": kind.values.cast(pl.String), "label": label.values.cast(pl.Float64)}).group_by("kind")
    seen = ends.agg(low=pl.col("label").min(), high=pl.col("label").max())
    if (seen["low"] != seen["high"]).any():
        return None
    return set(seen.filter(high=1.0)["kind"])


def _samples(roles: Roles) -> dict[str, Any]:
    entry = _split_files(roles)
    if roles.label is not None and roles.main.columns[roles.label].true:
        raise ConfigError(f"{roles.main.name}: the label {roles.label!r} is written as texts: write it as 0 and 1")
    if roles.histories:
        notes = [f"{name}: {roles.main.columns[name].shown()}" for name in roles.histories]
        value = roles.histories[0] if len(roles.histories) == 1 else list(roles.histories)
        mark = "check: " if any(key.startswith("history ") for key in roles.checks) else ""
        entry["history_col"] = Noted(value, f"{mark}{'; '.join(notes)}; the newest item must be the last")
        roles.checks["order"] = f"the newest item of {roles.histories[0]} must be the last one"
    return entry


def _flat(roles: Roles) -> dict[str, Any]:
    return _samples(roles)


def _split_files(roles: Roles) -> dict[str, Any]:
    if roles.splits:
        order = ("train", "valid", "test")
        return {f"{s}_data": Noted(roles.splits[s].path, roles.splits[s].seen) for s in order if s in roles.splits}
    entry: dict[str, Any] = {"train_data": Noted(roles.main.path, roles.main.seen)}
    fractions = {"valid": 0.1, "test": 0.1}
    if roles.time is not None:
        note = _note(roles, "time", f"{_time_note(roles.main.columns[roles.time])}; the newest samples are test")
        entry["split"] = Noted({"by": "time", "time": roles.time, **fractions}, note)
    elif roles.user is not None:
        entry["split"] = Noted({"by": "user", "user": roles.user, **fractions, "seed": 1}, "each user is in one split")
    else:
        entry["split"] = Noted({"by": "order", **fractions}, "check: the last rows are test; they should be the newest")
        roles.checks["split"] = "the last rows become test: they should be the newest, or in random order"
    return entry


def _chosen_split(roles: Roles, by: str) -> Noted:
    """The split that the user asked for."""
    main = roles.main.name
    if roles.splits:
        raise ConfigError(f"--split {by}: the files are split already: name the training file alone, or leave it out")
    if by == "last_item" and roles.form != "log":
        raise ConfigError(f"--split last_item is for a log of events, and {main} has samples that are ready")
    if (by == "time" and roles.time is None) or (by == "user" and roles.user is None):
        raise ConfigError(f"--split {by}: {main} has no column of {by}s: name it with --{by}")
    own = {} if roles.form == "log" or by == "last_item" else {by: getattr(roles, by)}
    fractions: dict[str, Any] = {} if by == "last_item" else {"valid": 0.1, "test": 0.1}
    notes = {"user": "each user is in one split", "time": "the newest are test", "last_item": "of each user"}
    return Noted({"by": by, **own, **fractions, **({"seed": 1} if by == "user" else {})}, notes[by])


def _item_note(roles: Roles) -> str:
    assert roles.item is not None
    seen = roles.main.columns[roles.item].shown() + _of_examined(roles.main)
    return _note(roles, "item", f"{seen}; in {roles.items.name} too" if roles.items else seen)


def _of_examined(look: Look) -> str:
    return "" if look.whole else " in the examined rows"


def _time_note(facts: Facts) -> str:
    unit = facts.time_unit
    if facts.kind == "time" or unit is None:
        return facts.shown()
    ends = pl.Series([facts.values.min(), facts.values.max()]).cast(pl.Int64) // TIME_UNITS[unit]
    days = (ends * 1000).cast(pl.Datetime("ms")).dt.date()
    return f"{unit} since 1970: {days[0]} to {days[1]}"


def _good_rating(facts: Facts) -> float:
    """The lowest rating that counts as liked: from 0.8 of the largest on, such as 4 of 5 stars."""
    wanted = 0.8 * float(facts.values.max())  # type: ignore[arg-type]
    good = facts.values.filter(facts.values >= wanted - 1e-9).min()
    return float(good)  # type: ignore[arg-type]


def _max_len(roles: Roles) -> Noted:
    """History slots that are enough for 19 of 20 samples, up to a bound."""
    if roles.histories:
        needed = max(roles.main.columns[name].lengths[2] for name in roles.histories)
        why = f"19 of 20 histories have at most {needed} items"
    elif roles.user is not None and roles.form == "log":
        facts = roles.main.columns[roles.user]
        if not roles.main.whole:
            return Noted(
                HISTORY_SLOTS[2], "check: history slots, the newest items are kept; events of users were not counted"
            )
        needed = int(facts.values.value_counts(name="events")["events"].quantile(0.95) or 1)
        why = f"19 of 20 users have at most {needed:,} events"
    else:
        return Noted(HISTORY_SLOTS[0], "there are no histories")
    slots = next((slots for slots in HISTORY_SLOTS if slots >= needed), HISTORY_SLOTS[-1])
    return Noted(slots, f"history slots, the newest items are kept; {why}")


def _events(roles: Roles) -> list[Noted]:
    columns = roles.main.columns
    if roles.form == "log":
        if roles.time is None:
            return []
        facts = columns[roles.time]
        found = [Noted({"name": "age", "bins": 16}, "time from the event to the sample")]
        # Steps of another count have neither weekdays nor hours.
        found += [Noted({"name": "weekday"})] if facts.time_unit else []
        found += [Noted({"name": "hour"})] if facts.time_unit not in ("date", None) else []
        return found + [
            Noted(
                {"name": name, "bins": BUCKETS}, f"{columns[name].shown()}; of history events, the target has none yet"
            )
            for name in spent(roles)
        ]
    found = []
    main = roles.histories[0] if roles.histories else ""
    for name in roles.aligned.get(main, []):
        facts = columns[name]
        assert facts.lists is not None
        inner = flat(facts.lists).alias(name)
        is_time = inner.dtype.is_temporal() or _values_are_times(inner)
        if is_time and roles.time is not None and not any(e.value["name"] == "age" for e in found):
            pair = {"history": name, "target": roles.time}
            found.append(Noted({"name": "age", "bins": 16, **pair}, f"{facts.shown()}: times of the events"))
            found.append(Noted({"name": "weekday", **pair}))
            if inner.dtype != pl.Date:
                found.append(Noted({"name": "hour", **pair}))
        elif not is_time:
            bins = {"bins": BUCKETS} if inner.n_unique() > 2 * BUCKETS and facts.inner in ("int", "float") else {}
            own = {"name": f"event_{name}", "history": name, "target": None, **bins}
            found.append(Noted(own, f"{facts.shown()}, one for each item of {main}"))
    return found


def _values_are_times(values: pl.Series) -> bool:
    return look(values).time_unit is not None


def _label_name(roles: Roles) -> str:
    """The label's name: of the column where there is one of 0 and 1, else one that no column has."""
    if roles.label is not None and roles.main.columns[roles.label].binary:
        return roles.label
    taken = {name for look in _looks(roles) for name in look.columns}
    return next(name for name in ("label", "is_positive", "positive_label") if name not in taken)


def _weight(roles: Roles) -> str | None:
    """The column of weights of samples, by its name."""
    columns = roles.main.columns
    return next((name for name in WEIGHTS if name in columns and columns[name].kind in ("int", "float")), None)


def _columns(roles: Roles) -> list[Noted]:
    """`feature_cols`: samples or log, then users, then items; a name stands for one column only."""
    found: list[Noted] = []
    main, form = roles.main.columns, roles.form
    keys = {roles.label, roles.item if form != "flat" else None, *roles.histories, roles.behaviour, _weight(roles)}
    keys |= {name for names in roles.aligned.values() for name in names}
    if form == "log":
        keys |= {roles.time, *(spent(roles) if roles.time else ())}
    for name, facts in main.items():
        if name in keys:
            continue
        if name == roles.user:
            found += _user_columns(facts, form)
        elif name == roles.time:
            found.append(_time_column(facts))
        else:
            found.append(feature(facts, "", rows=roles.main.rows))
    # A file of users or items has its key once.
    if roles.users is not None:
        found += [
            feature(f, "user", rows=roles.users.rows) for n, f in roles.users.columns.items() if n != roles.user
        ]  # fmt: skip
    if form != "flat":
        assert roles.item is not None
        dtype = "str" if main[roles.item].kind == "text" else "int"
        own = {"name": roles.item, "active": True, "dtype": dtype, "type": "categorical", "source": "item"}
        found.append(Noted(own, "the item itself"))
        columns = roles.items.columns if roles.items is not None else {}
        # Vectors of words are worth their time where items have no others.
        texts = not roles.vectors and not any(facts.width for facts in columns.values())
        found += [
            feature(f, "item", rows=roles.items.rows if roles.items else 0, texts=texts)
            for n, f in columns.items()
            if n != roles.item
        ]
        found += [_vectors(look, roles.item) for look in roles.vectors]
        if (made := item_vectors(roles, {noted.value["name"] for noted in found})) is not None:
            found.append(made)
    return found


def _user_columns(facts: Facts, form: str) -> list[Noted]:
    dtype = "str" if facts.kind == "text" else "int"
    own = {"name": facts.name, "active": True, "dtype": dtype, "type": "meta"}
    copy = {"name": f"{facts.name}_feature", "active": True, "dtype": dtype, "type": "categorical"}
    copy |= {"preprocess": f"copy_from({facts.name})", "min_categr_count": 5}
    extra = Noted(copy, "uncomment it for an embedding of each user, where users of train come again", off=True)
    return [Noted(own, "the user: groups samples, no model input"), *([extra] if form != "log" else [])]


def _time_column(facts: Facts) -> Noted:
    """The time of a sample travels along; no model reads it."""
    settings = {"name": facts.name, "active": facts.kind == "int", "dtype": "int", "type": "meta"}
    return Noted(settings, f"{_time_note(facts)}; no model input")


def _vectors(look: Look, key: str) -> Noted:
    facts = next(facts for facts in look.columns.values() if facts.width is not None)
    column = {"name": facts.name, "active": True, "dtype": "float", "type": "embedding", "source": "item"}
    return Noted({**column, "pretrain_dim": facts.width, "embedding_file": look.path}, f"{facts.shown()} by {key}")


def _without_repeats(columns: list[Noted], events: set[str]) -> list[Noted]:
    """The columns with names of their own; one that is named like a feature of events, such as age, gets another."""
    kept: list[Noted] = []
    seen: set[str] = set()
    for noted in columns:
        name, settings, comment, off = noted.value["name"], dict(noted.value), noted.comment, noted.off
        if name in events:
            settings |= {"name": f"{settings.get('source', 'own')}_{name}", "preprocess": f"copy_from({name})"}
        elif name in seen:
            comment, off = f"two files have a column {name}: rename one to use both", True
        elif not nameable(name) or "/" in name or name in RESERVED:
            comment, off = "the name cannot be that of a column: rename it in the file", True
        if not off:
            seen.add(name)
        kept.append(Noted(settings, comment, off))
    return kept
