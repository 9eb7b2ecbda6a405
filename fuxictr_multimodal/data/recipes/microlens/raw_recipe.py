"""Rows and item columns of the raw MicroLens release: splits, sampled negatives, quantile bins, tags and title vectors.

One interaction is a comment on a video; one positive row is one interaction, followed by its sampled negatives with the
same user and history. Memory: about 150 bytes an interaction, and the rows of a quarter of a million positives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import places_in_rows
from fuxictr_multimodal.data.recipes.interactions import SPLITS, TEST, TRAIN, VALID, Levels, earlier_items
from fuxictr_multimodal.data.recipes.microlens.raw_files import TITLES, Release
from fuxictr_multimodal.data.recipes.negatives import NegativeSampler
from fuxictr_multimodal.data.recipes.user_events import UserEvents
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.text.words import drop_invisible, word_characters

BY_USER, LAST_ITEM = "user", "last-item"
UNIFORM, POPULARITY = "uniform", "popularity"
TAG_SPLITTER = "|"
CHUNK = 250_000


@dataclass(frozen=True)
class Choices:
    """Choices that the release leaves open; the manifest records them.

    Attributes:
        split: `user`: users are assigned to train, valid or test, and a user's samples stay together. `last-item`: the
            last item of each user is in test, the one before it in valid, earlier ones in train.
        targets: `last`: one positive a user and split, the last; `all`: every interaction that has an earlier one.
        valid_share: fraction of the users in valid, for `user`.
        test_share: fraction of the users in test, for `user`.
        negatives: `uniform`, or `popularity`: in proportion to the interactions that training users show (for
            `last-item`: that lie before valid and test).
        ratio: negatives for each positive.
        seed: of the split and the negatives.
    """

    split: str = BY_USER
    targets: str = "last"
    valid_share: float = 0.1
    test_share: float = 0.1
    negatives: str = UNIFORM
    ratio: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        for name, known in (
            ("split", (BY_USER, LAST_ITEM)),
            ("targets", ("last", "all")),
            ("negatives", (UNIFORM, POPULARITY)),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, but must be {' or '.join(known)}")
        if self.ratio < 1:
            raise ConfigError(f"ratio is {self.ratio}, but each positive needs at least 1 negative")
        if min(self.valid_share, self.test_share) <= 0 or self.valid_share + self.test_share >= 1:
            raise ConfigError(
                f"valid_share {self.valid_share} and test_share {self.test_share} must be above 0 and leave users to "
                "train"
            )


class Recipe:
    """Rows and item columns of a release under some choices.

    * history: the items that the user commented at an earlier time (in a release without times, earlier in the list),
      newest last; an interaction with nothing before it is not a row.
    * levels: deciles (1 to 10) of a video's likes and views, 0 where they are unknown. They are totals at the time of
      the crawl, later than every interaction.
    * item_tags: the category, then the hashtags of the title, in lower case.

    Args:
        release: the tables.
        choices: how to split and sample.
        max_len: most items of a history.
    """

    def __init__(self, release: Release, choices: Choices, *, max_len: int) -> None:
        self.release = release
        self.choices = choices
        pairs = release.pairs
        self.user_ids, self.users = np.unique(pairs["user"].to_numpy(), return_inverse=True)
        self.items = pairs["item"].to_numpy()
        self.times = pairs["time"].to_numpy()
        # Sorted by user and time: a user's pairs stand together.
        sizes = np.bincount(self.users)
        place = places_in_rows(sizes)
        from_end = sizes[self.users] - 1 - place
        self.split, self.counted = self._split(place, from_end)
        everything = np.ones(len(pairs), dtype=bool)
        self.histories = earlier_items(self.users, self.times, self.items, keep=everything, max_len=max_len)

    def _split(self, place: NDArray, from_end: NDArray) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """The split of each interaction that is a positive row, or -1; and which interactions training may know."""
        choices = self.choices
        last_only = choices.targets == "last"
        if choices.split == BY_USER:
            order = np.random.Generator(np.random.PCG64([choices.seed, 1])).permutation(len(self.user_ids))
            test, valid = (round(share * len(order)) for share in (choices.test_share, choices.valid_share))
            of_user = np.full(len(order), TRAIN, dtype=np.int8)
            of_user[order[:test]], of_user[order[test : test + valid]] = TEST, VALID
            split = of_user[self.users]
            counted = split == TRAIN
            is_row = from_end == 0 if last_only else np.ones(len(split), dtype=bool)
        else:
            split = np.select([from_end == 0, from_end == 1], [TEST, VALID], TRAIN).astype(np.int8)
            counted = split == TRAIN
            is_row = from_end <= 2 if last_only else np.ones(len(split), dtype=bool)
        split = np.where(is_row & (place > 0), split, np.int8(-1))
        for code, name in enumerate(SPLITS):
            if not (split == code).any():
                raise DataError(
                    f"the {name} split is empty: {len(self.user_ids)} users with {len(split)} interactions are too few "
                    f"for {self.split_method}"
                )
        return split, counted

    @property
    def split_method(self) -> str:
        """The split in words, for the manifest."""
        choices = self.choices
        which = "the last item" if choices.targets == "last" else "every item after the first"
        if choices.split == BY_USER:
            shares = f"{choices.valid_share:.0%} valid, {choices.test_share:.0%} test"
            return f"users at random: {shares}, the rest train (seed {choices.seed}); positives: {which} of a user"
        which = "the one before them" if choices.targets == "last" else "earlier ones after the first"
        return f"last item of each user test, the one before it valid; train: {which}"

    def training_behaviour(self) -> UserEvents:
        """What item vectors may count: the comments before the last training positive of each user."""
        return UserEvents.of_log(
            self.users,
            self.times,
            self.items,
            samples=self.split == TRAIN,
            events=self.counted,
            names=self.user_ids,
        )

    def sampler(self) -> NegativeSampler:
        """The sampler of negatives; its pool are the items of the interactions (by popularity: of training ones)."""
        counted = self.items[self.counted] if self.choices.negatives == POPULARITY else self.items
        weights = np.bincount(counted, minlength=self.release.num_items)
        if self.choices.negatives == UNIFORM:
            weights = np.minimum(weights, 1)
        return NegativeSampler(
            users=self.users,
            items=self.items,
            weights=weights,
            ratio=self.choices.ratio,
            seed=self.choices.seed,
            names=self.user_ids,
        )

    def rows(self, code: int, sampler: NegativeSampler) -> Iterator[tuple[dict[str, NDArray], NDArray, NDArray]]:
        """Rows of a split, a positive and then its negatives: columns, history values and offsets."""
        positives = np.flatnonzero(self.split == code)
        group = 1 + self.choices.ratio
        for start in range(0, len(positives), CHUNK):
            chunk = positives[start : start + CHUNK]
            targets = np.column_stack([self.items[chunk], sampler.draw(self.users[chunk])]).ravel()
            repeated = np.repeat(chunk, group)
            columns = {
                "label": (np.arange(len(targets)) % group == 0).astype(np.uint8),
                "item_id": targets,
                "user_id": self.user_ids[self.users[repeated]],
                "timestamp": self.times[repeated],
            }
            history = self.histories.take(repeated)
            yield columns, history.items, history.offsets

    def levels(self) -> dict[str, NDArray[np.int32]]:
        """Quantile bins of each item by name, as far as the release has them."""
        totals = {"likes_level": self.release.likes, "views_level": self.release.views}
        found = {}
        for name, values in totals.items():
            if values is not None:
                known = values >= 0
                known[0] = False
                found[name] = Levels.fit(values.astype(np.float64), known).of(values.astype(np.float64), known)
        return found

    def tags(self, *, most: int) -> pl.Series | None:
        """Text of at most `most` tags of each item; None where the release has neither categories nor titles."""
        release = self.release
        if release.categories is None and release.titles is None:
            return None
        hashtag, texts = re.compile(f"#([{word_characters()}]+)"), []
        for item in range(release.num_items):
            tags = [release.categories[item].lower()] if release.categories else []
            tags += hashtag.findall(drop_invisible(release.titles[item].lower())) if release.titles else []
            named = dict.fromkeys(tag.replace(TAG_SPLITTER, " ") for tag in tags if tag)
            texts.append(TAG_SPLITTER.join(list(named)[:most]))
        return pl.Series("item_tags", texts)

    def vectors(self, embedding: Path | None, *, dim: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Vectors (N, dim) of the items and their metadata, from a table of pretrained embeddings or from titles.

        Title vectors are fitted on the items that training may see.
        """
        from fuxictr_multimodal.data.recipes.text_features import pretrained_vectors, tfidf_svd

        release = self.release
        if embedding is not None:
            found = pretrained_vectors(embedding, item_ids=np.arange(1, release.num_items), dim=dim)
        elif release.titles is None:
            raise DataError(
                f"{release.size} has no file of titles: add it, or pass a table with --embedding. "
                f"{release.missing(TITLES)}"
            )
        else:
            known = np.zeros(release.num_items, dtype=bool)
            known[self.items[self.counted]] = True
            texts = [title.replace("#", " ") for title in release.titles[1:]]
            found = tfidf_svd(texts, fit_rows=known[1:], dim=dim)
        return np.concatenate([np.zeros((1, dim), dtype=np.float32), found.vectors]), found.metadata
