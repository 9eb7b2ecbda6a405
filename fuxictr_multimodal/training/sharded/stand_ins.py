"""Models whose largest tables are built nowhere: two rows stand in for such a table until it is sharded.

A table up to `WHOLE_BYTES` is built by each process as one process builds it, with the same initial weights, before its
rows are spread. Of a larger one each rank draws its own rows. They depend on the seed and not on the number of ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fuxictr.pytorch.layers import FeatureEmbeddingDict
from torch import nn

WHOLE_BYTES = 4 << 30
_ROWS = 2  # padding and one id


@contextlib.contextmanager
def stand_ins(min_rows: int) -> Iterator[None]:
    """Within the block, FuxiCTR's embedding layers are built without tables of at least `min_rows` rows and more bytes
    than `WHOLE_BYTES`. What stands in for one knows its number of rows as `whole_rows`."""
    build = FeatureEmbeddingDict.__init__

    def build_without(
        self: FeatureEmbeddingDict, feature_map: Any, embedding_dim: int, *args: Any, **kwargs: Any
    ) -> None:
        specs = feature_map.features
        large = {name: spec["vocab_size"] for name, spec in specs.items() if _is_large(spec, embedding_dim, min_rows)}
        try:
            for name in large:
                specs[name]["vocab_size"] = _ROWS
            build(self, feature_map, embedding_dim, *args, **kwargs)
        finally:
            for name, rows in large.items():
                specs[name]["vocab_size"] = rows
        for name, rows in large.items():
            if name in self.embedding_layers:
                table = self.embedding_layers[name]
                table.whole_rows, table.initializer = rows, self.embedding_initializer

    FeatureEmbeddingDict.__init__ = build_without
    try:
        yield
    finally:
        FeatureEmbeddingDict.__init__ = build


def rows_of(table: nn.Embedding) -> int:
    """The rows of a table, or of that for which it stands in."""
    return getattr(table, "whole_rows", table.num_embeddings)


def _is_large(spec: Mapping[str, Any], embedding_dim: int, min_rows: int) -> bool:
    if spec["type"] not in ("categorical", "sequence") or "pretrained_emb" in spec or spec["vocab_size"] < min_rows:
        return False
    return 4 * spec["vocab_size"] * spec.get("embedding_dim", embedding_dim) > WHOLE_BYTES
