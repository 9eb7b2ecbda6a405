"""Whether vectors of long texts stay apart: documents of 512 to 8192 tokens, their translations, paragraphs in them.

Consecutive pairs of sentences of two languages become documents of each length, the same number at every length. Scores
are the mean cosine of different documents, and how often a paragraph of either language finds its document, and a
document its translation. TF-IDF of character 3- to 5-grams, fitted on the documents, stands beside the encoders. Name
sentences that the encoders were not trained on:

python benchmarks/embedding_documents.py --paths en_kjv.json es_rvr.json --books 39 66 --encoders BiEncoder_en_es
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from bilingual_embedding.data.readers import FORMATS, SourceSettings, read_source
from bilingual_embedding.data.texts import Pairs
from bilingual_embedding.vectors.named import MODEL_ROOT, find_encoder

TOKENS_PER_WORD = 1.25  # of an English text, by the encoders' own vocabularies
Embed = Callable[[Sequence[str]], Any]


def documents(pairs: Pairs, words: int, count: int) -> list[range]:
    """Rows of `count` documents of at least `words` words on the left, evenly spread over the pairs."""
    found, start, held = [], 0, 0
    for row, text in enumerate(pairs.left):
        held += len(text.split())
        if held >= words:
            found.append(range(start, row + 1))
            start, held = row + 1, 0
    if len(found) < count:
        raise SystemExit(f"the texts hold {len(found)} documents of {words:,} words, not {count}: lower --documents")
    return [found[place] for place in np.linspace(0, len(found) - 1, count).astype(int)]


def scores(pairs: Pairs, rows: Sequence[range], paragraph: int, embed: Embed) -> dict[str, float]:
    """Scores of one length in percent but for the cosines.

    Args:
        pairs: sentences and their translations.
        rows: sentences of each document.
        paragraph: sentences of a paragraph, from the middle of its document.
        embed: texts to vectors (N, D) of length 1, dense or sparse.
    """
    middles = [range(r.start + (len(r) - paragraph) // 2, r.start + (len(r) + paragraph) // 2) for r in rows]
    left, right = ([joined(side, r) for r in rows] for side in (pairs.left, pairs.right))
    asked = [joined(side, r) for side in (pairs.left, pairs.right) for r in middles]
    vectors = embed([*left, *right, *asked])
    n = len(rows)
    cosines = vectors @ vectors[:n].T
    cosine_MN = np.asarray(cosines.toarray() if hasattr(cosines, "toarray") else cosines)
    others = ~np.eye(n, dtype=bool)
    return {
        "cosine of different documents": float(cosine_MN[:n][others].mean()),
        "cosine of a document and its translation": float(np.diag(cosine_MN[n : 2 * n]).mean()),
        "document finds translation": found(cosine_MN[n : 2 * n].T),
        "paragraph finds document": found(cosine_MN[2 * n : 3 * n]),
        "translated paragraph finds document": found(cosine_MN[3 * n :]),
    }


def joined(side: Sequence[str], rows: range) -> str:
    return " ".join(side[row] for row in rows)


def found(cosine_NN: NDArray) -> float:
    return 100 * float((cosine_NN.argmax(axis=1) == np.arange(len(cosine_NN))).mean())


def tfidf(texts: Sequence[str]) -> Any:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs=2, type=Path, required=True, help="sentences of the two languages, aligned")
    parser.add_argument("--format", default="bible_json", choices=sorted(FORMATS))
    parser.add_argument("--books", nargs=2, type=int, default=(), help="of a Bible, first book and one after the last")
    parser.add_argument("--encoders", nargs="*", default=(), help="expids, folders, or models of sentence-transformers")
    parser.add_argument(
        "--model-root", type=Path, default=MODEL_ROOT, help="folder of the expids (default: %(default)s)"
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--documents", type=int, default=24, help="of each length (default: %(default)s)")
    parser.add_argument("--paragraph", type=int, default=4, help="sentences of a paragraph (default: %(default)s)")
    args = parser.parse_args()
    settings = SourceSettings(
        format=args.format,
        paths=tuple(path.name for path in args.paths),
        languages=("left", "right"),
        books=tuple(args.books),
    )
    pairs = read_source("texts", settings, args.paths[0].parent).need_pairs()
    ways: dict[str, Embed] = {"tfidf": tfidf}
    for name in args.encoders:
        ways[name] = find_encoder(name, model_root=args.model_root).load(progress=True)
    result: dict[str, dict[int, dict[str, float]]] = {}
    for name, embed in ways.items():
        result[name] = {}
        for tokens in args.tokens:
            rows = documents(pairs, round(tokens / TOKENS_PER_WORD), args.documents)
            result[name][tokens] = scores(pairs, rows, args.paragraph, embed)
            print(name, tokens, {key: round(value, 3) for key, value in result[name][tokens].items()}, flush=True)
    sizes = {"documents": args.documents, "paragraph": args.paragraph, "rows": len(pairs)}
    print(json.dumps({"name": "embedding_documents", "sizes": sizes, "scores": result, "machine": machine()}))


if __name__ == "__main__":
    main()
