"""Scores of an encoder: Spearman on scored pairs, accuracy of finding translations, and lexical floors beside them.

Legend: N rows, D width. Scores are in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bilingual_embedding.texts import Pairs, ScoredPairs, Source

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def evaluate(sources: Sequence[Source], embed: Embed) -> dict[str, float]:
    """Scores by name: `<source>` of scored pairs; `<source> en->de` and `<source> de->en` of pairs.

    Args:
        sources: evaluation sets.
        embed: texts to vectors of length 1.
    """
    scores = {}
    for source in sources:
        if source.scored is not None:
            scores[source.name] = sts_score(source.scored, embed)
        else:
            scores.update(_both_ways(source, *translation_accuracy(source.need_pairs(), embed)))
    return scores


def sts_score(scored: ScoredPairs, embed: Embed) -> float:
    """100 x Spearman's rank correlation of cosine and human score."""
    vectors = embed([*scored.left, *scored.right])
    left_ND, right_ND = vectors[: len(scored)], vectors[len(scored) :]
    return 100 * float(stats.spearmanr(np.einsum("nd,nd->n", left_ND, right_ND), scored.score).statistic)


def translation_accuracy(pairs: Pairs, embed: Embed) -> tuple[float, float]:
    """Share in percent of rows whose nearest text on the other side is their own: left to right, right to left.

    A row counts as found, too, when the nearest is another row with the same text.
    """
    vectors = embed([*pairs.left, *pairs.right])
    score_NN = vectors[: len(pairs)] @ vectors[len(pairs) :].T
    return _found(score_NN, pairs.right), _found(score_NN.T, pairs.left)


def lexical_floors(sources: Sequence[Source]) -> dict[str, float]:
    """The same scores without any learning: cosine of TF-IDF of character 3- to 5-grams, fitted on the set itself."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    scores = {}
    for source in sources:
        rows = source.scored if source.scored is not None else source.need_pairs()
        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform([*rows.left, *rows.right])
        left, right = tfidf[: len(rows)], tfidf[len(rows) :]
        if source.scored is not None:
            cosine_N = np.asarray(left.multiply(right).sum(axis=1)).ravel()
            scores[source.name] = 100 * float(stats.spearmanr(cosine_N, source.scored.score).statistic)
        else:
            score_NN = (left @ right.T).toarray()
            scores.update(_both_ways(source, _found(score_NN, rows.right), _found(score_NN.T, rows.left)))
    return scores


def _both_ways(source: Source, there: float, back: float) -> dict[str, float]:
    first, *_, last = [*source.texts, "right"][:2]
    return {f"{source.name} {first}->{last}": there, f"{source.name} {last}->{first}": back}


def _found(score_NN: NDArray[np.float32], texts: Sequence[str]) -> float:
    nearest = score_NN.argmax(axis=1)
    return 100 * float(np.mean([texts[place] == texts[row] for row, place in enumerate(nearest)]))
