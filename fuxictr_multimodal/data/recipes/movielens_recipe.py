"""The samples and items of a MovieLens dataset, computed from a download without a look ahead.

Memory at the peak, measured: 0.7 GiB for 1 M ratings, 1.3 GiB for 4 M (200 bytes a rating beside the libraries).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.recipes.interactions import (
    SPLITS,
    TEST,
    TRAIN,
    Levels,
    additive_scores,
    earlier_items,
    last_fraction_within,
    smoothed_mean,
    split_by_time,
    sums_before,
)
from fuxictr_multimodal.data.recipes.movielens_raw import TAIL, MovieLensRaw
from fuxictr_multimodal.data.recipes.user_events import UserEvents
from fuxictr_multimodal.errors import DataError

LIKED = 4  # ratings of at least this are positive
TRAIN_FRACTION, VALID_FRACTION = 0.8, 0.1  # of all ratings by time, in the official layouts
TAIL_VALID_FRACTION = 0.15  # of each user's rows of ratings_validation.csv
STRENGTH = 5.0  # weight of the prior in a smoothed rate, in ratings


class Recipe:
    """Every column that a dataset entry may ask for, computed from a download without a look ahead.

    * label: rating >= 4. One row a rating, in order of time.
    * splits: official layouts by time over all ratings, 80/10/10, rows of one second together. `tail20`: test is
      ratings_test.csv; valid is the last ~15 % of each user's rows of ratings_validation.csv by time (rows of one
      second together, so a user who rated all in one second has none); train is the rest. There each user's splits
      are in order of time, but another user's training row may be later than a test row.
    * history: the items that the user had at an earlier second, the liked ones or all, newest last. Items of the
      same split may be in it, items of the same second or later never.
    * likes_level, views_level: deciles (1 to 10; 0 = no rating known) of the film's smoothed like rate and of
      its count of ratings; user_likes_level, user_activity_level: of how much more than others the user likes (the
      smoothed mean of label minus the film's like rate as it was known then) and of its count of ratings. They
      count training rows: for a training row those of earlier seconds only (else a row's label would be in its own
      feature), for valid and test rows all. With `user_levels="earlier"` every row counts all earlier ratings of its
      user in whatever split, as its history does. Boundaries of the deciles, and the prior of the smoothing, which
      is the like rate, come from train.
    """

    def __init__(self, raw: MovieLensRaw, *, history: str, user_levels: str, max_len: int) -> None:
        ratings = raw.ratings
        self.raw = raw
        self.users = ratings["user_id"].to_numpy()
        self.times = ratings["timestamp"].to_numpy()
        self.labels = (ratings["rating"] >= LIKED).to_numpy().astype(np.uint8)
        self.user_codes = np.unique(self.users, return_inverse=True)[1].astype(np.int32)
        ids = raw.movies["movie_id"].to_numpy()
        self.items = (np.searchsorted(ids, ratings["movie_id"].to_numpy()) + 1).astype(np.int32)
        self.num_items = len(ids) + 1
        self.split = self._split()
        self.is_train = self.split == TRAIN
        self.kept = keep = self.labels == 1 if history == "liked" else np.ones(len(ratings), dtype=bool)
        self.histories = earlier_items(self.user_codes, self.times, self.items, keep=keep, max_len=max_len)
        self.user_rows = self.is_train if user_levels == "train" else np.ones(len(ratings), dtype=bool)
        self.prior = float(self.labels[self.is_train].mean())

    @property
    def split_method(self) -> str:
        if self.raw.layout == TAIL:
            return (
                f"each user by time: test = ratings_test.csv, valid = last {TAIL_VALID_FRACTION:.0%} of "
                "ratings_validation.csv, train = the rest"
            )
        return f"all ratings by time: {TRAIN_FRACTION:.0%} train, {VALID_FRACTION:.0%} valid, the rest test"

    def _split(self) -> np.ndarray:
        if self.raw.layout != TAIL:
            split = split_by_time(self.times, train_fraction=TRAIN_FRACTION, valid_fraction=VALID_FRACTION)
        else:
            later = self.raw.ratings["later"].to_numpy()
            split = np.where(later, np.int8(TEST), np.int8(TRAIN))
            rows = np.flatnonzero(~later)
            split[rows] = last_fraction_within(self.user_codes[rows], self.times[rows], fraction=TAIL_VALID_FRACTION)
        counts = np.bincount(split, minlength=len(SPLITS))
        if not counts.all():
            name = SPLITS[int(np.argmin(counts))]
            raise DataError(
                f"the {name} split is empty: {len(split)} ratings at {len(np.unique(self.times))} different times "
                f"are too few for {self.split_method}"
            )
        return split

    def training_behaviour(self) -> UserEvents:
        """What item vectors may count: the films of histories that were rated before the user's last training row."""
        return UserEvents.of_log(
            self.user_codes,
            self.times,
            self.items,
            samples=self.is_train,
            events=self.is_train & self.kept,
            names=np.unique(self.users),
        )

    def row_columns(self) -> dict[str, pl.Series]:
        """Columns of a rating, one entry per rating."""
        columns = {"user_id": self.users, "user": self.users, "timestamp": self.times}
        count, liked = self._known(self.items, self.num_items, self.labels, self.is_train)
        rate = smoothed_mean(liked, count, prior=self.prior, strength=STRENGTH)
        columns["likes_level"], columns["views_level"] = self._levels(rate, count)
        num_users = int(self.user_codes.max()) + 1
        count, excess = self._known(self.user_codes, num_users, self.labels - rate, self.user_rows)
        excess = smoothed_mean(excess, count, prior=0.0, strength=STRENGTH)
        columns["user_likes_level"], columns["user_activity_level"] = self._levels(excess, count)
        series = {name: pl.Series(name, values) for name, values in columns.items()}
        if self.raw.users is not None:
            people = self.raw.ratings.select("user_id").join(
                self.raw.users, on="user_id", how="left", maintain_order="left"
            )
            series |= {name: people[name] for name in people.columns[1:]}
        return series

    def _known(
        self, keys: np.ndarray, num_keys: int, values: np.ndarray, counted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return sums_before(keys, self.times, values, counted=counted, num_keys=num_keys)

    def _levels(self, value: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quantile bins of a value and of the count behind it; boundaries come from training rows."""
        known, count = count > 0, count.astype(np.float64)
        fit = known & self.is_train
        return Levels.fit(value, fit).of(value, known), Levels.fit(count, fit).of(count, known)

    def item_columns(self) -> dict[str, pl.Series]:
        """Columns of a film that need no text vectors; row 0 is padding.

        likes_level and views_level here count all training rows, so a training row's own label has a small part
        in the level of its film: this is the price of quantile bins on history items.
        """
        movies = self.raw.movies
        decade = movies.select(
            pl.when(pl.col("year") > 0).then(pl.format("{}s", pl.col("year") // 10 * 10)).otherwise(pl.lit(""))
        ).to_series()
        train_items = self.items[self.is_train]
        count = np.bincount(train_items, minlength=self.num_items)
        liked = np.bincount(train_items, weights=self.labels[self.is_train], minlength=self.num_items)
        rate, known = smoothed_mean(liked, count, prior=self.prior, strength=STRENGTH), count > 0
        return {
            "item_id": pl.Series(np.arange(self.num_items)),
            "item_tags": pl.concat([pl.Series([""]), movies["genres"]]),
            "decade": pl.concat([pl.Series([""]), decade]),
            "likes_level": pl.Series(Levels.fit(rate[train_items], known[train_items]).of(rate, known)),
            "views_level": pl.Series(
                Levels.fit(count[train_items].astype(float), known[train_items]).of(count.astype(float), known)
            ),
        }

    def item_vectors(self, embedding: Path | None, *, dim: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Vectors of films (items, dim), row 0 zero, and their metadata: from a table by movie id, or from texts.

        A text is title, genres, plot and the tags given until the end of train. The vectors are fitted on films
        that occur in train.
        """
        from fuxictr_multimodal.data.recipes.text_features import pretrained_vectors, tfidf_svd

        movies = self.raw.movies
        if embedding is not None:
            found = pretrained_vectors(embedding, item_ids=movies["movie_id"].to_numpy(), dim=dim)
        else:
            texts = movies.select("movie_id", text=pl.concat_str("title", _words("genres"), "plot", separator=" "))
            if self.raw.tags is not None:
                known = self.raw.tags.filter(pl.col("timestamp") <= int(self.times[self.is_train].max()))
                tags = known.group_by("movie_id").agg(pl.col("tag").unique().sort().str.join(" "))
                texts = texts.join(tags, on="movie_id", how="left", maintain_order="left").with_columns(
                    text=pl.concat_str("text", pl.col("tag").fill_null(""), separator=" ")
                )
            in_train = np.zeros(self.num_items, dtype=bool)
            in_train[self.items[self.is_train]] = True
            found = tfidf_svd(texts["text"].to_list(), fit_rows=in_train[1:], dim=dim)
        return np.concatenate([np.zeros((1, dim), dtype=np.float32), found.vectors]), found.metadata

    def baselines(self) -> dict[str, float]:
        """Test AUC of simple baselines, fitted on train and valid, which a model has to exceed.

        Three scores: the smoothed mean label of the film; its sum with the user's (each as a deviation from the
        mean); its sum with how much more than others the user likes (the mean of label minus the first score).
        """
        from fuxictr_multimodal.metrics.classification import UndefinedMetric, auc

        fit_rows, test = self.split != TEST, self.split == TEST
        user, item = additive_scores((self.user_codes, self.items), self.labels, fit_rows=fit_rows, strength=STRENGTH)
        (excess,) = additive_scores((self.user_codes,), self.labels - item, fit_rows=fit_rows, strength=STRENGTH)
        scores = {"item_mean": item, "user_item_mean": user + item, "item_mean_user_excess": item + excess}
        try:
            return {
                f"floor_auc_{name}": round(auc(self.labels[test], score[test]), 6) for name, score in scores.items()
            }
        except UndefinedMetric:  # a single class in test; the builder says so
            return {}


def _words(column: str) -> pl.Expr:
    return pl.col(column).str.replace_all("|", " ", literal=True)
