"""A MovieLens download in one form, whatever its layout: ratings, films, people and tags, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.recipes.raw_tables import RawTable, bad_value, open_raw, read_table
from fuxictr_multimodal.errors import DataError

ONE_M, LATEST, TAIL = "ml-1m", "ml-latest", "tail20"
LAYOUTS = {
    ONE_M: ("ratings.dat", "movies.dat", "users.dat"),
    LATEST: ("ratings.csv", "movies.csv"),  # ml-latest-small, ml-latest, ml-32m, ml-25m; tags.csv is read if there
    TAIL: ("ratings_validation.csv", "ratings_test.csv", "movies.csv", "users.csv"),
}
NO_GENRES = "(no genres listed)"


@dataclass(frozen=True)
class MovieLensRaw:
    """A MovieLens download in one form, whatever its layout.

    Attributes:
        ratings: user_id, movie_id, rating, timestamp and `later` (true for the rows of ratings_test.csv).
        movies: movie_id, title, year (0 = unknown), genres ("A|B"), plot, by movie_id.
        users: user_id, gender, age, occupation; None in layouts without people.
        tags: movie_id, tag, timestamp; None if there are none.
    """

    layout: str
    sources: Mapping[str, Path]
    ratings: pl.DataFrame
    movies: pl.DataFrame
    users: pl.DataFrame | None
    tags: pl.DataFrame | None

    def until(self, fraction: float) -> MovieLensRaw:
        """The download as it stood after the first `fraction` of its ratings; rows of one second stay together.

        Films stay, as a catalogue does. The same moments as `split_by_time` cuts at: the first 90 % of a log that is
        split 80/10/10 are its train and valid rows.

        Raises:
            DataError: a layout that is not split by time over all ratings, or a fraction outside of (0, 1].
        """
        if self.layout == TAIL:
            raise DataError(
                f"the ratings of layout {TAIL} are split for each user: they cannot be cut at one point in time"
            )
        if not 0 < fraction <= 1:
            raise DataError(f"the fraction of ratings to keep must be above 0 and at most 1, found {fraction}")
        times = self.ratings["timestamp"].sort()
        last = times[math.ceil(fraction * len(times)) - 1]
        known = pl.col("timestamp") <= last
        tags = None if self.tags is None else self.tags.filter(known)
        return replace(self, ratings=self.ratings.filter(known), tags=tags)


def read_raw(path: Path) -> MovieLensRaw:
    """Read and check a download.

    Raises:
        DataError: unknown layout, missing column, a bad value, a film or user described twice or not at all.
    """
    layout, raw = open_raw(path, LAYOUTS)
    files, users, tags = list(LAYOUTS[layout]), None, None
    # Windows-1252 is latin-1 with quotes and dashes in the place of control characters.
    dat: dict[str, Any] = {"separator": "::", "header": False, "quoted": False, "legacy": "windows-1252"}
    rating_kinds, people = (int, int, float, int), ("UserID", "Gender", "Age", "Occupation", "Zip-code")
    if layout == ONE_M:
        names = ("UserID", "MovieID", "Rating", "Timestamp")
        rating_tables = [RawTable("ratings.dat", dict(zip(names, rating_kinds, strict=True)), **dat)]
        movies = read_table(raw, RawTable("movies.dat", {"MovieID": int, "Title": str, "Genres": str}, **dat))
        users = read_table(raw, RawTable("users.dat", dict(zip(people, (int, str, int, int, str), strict=True)), **dat))
    elif layout == LATEST:
        names = ("userId", "movieId", "rating", "timestamp")
        rating_tables = [RawTable("ratings.csv", dict(zip(names, rating_kinds, strict=True)))]
        movies = read_table(raw, RawTable("movies.csv", {"movieId": int, "title": str, "genres": str}))
        if raw.has("tags.csv"):
            files.append("tags.csv")
            tags = read_table(raw, RawTable("tags.csv", {"movieId": int, "tag": str, "timestamp": int}))
            tags = tags.rename({"movieId": "movie_id"})
    else:
        names = ("UserID", "MovieID", "Rating", "Timestamp")
        rating_tables = [RawTable(file, dict(zip(names, rating_kinds, strict=True))) for file in files[:2]]
        wanted = {"MovielensID": int, "Title": str, "Genre": str, "Year": str, "Plot": str}
        movies = read_table(raw, RawTable("movies.csv", wanted))
        users = read_table(raw, RawTable("users.csv", {"UserID": int, "Gender": str, "Age": int, "Occupation": int}))

    movies = _canonical_movies(movies)
    _refuse_repeats(movies["movie_id"], raw.where(files[1] if layout != TAIL else files[2]), "movie")
    if users is not None:
        users = users.select(pl.col(name).alias(name.lower()) for name in people[1:4]).with_columns(
            users["UserID"].alias("user_id")
        )
        _refuse_repeats(users["user_id"], raw.where(files[-1]), "user")
    ratings = []
    for number, table in enumerate(rating_tables):
        frame = read_table(raw, table)
        _check_ratings(frame, raw.where(table.file), movies=movies, users=users)
        frame.columns = ["user_id", "movie_id", "rating", "timestamp"]
        ratings.append(frame.with_columns(pl.lit(number == 1).alias("later")))
    together = pl.concat(ratings)
    if together.is_empty():
        raise DataError(f"{raw.where(files[0])}: there are no ratings")
    return MovieLensRaw(layout, raw.sources(files), together, movies.sort("movie_id"), users, tags)


def _canonical_movies(movies: pl.DataFrame) -> pl.DataFrame:
    """movie_id, title, year, genres, plot; in the official layouts the year stands in brackets behind the title."""
    movie_id, title, genres = (pl.col(name) for name in movies.columns[:3])
    if "Year" in movies.columns:
        year, plot = pl.col("Year"), pl.col("Plot")
    else:
        year, plot = title.str.extract(r"\((\d{4})\)\s*$"), pl.lit("")
        title = title.str.replace(r"\s*\(\d{4}\)\s*$", "")
    return movies.select(
        movie_id.alias("movie_id"),
        title.alias("title"),
        year.cast(pl.Int32, strict=False).fill_null(0).alias("year"),
        pl.when(genres == NO_GENRES).then(pl.lit("")).otherwise(genres).alias("genres"),
        plot.alias("plot"),
    )


def _refuse_repeats(ids: pl.Series, where: str, what: str) -> None:
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        rows = (np.flatnonzero((ids == repeated[0]).to_numpy())[:2] + 1).tolist()
        raise DataError(f"{where}: {what} {repeated[0]} is described twice, in rows {rows[0]} and {rows[1]}")


def _check_ratings(ratings: pl.DataFrame, where: str, *, movies: pl.DataFrame, users: pl.DataFrame | None) -> None:
    user, movie, rating, time = ratings.columns
    for column, bad, wanted in (
        (rating, ~ratings[rating].is_between(0.5, 5), "a rating of 0.5 to 5"),
        (time, ratings[time] < 0, "a time in seconds since 1970"),
        (movie, ~ratings[movie].is_in(movies["movie_id"].implode()), "a movie of the movies file"),
        (user, None if users is None else ~ratings[user].is_in(users["user_id"].implode()), "a user of the users file"),
    ):
        if bad is not None and bad.any():
            raise bad_value(where, column, bad, ratings[column], wanted)
