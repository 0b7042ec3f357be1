"""Find what the workers of a run need if there are few pieces: some workers then have none."""

from collections.abc import Iterable, Sequence
from itertools import islice

from streamconv.planning.plan import PIECE_BYTES, Piece, cut_pieces
from streamconv.planning.shards import Shard, ShardFormat, StepBytes
from streamconv.planning.worker_memory import PieceNeeds

MOST_PIECES = 32
"""If there are more pieces, every worker has enough of them."""
MOST_PARTS = 4096
"""Parts of shards that are looked at. Pieces with so many parts hold small tensors, and end about
where they have PIECE_BYTES."""


def needs_of_few(
    shards: Sequence[Shard], file_format: ShardFormat
) -> tuple[PieceNeeds, ...] | None:
    """Return what each piece of all shards needs, or None if there are more than MOST_PIECES.

    Shards with too many parts are cut by their size alone: there may be fewer pieces, not more.
    Their parts are small, so only the last piece of a shard has not about PIECE_BYTES.
    """
    needs: list[PieceNeeds] = []
    left = MOST_PARTS
    for number, shard in enumerate(shards):
        found: list[PieceNeeds] = []
        for piece in cut_pieces(number, shard, islice(file_format.parts(shard), max(left, 0))):
            left -= len(piece.parts)
            found.append(_needs_of(piece))
            if len(needs) + len(found) > MOST_PIECES:
                return None
        needs += found if left > 0 else _by_size(shard.nbytes)
        if len(needs) > MOST_PIECES:
            return None
    return tuple(needs)


def _needs_of(piece: Piece) -> PieceNeeds:
    buffers = (part.how.buffer_bytes for part in piece.parts if isinstance(part, StepBytes))
    return PieceNeeds(piece.nbytes, max(buffers, default=0))


def _by_size(nbytes: int) -> Iterable[PieceNeeds]:
    """Yield as many pieces as a shard of `nbytes` can have, and no more than are counted."""
    for begin in range(0, nbytes, PIECE_BYTES)[: MOST_PIECES + 1]:
        yield PieceNeeds(min(PIECE_BYTES, nbytes - begin), None)
