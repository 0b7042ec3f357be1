"""Which of the ranges on their way to the disk are waited for."""

from hypothesis import given
from hypothesis import strategies as st

from streamconv.system.writeback import WINDOW_BYTES, Writeback


@given(sizes=st.lists(st.integers(1, 100)), window=st.integers(0, 200))
def test_the_oldest_are_waited_for_as_the_window_is_full(sizes: list[int], window: int) -> None:
    """Each once and in their order; what is under way fits into the window, or is the last one."""
    writeback = Writeback(window)
    ranges = [(1000 * number, size) for number, size in enumerate(sizes)]
    first = 0
    for count, (offset, nbytes) in enumerate(ranges, start=1):
        before = first
        while first < count - 1 and sum(sizes[first:count]) > window:
            first += 1
        assert writeback.start(offset, nbytes) == ranges[before:first]


def test_a_window_is_as_large_as_promised() -> None:
    """Nothing is waited for before it is full."""
    writeback = Writeback()
    half = WINDOW_BYTES // 2
    assert writeback.start(0, half) == []
    assert writeback.start(half, half) == []
    assert writeback.start(2 * half, 1) == [(0, half)]
