"""Which file is the log or the samples, which are the splits, which the items, which the users.

A key has each value once in its own file, and its values recur in another one; names say what it is the key of.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from fuxictr_multimodal.data.proposal.facts import flat, is_prose, overlap
from fuxictr_multimodal.data.proposal.hints import ITEM, SPLIT_WORDS, USER, hinted, is_index, words
from fuxictr_multimodal.data.proposal.roles import Roles
from fuxictr_multimodal.data.proposal.tables import Look
from fuxictr_multimodal.errors import ConfigError


def arrange(looks: list[Look]) -> Roles:
    """Decide what each file is; of the columns only the keys of items and users are known then.

    Raises:
        ConfigError: files that do not belong together.
    """
    splits = _split_files(looks)
    rest = [look for look in looks if look not in splits.values()]
    if splits:
        if "train" not in splits:
            raise ConfigError(f"{next(iter(splits.values())).name} is a split, but no file is named train")
        if "valid" not in splits and "test" in splits:
            # Training selects by valid; a lone test split is better used for that than not at all.
            raise ConfigError(
                f"there are {splits['train'].name} and {splits['test'].name}, but no validation samples, by which "
                "training selects: cut them off the training samples, or name a single file, which is then split"
            )
        roles = Roles(splits["train"], splits=splits if len(splits) > 1 else {})
    else:
        main = _main(rest)
        rest = [look for look in rest if look is not main]
        roles = Roles(main)
    _side_files(roles, rest)
    return roles


def _split_files(looks: list[Look]) -> dict[str, Look]:
    found: dict[str, Look] = {}
    for look in looks:
        name_words = words(Path(look.path).name.partition(".")[0])
        kinds = [split for split, hints in SPLIT_WORDS.items() if {*name_words} & {*hints}]
        if len(kinds) == 1:
            if kinds[0] in found:
                raise ConfigError(
                    f"{found[kinds[0]].path} and {look.path} both look like the split {kinds[0]!r}: put the parts of "
                    "one split into a folder and name that"
                )
            found[kinds[0]] = look
    return found if "train" in found or len(found) > 1 else {}


def _main(looks: list[Look]) -> Look:
    """The file that refers to the ids of the others."""
    if len(looks) == 1:
        return looks[0]
    referring = {
        look.path: sum(bool(_shared_keys(other, look)) for other in looks if other is not look) for look in looks
    }
    most = max(referring.values())
    best = [look for look in looks if referring[look.path] == most]
    if not most:
        pairs = [(side, main) for main in looks for side in looks if side is not main]
        renaming = next((text for side, main in pairs if "rename" in (text := _renaming(side, main))), "")
        raise ConfigError(
            f"{' and '.join(look.name for look in looks)} share no column of ids, by which they could be joined: "
            + (
                renaming
                or "the id of the items (or users) must have one name in both, and be there once in its own file"
            )
        )
    if len(best) > 1:
        raise ConfigError(
            f"{' and '.join(look.name for look in best)} both look like a log or samples: name one of them, or put "
            "parts of one table into a folder and name that"
        )
    return best[0]


def _renaming(side: Look, main: Look) -> str:
    """What to rename so that two tables share a key: two columns of other names with the same values."""
    pairs = [
        (difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio(), name, other)
        for name, facts in side.columns.items()
        for other, theirs in main.columns.items()
        if facts.unique and not theirs.unique and theirs.distinct > 1 and facts.kind == theirs.kind and name != other
        and hinted(theirs.words, ITEM + USER) and overlap(theirs.values, facts.values) > 0.5
    ]  # fmt: skip
    if pairs:
        _, name, other = max(pairs)
        return f"rename {name!r} to {other!r}, whose values it has"
    return f"give the key the same name in both. Columns of {side.name}: {', '.join(side.columns)}"


def _shared_keys(side: Look, main: Look) -> list[str]:
    """Columns of both files whose values are unique in `side` and recur in `main`."""
    shared = []
    for name, facts in side.columns.items():
        other = main.columns.get(name)
        if other is None or is_index(name) or not facts.unique or other.unique or facts.kind != other.kind:
            continue
        # A sample of a large table holds few of the other's ids.
        if not (side.whole and main.whole) or overlap(other.values, facts.values) > 0.1:
            shared.append(name)
    return shared


def _side_files(roles: Roles, looks: list[Look]) -> None:
    scores: list[tuple[float, Look, str]] = []
    for look in looks:
        keys = _shared_keys(look, roles.main)
        if not keys:
            raise ConfigError(
                f"{look.name} and {roles.main.name} share no column of ids whose values are unique in {look.name}: "
                f"{_renaming(look, roles.main)}"
            )
        key = max(keys, key=lambda name: (hinted(words(name), ITEM + USER), "id" in words(name)))
        scores.append((_item_score(look, key, roles.main), look, key))
    scores.sort(key=lambda scored: -scored[0])
    for score, look, key in scores:
        if score > 0 and (roles.items is None or roles.item == key):
            if roles.items is None:
                roles.items, roles.item = look, key
            elif any(facts.width for facts in look.columns.values()):
                roles.vectors.append(look)
            else:
                raise ConfigError(f"{roles.items.name} and {look.name} both describe items: join them by {key!r}")
        elif roles.users is None:
            roles.users, roles.user = look, key
            if score > -0.5:
                roles.checks["users"] = f"{look.name} is taken for the users, joined by {key}"
        elif roles.user == key:
            raise ConfigError(f"{roles.users.name} and {look.name} both describe users: join them by {key!r}")
        else:
            raise ConfigError(
                f"{look.name} (by {key!r}) is a third kind of table beside {roles.users.name}: join its columns to "
                f"{roles.main.name}"
            )
    if roles.items is not None and 0 < next(s for s, look, _ in scores if look is roles.items) < 0.5:
        roles.checks["items"] = f"{roles.items.name} is taken for the items, by {roles.item}"


def _item_score(look: Look, key: str, main: Look) -> float:
    """Above 0 for items, below for users: names first, then vectors, lists and long texts, which users seldom have."""
    of_file = words(Path(look.path).name.partition(".")[0])
    score = 2.0 * hinted(words(key), ITEM) - 2.0 * hinted(words(key), USER)
    score += hinted(of_file, (*ITEM, "catalog", "catalogue")) - hinted(of_file, USER)
    lists = [flat(facts.lists) for facts in main.columns.values() if facts.lists is not None]
    score += any(overlap(values, look.columns[key].values) > 0.5 for values in lists)
    rich = any(facts.kind == "list" or facts.splitter or is_prose(facts) for facts in look.columns.values())
    return score + 0.4 * rich
