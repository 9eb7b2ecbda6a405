"""Scores of an encoder: Spearman on scored pairs, accuracy of finding translations, and lexical baselines beside them.

A score that is not defined is None: a rank correlation of fewer than two pairs or of equal values, an accuracy over
nothing, anything of vectors that are not finite. One logged line says which and why.

Legend: N rows, B rows of a block, D width. Scores are in percent.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bilingual_embedding.data.texts import Pairs, ScoredPairs, Source
from fuxictr_multimodal.metrics.classification import UndefinedMetric
from fuxictr_multimodal.system.progress import Line, followed

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Score = float | None
BLOCK = 1024
# Cosines in float32 of one and the same pair of directions differ by less.
EQUAL_COSINES = 1e-6


def evaluate(sources: Sequence[Source], embed: Embed, *, progress: bool = False) -> dict[str, Score]:
    """Scores by name: `<source>` of scored pairs; `<source> en->de` and `<source> de->en` of pairs.

    Args:
        sources: evaluation sets.
        embed: texts to vectors of length 1.
        progress: show it where this takes long.
    """
    scores: dict[str, Score] = {}
    for source in sources:
        if source.scored is not None:
            scores[source.name] = _reported(source.name, sts_score, source.scored, embed)
        else:
            accuracy = functools.partial(translation_accuracy, progress=progress)
            both = _reported(source.name, accuracy, source.need_pairs(), embed)
            scores.update(_both_ways(source, *(both or (None, None))))
    return scores


def sts_score(scored: ScoredPairs, embed: Embed) -> float:
    """100 x Spearman's rank correlation of cosine and human score.

    Raises:
        UndefinedMetric: if it has no value.
    """
    vectors = _finite(embed([*scored.left, *scored.right]))
    units = unit_vectors(vectors)
    # Equal texts have exactly the cosine 1 so, and are ties; by products rounding would order them.
    cosine_N = 1 - np.square(units[: len(scored)] - units[len(scored) :]).sum(axis=1) / 2
    return _rank_correlation(cosine_N, scored.score)


def unit_vectors(vectors_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same directions in float64, where rounding does not change the order of cosines; zeros stay zeros."""
    wide_ND = vectors_ND.astype(np.float64)
    return wide_ND / np.maximum(np.linalg.norm(wide_ND, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def translation_accuracy(pairs: Pairs, embed: Embed, *, progress: bool = False) -> tuple[float, float]:
    """Percentage of rows whose nearest text on the other side is their own: left to right, right to left.

    A row counts as found, too, when the nearest is another row with the same text.

    Raises:
        UndefinedMetric: if there are no rows, or the vectors are not finite.
    """
    vectors = _finite(embed([*pairs.left, *pairs.right]))
    left_ND, right_ND = vectors[: len(pairs)], vectors[len(pairs) :]
    return _found_both_ways(pairs, lambda block: left_ND[block] @ right_ND.T, progress)


def lexical_baselines(sources: Sequence[Source], *, progress: bool = False) -> dict[str, Score]:
    """The same scores without any learning: cosine of TF-IDF of character 3- to 5-grams, fitted on the set itself."""
    scores: dict[str, Score] = {}
    for source in followed(sources, total=len(sources), what="lexical baselines", unit="source", shown=progress):
        name = f"baseline of {source.name}"
        if source.scored is not None:
            scores[source.name] = _reported(name, _sts_floor, source.scored)
        else:
            both = _reported(name, _translation_floor, source.need_pairs(), progress)
            scores.update(_both_ways(source, *(both or (None, None))))
    return scores


def _sts_floor(scored: ScoredPairs) -> float:
    left, right = _tfidf(scored)
    return _rank_correlation(np.asarray(left.multiply(right).sum(axis=1)).ravel(), scored.score)


def _translation_floor(pairs: Pairs, progress: bool) -> tuple[float, float]:
    left, right = _tfidf(pairs)
    return _found_both_ways(pairs, lambda block: (left[block] @ right.T).toarray(), progress)


def _tfidf(rows: Pairs | ScoredPairs) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [*rows.left, *rows.right]
    if not any(text.strip() for text in texts):
        raise UndefinedMetric("there is no text")
    table = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    return table[: len(rows)], table[len(rows) :]


def _reported(name: str, score: Callable, *arguments: Any) -> Any:
    """The score; None where it has no value, with a logged line that says why."""
    try:
        return score(*arguments)
    except UndefinedMetric as error:
        logging.warning("%s: no value: %s", name, error)
        return None


def _finite(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise UndefinedMetric("the encoder's vectors are not all finite numbers")
    return vectors


def _rank_correlation(cosine_N: NDArray[np.floating], score_N: NDArray[np.floating]) -> float:
    """100 x Spearman's correlation."""
    if len(score_N) < 2:
        raise UndefinedMetric(f"a rank correlation needs two pairs or more, found {len(score_N)}")
    if not np.isfinite(score_N).all():
        raise UndefinedMetric("the human scores are not all finite numbers")
    if np.ptp(score_N) == 0:
        raise UndefinedMetric(f"all {len(score_N)} human scores are equal")
    if np.ptp(cosine_N) <= EQUAL_COSINES:
        raise UndefinedMetric(f"all {len(cosine_N)} cosines are equal")
    return 100 * float(stats.spearmanr(cosine_N, score_N).statistic)


def _both_ways(source: Source, there: Score, back: Score) -> dict[str, Score]:
    first, *_, last = [*source.texts, "right"][:2]
    return {f"{source.name} {first}->{last}": there, f"{source.name} {last}->{first}": back}


def _found_both_ways(
    pairs: Pairs, scores_of: Callable[[slice], NDArray[np.floating]], progress: bool
) -> tuple[float, float]:
    """Accuracies of both directions; `scores_of` a block of left texts are its scores (B, N) with all right ones."""
    rows = len(pairs)
    if not rows:
        raise UndefinedMetric("there are no pairs")
    right_of = np.empty(rows, dtype=np.int64)
    left_of, best_N = np.zeros(rows, dtype=np.int64), np.full(rows, -np.inf)
    with Line(rows, "nearest texts", unit="text", shown=progress) as line:
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            score_BN = scores_of(block)
            right_of[block] = score_BN.argmax(axis=1)
            nearest = score_BN.argmax(axis=0)
            score_N = score_BN[nearest, np.arange(rows)]
            nearer = score_N > best_N
            left_of[nearer], best_N[nearer] = nearest[nearer] + start, score_N[nearer]
            line.update(block.stop - start)
    return _accuracy(right_of, pairs.right), _accuracy(left_of, pairs.left)


def _accuracy(nearest_N: NDArray[np.int64], texts: Sequence[str]) -> float:
    return 100 * float(np.mean([texts[place] == texts[row] for row, place in enumerate(nearest_N)]))
