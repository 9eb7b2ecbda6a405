"""Turn item titles into vectors that a dataset takes: `--embedding vectors.parquet` of the scripts in `datasets/`.

    python examples/titles_to_vectors.py --titles titles.csv --out vectors.parquet
    python examples/titles_to_vectors.py --titles titles.csv --encoder sentence-transformers/all-MiniLM-L6-v2

titles.csv has the columns item_id and title; without it a few titles are made. Vectors are TF-IDF of the words, reduced
to --dim columns, or those of an encoder (`pip install fuxictr-multimodal[embedding]`).
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from bilingual_embedding.cli import run_embedding_main
from fuxictr_multimodal.data.recipes.text_features import tfidf_svd, unit_length

MADE = """item_id,title
1,red running shoes
2,blue running shoes
3,running socks
4,coffee beans
5,ground coffee
6,red coffee mug
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Turn item titles into vectors.")
    parser.add_argument("--titles", type=Path, help="csv with item_id and title; by default a few titles are made")
    parser.add_argument("--encoder", help="a sentence-transformers model, by name or folder; by default TF-IDF")
    parser.add_argument("--dim", type=int, default=4, help="width of TF-IDF vectors")
    parser.add_argument("--out", type=Path, default=Path("vectors.parquet"), help="the file of vectors")
    args = parser.parse_args()
    if args.titles is None:
        args.titles = args.out.with_name("titles.csv")
        args.titles.write_text(MADE, encoding="utf-8")
    titles = pl.read_csv(args.titles)
    if args.encoder:
        columns = ["--text-column", "title", "--id-column", "item_id"]
        files = ["--input", str(args.titles), "--output", str(args.out)]
        run_embedding_main(["--stage", "encode", "--published", args.encoder, *files, *columns])
    else:
        # With new items later, fit on those that occur in training only.
        made = tfidf_svd(titles["title"].to_list(), fit_rows=np.ones(titles.height, bool), dim=args.dim)
        pl.DataFrame({"item_id": titles["item_id"], "vector": made.vectors}).write_parquet(args.out)

    table = pl.read_parquet(args.out)
    vectors = unit_length(np.stack(table[table.columns[-1]].to_list()))
    near = 1 + (vectors[1:] @ vectors[0]).argsort()[::-1][:3]
    print(f"{args.out}: {vectors.shape[0]} vectors of {vectors.shape[1]} numbers")
    print(f"nearest to {titles['title'][0]!r}: {titles['title'].gather(near).to_list()}")


if __name__ == "__main__":
    main()
