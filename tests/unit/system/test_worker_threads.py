"""Threads that share tasks: every outcome once, and an error or a cancellation ends all of them."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from streamconv.errors import Interrupted
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import MOST_WAITING, map_unordered


class Fault(BaseException):
    """An error that is no Exception, as that of a signal handler."""


def no_worker() -> None:
    """Make nothing: the work of these tests needs no worker."""


def twice(_: None, task: int) -> tuple[int, int]:
    return task, -task


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_every_outcome_comes_once(jobs: int) -> None:
    """Also if there are more threads than tasks, and if a task has no outcome."""
    cancel = CancelToken()
    found = Counter(map_unordered(iter(range(1, 5)), jobs, no_worker, twice, cancel))
    assert found == Counter([1, -1, 2, -2, 3, -3, 4, -4])
    assert list(map_unordered(iter([1]), jobs, no_worker, lambda *_: (), cancel)) == []
    assert not cancel.is_set()


def test_an_outcome_may_be_none() -> None:
    found = map_unordered(iter([1, 2]), 2, no_worker, lambda *_: [None], CancelToken())
    assert list(found) == [None, None]


def test_each_thread_has_a_worker_of_its_own() -> None:
    barrier = threading.Barrier(3)

    def work(worker: object, _: int) -> list[int]:
        barrier.wait(timeout=30)
        return [id(worker)]

    found = list(map_unordered(iter(range(3)), 3, object, work, CancelToken()))
    assert len(set(found)) == 3


def test_one_thread_at_a_time_advances_the_tasks() -> None:
    """A generator that is advanced twice at once raises ValueError."""

    def tasks() -> Iterator[int]:
        for number in range(200):
            threading.Event().wait(0.0001)
            yield number

    found = map_unordered(tasks(), 8, no_worker, lambda _, task: [task], CancelToken())
    assert sorted(found) == list(range(200))


@pytest.mark.parametrize("error", [ValueError("bad"), Fault("bad")])
def test_the_first_error_ends_all_threads(error: BaseException) -> None:
    """Those that wait are canceled, and no task is started after it."""
    cancel, started = CancelToken(), []

    def work(_: None, task: int) -> list[int]:
        started.append(task)
        if task == 1:
            raise error
        cancel.wait(60)
        return [task]

    with pytest.raises(type(error), match="bad"):
        list(map_unordered(itertools.count(), 2, no_worker, work, cancel))
    assert cancel.is_set()
    assert started == [0, 1]


def test_an_error_of_a_worker_that_cannot_be_made() -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(map_unordered(iter([1]), 2, fail, twice, CancelToken()))


def test_an_error_of_the_tasks() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(map_unordered(tasks(), 2, no_worker, twice, CancelToken()))


def test_a_caller_that_stops_iterating_cancels_the_rest() -> None:
    before = threading.active_count()
    cancel = CancelToken()
    found = map_unordered(itertools.count(), 2, no_worker, twice, cancel)
    next(found)
    assert isinstance(found, Iterator)
    found.close()  # type: ignore[attr-defined]
    assert cancel.is_set()
    assert threading.active_count() == before


def test_a_run_that_somebody_else_cancels() -> None:
    """Ends as interrupted, so that nobody takes its outcomes for all."""
    cancel = CancelToken()
    found = map_unordered(itertools.count(), 2, no_worker, twice, cancel)
    next(found)
    cancel.set()
    with pytest.raises(Interrupted):
        list(found)


def test_threads_wait_for_a_slow_caller() -> None:
    """So that outcomes do not fill the memory. All of them arrive, and the error after them."""
    made = itertools.count()

    def work(_: None, task: int) -> Iterator[int]:
        for _number in range(3 * MOST_WAITING):
            yield next(made)
        raise ValueError("bad")

    found = map_unordered(iter([0]), 1, no_worker, work, CancelToken())
    first, last = next(found), -1
    while (now := next(made)) > last + 1:  # this loop counts, too
        last = now
        time.sleep(0.2)
    assert last <= MOST_WAITING + 10
    rest = []
    with pytest.raises(ValueError, match="bad"):
        rest.extend(found)
    assert first == 0
    assert len(rest) == 3 * MOST_WAITING - 1


def test_a_caller_that_leaves_a_full_queue() -> None:
    """The threads end, whatever they still have to say."""
    before = threading.active_count()

    def work(_: None, task: int) -> Iterator[int]:
        yield from range(MOST_WAITING)
        raise ValueError("nobody hears it")

    found = map_unordered(iter(range(9)), 3, no_worker, work, CancelToken())
    next(found)
    time.sleep(0.2)  # enough for them to fill it
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
