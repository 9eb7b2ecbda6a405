"""Pieces of the user's rows to the dataset under construction: by this process, or by the workers of a Ray cluster.

A worker encodes its piece with what was fitted before; this process writes what comes back in the order of the pieces,
so that a dataset has the same bytes whoever encoded it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.row_encoder import EncodedRows, RowEncoder, SplitRows
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.system.ray_cluster import Refused, in_order

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


class PieceRows(Protocol[Piece]):
    """Makes of a piece the rows of its splits, in any process."""

    def __call__(self, piece: Piece) -> Iterable[SplitRows]:
        """The rows of a piece, in order."""
        ...

    def apart(self) -> PieceRows[Piece]:
        """The same for another process: without what only this one needs."""
        ...


def append_pieces(builder: StoreBuilder, rows_of: PieceRows[Piece], pieces: Iterable[Piece], *, ray: Any) -> None:
    """Append the rows of all pieces.

    Args:
        builder: of the dataset; its item table is written.
        rows_of: makes rows of a piece.
        pieces: in order.
        ray: the cluster whose workers encode, as `ray_at` hands it out; None encodes here.

    Raises:
        InputError: a value is wrong, named as in a build without Ray; or the cluster failed.
    """

    def here(piece: Piece) -> None:
        for rows in rows_of(piece):
            builder.append(**vars(rows))

    if ray is None:
        for piece in pieces:
            here(piece)
        return
    for answer in answers(ray, _Encoded(rows_of.apart(), builder.encoder), pieces, here=here, what="built"):
        for encoded in answer:
            builder.append_encoded(encoded)


def answers(
    ray: Any,
    work: Callable[[Piece], Answer],
    pieces: Iterable[Piece],
    *,
    here: Callable[[Piece], object],
    what: str,
) -> Iterator[Answer]:
    """What the workers of a cluster make of each piece, in order.

    Args:
        ray: as `ray_at` hands it out.
        work: sent to the workers.
        pieces: in order.
        here: the same work in this process, for a piece whose worker met an error: it has the rows of the user's files.
        what: was done, for messages.

    Raises:
        InputError: a value is wrong, or the cluster failed.
    """
    for piece, answer in in_order(ray, work, pieces, what=what):
        if isinstance(answer, Refused):
            here(piece)
            raise InputError(
                f"--engine ray: a worker met an error that this machine does not: {answer.text}; every machine of the "
                "cluster must have the files at the same paths"
            )
        yield answer


@dataclass(frozen=True)
class _Encoded(Generic[Piece]):
    """The work of a worker: the rows of a piece, encoded."""

    rows_of: PieceRows[Piece]
    encoder: RowEncoder

    def __call__(self, piece: Piece) -> list[EncodedRows]:
        return [self.encoder.apart(rows) for rows in self.rows_of(piece)]
