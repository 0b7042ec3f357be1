"""What all workers hold together: buffers of a run, blocks and regions of its verification."""

import pytest

from streamconv.planning.compared_regions import Regions
from streamconv.planning.worker_memory import (
    IDLE_BYTES,
    VERIFY_COPY_SCRATCH_BYTES,
    VERIFY_OUTPUT_BLOCK_BYTES,
    VERIFY_SCRATCH_BYTES,
    VERIFY_SOURCE_BLOCK_BYTES,
    PieceNeeds,
    buffers_bytes,
    needed_workers,
    verifying_bytes,
)
from streamconv.units import HUGE_PAGE_BYTES
from streamconv.verification import compare

LARGE = 10 * HUGE_PAGE_BYTES
COPIED = VERIFY_SOURCE_BLOCK_BYTES + VERIFY_OUTPUT_BLOCK_BYTES + VERIFY_COPY_SCRATCH_BYTES
TRANSPOSED = LARGE + VERIFY_OUTPUT_BLOCK_BYTES + VERIFY_SCRATCH_BYTES


@pytest.mark.parametrize(("source_buffer", "each"), [(0, COPIED), (1, TRANSPOSED)])
def test_a_verification_holds_the_largest_regions(source_buffer: int, each: int) -> None:
    """Transposed ones as a whole, others in blocks; only so much of a block as is used."""

    def found(*sizes: int, jobs: int = 4, count: int = 0) -> int:
        return verifying_bytes(jobs, source_buffer, Regions(count or len(sizes), sizes), 0)

    assert found(LARGE) == each + 3 * IDLE_BYTES
    assert found(LARGE, LARGE) == 2 * each + 2 * IDLE_BYTES
    assert found(LARGE, LARGE, *[1000] * 9, jobs=2) == 2 * each
    assert found(LARGE, 1000) - found(LARGE) < 10**6
    assert found(*[LARGE] * 32, jobs=40, count=99) == 40 * each


def test_what_keeps_its_layout_is_in_blocks() -> None:
    """Also beside what is transposed."""
    both = verifying_bytes(2, 1, Regions(2, (LARGE,), (LARGE,)), 0)
    assert both == TRANSPOSED + VERIFY_SOURCE_BLOCK_BYTES + TRANSPOSED - LARGE


def test_the_blocks_of_a_verification_are_those_that_are_counted() -> None:
    assert VERIFY_SOURCE_BLOCK_BYTES == compare.SOURCE_BLOCK_BYTES
    assert VERIFY_OUTPUT_BLOCK_BYTES == compare.OUTPUT_BLOCK_BYTES


@pytest.mark.parametrize(
    ("jobs", "pieces", "needed"),
    [(8, 0, 1), (8, 1, 1), (8, 8, 8), (8, 10, 5), (8, 17, 6), (8, 32, 8), (2, 3, 2), (1, 9, 1)],
)
def test_no_more_workers_than_are_done_sooner(jobs: int, pieces: int, needed: int) -> None:
    assert needed_workers(jobs, pieces) == needed


def test_buffers_are_filled_as_far_as_the_largest_pieces_go() -> None:
    """In whole huge pages, if the buffer has them."""
    few = [PieceNeeds(nbytes, nbytes // 2) for nbytes in (1, 2 * LARGE, LARGE, 3)]
    assert buffers_bytes(2, LARGE, LARGE, few) == LARGE + LARGE // 2 + 2 * LARGE
    assert buffers_bytes(2, LARGE, LARGE, [PieceNeeds(1, None)]) == LARGE + HUGE_PAGE_BYTES
    assert buffers_bytes(2, 0, 1000, [PieceNeeds(10, 0)]) == 10
    assert buffers_bytes(2, LARGE, LARGE, None) == 4 * LARGE
