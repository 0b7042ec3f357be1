"""A file that several workers write in contiguous runs, in any order."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from streamconv.sinks.write_buffer import WriteBuffer

PAGE = 4096
Run = tuple[int, int]
"""Begin and end of contiguous bytes of a file."""


@dataclass(frozen=True)
class Work:
    """A file, and how it is written."""

    content: bytes
    runs: list[Run]
    """In the order in which the workers take them."""
    workers: int
    buffer: int
    """Bytes of each worker's write buffer."""
    chunk: int
    """Bytes that a worker asks memory for at a time."""


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Draw a file of an odd size whose runs end at or near pages, and the way to write it."""
    size = 2 * draw(st.integers(0, 9 * PAGE // 2)) + 1
    near_pages = st.integers(0, size // PAGE).flatmap(
        lambda page: st.integers(max(page * PAGE - 2, 0), page * PAGE + 2)
    )
    cuts = draw(st.sets(st.integers(1, size) | near_pages, max_size=14))
    bounds = sorted({0, size} | {cut for cut in cuts if cut < size})
    return Work(
        content=random.Random(draw(st.integers(0, 2**32))).randbytes(size),
        runs=draw(st.permutations(list(pairwise(bounds)))),
        workers=draw(st.integers(1, 3)),
        buffer=PAGE * draw(st.sampled_from([1, 2, 3, 16])),
        chunk=draw(st.sampled_from([1000, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 100_000])),
    )


def fill(buffer: WriteBuffer, work: Work, run: Run) -> None:
    """Put the bytes of a run into a buffer, by `next` and `exactly` in turn."""
    data = work.content[run[0] : run[1]]
    exactly = False
    while data:
        wanted = min(work.chunk, len(data))
        exactly = not exactly and wanted <= work.buffer
        memory = (buffer.exactly if exactly else buffer.next)(wanted)
        assert 0 < len(memory) <= wanted
        assert not exactly or len(memory) == wanted
        memory[:] = data[: len(memory)]
        data = data[len(memory) :]


def carry_out(work: Work, write: Callable[[int, memoryview], object]) -> None:
    """Write all runs by several workers; raises the first error of any of them."""
    runs = iter(work.runs)
    taking = threading.Lock()

    def worker(_: int) -> None:
        buffer = WriteBuffer(work.buffer)
        while True:
            with taking:
                run = next(runs, None)
            if run is None:
                break
            buffer.begin(run[0], write)
            fill(buffer, work, run)
            buffer.flush()

    with ThreadPoolExecutor(work.workers) as workers:
        list(workers.map(worker, range(work.workers)))
