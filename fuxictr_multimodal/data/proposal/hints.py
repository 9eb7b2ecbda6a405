"""What names say: words of files, columns and values that hint at users, items, labels, times and the like."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPLIT_WORDS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}
ITEM = (
    "item", "product", "movie", "film", "video", "news", "article", "sku", "song", "track", "music", "book", "game",
    "app", "ad", "post", "listing", "recipe", "asin", "goods", "mid", "iid", "doc", "document", "creative", "photo",
    "restaurant", "business", "poi", "content", "story", "anime", "show", "course", "note", "offer", "merchandise",
)  # fmt: skip
USER = (
    "user", "customer", "member", "visitor", "session", "account", "client", "uid", "viewer", "reader", "person",
    "profile", "buyer", "reviewer", "subscriber", "player", "shopper",
)  # fmt: skip
# From the surest to the least sure.
LABEL = (
    "label", "target", "y", "click", "clicked", "clk", "is", "clicks", "conversion", "converted", "purchase",
    "purchased", "buy", "bought", "like", "liked", "positive", "interaction", "finish", "follow", "share",
)  # fmt: skip
OUTCOME = (
    "click", "clicked", "conversion", "converted", "purchase", "purchased", "buy", "bought", "like", "liked", "finish",
    "finished", "follow", "share", "shared", "comment", "forward", "dislike", "dwell", "watch", "watched", "duration",
    "progress", "playtime", "stay", "revenue", "rating", "stars", "rate", "review", "feedback", "label", "skip", "long",
)  # fmt: skip
RATING = ("rating", "score", "stars", "star", "rate", "overall", "grade")
TIME = ("timestamp", "time", "ts", "datetime", "date", "day", "created", "at", "when", "epoch")
HISTORY = (
    "history",
    "hist",
    "seq",
    "sequence",
    "clicked",
    "click",
    "clicks",
    "viewed",
    "views",
    "bought",
    "past",
    "recent",
)
BEHAVIOUR = ("behavior", "behaviour", "action", "event", "eventtype", "activity", "interaction")
TARGETS = ("buy", "purchase", "order", "transaction", "pay", "conversion", "click", "clk", "like")

_INDEX = re.compile(r"__index_level_\d+__")


def words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, split at capitals and at what is no letter or digit.

    >>> words("lastUserID"), words("item_id2"), words("train-data.csv")
    (('last', 'user', 'id'), ('item', 'id2'), ('train', 'data', 'csv'))
    """
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[^\W\dA-Z_]+\d*|\d+", name))


def hinted(name_words: Sequence[str], hints: Sequence[str]) -> bool:
    """Whether one of the words is a hint, also with an `id` or an `s` at its end.

    >>> hinted(("userid",), ("user",)), hinted(("items",), ("item",)), hinted(("reuse",), ("user",))
    (True, True, False)
    """
    return any(word == hint + end for word in name_words for hint in hints for end in ("", "s", "id", "ids"))


def is_id(name_words: tuple[str, ...], hints: tuple[str, ...]) -> bool:
    """Whether a name is that of an id: `item_id`, `itemid`, `item`, `asin`.

    >>> is_id(("item", "id"), ITEM), is_id(("item", "category"), ITEM), is_id(("movieid",), ITEM)
    (True, False, True)
    """
    rest = [word for word in name_words if not hinted((word,), hints)]
    return len(rest) < len(name_words) and {*rest} <= {"id", "ids", "code", "key", "idx", "index", "no", "hash", "uuid"}


def is_index(name: str) -> bool:
    """Whether a column is the nameless index of a table of pandas, which says where a row was, and nothing of it.

    >>> is_index("__index_level_0__"), is_index("level_0")
    (True, False)
    """
    return _INDEX.fullmatch(name) is not None


def target_kind(found: list[str]) -> str:
    """The kind of event that is most likely to be predicted: a purchase if there is one, else the rarest."""
    for wanted in TARGETS:
        for kind in found:
            if hinted(words(kind), (wanted,)):
                return kind
    return found[-1]
