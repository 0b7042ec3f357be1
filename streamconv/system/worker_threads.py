"""Worker threads that share one iterator of tasks and hand their results to the caller.

    tasks --> worker threads --> queue --> the caller, who iterates

The queue is bounded: threads that are ahead of the caller wait, so that memory does not grow.

A run has as many threads as jobs. Each has a worker of its own, for what cannot be shared, such as
buffers. Threads are enough: reading, hashing, copying and comparing release the interpreter's lock.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from streamconv.system.cancellation import SIGNAL_SECONDS, CancelToken

Task = TypeVar("Task")
Worker = TypeVar("Worker")
Outcome = TypeVar("Outcome")
MOST_WAITING = 256
"""The most outcomes that wait for the caller."""


def map_unordered(
    tasks: Iterator[Task],
    jobs: int,
    make_worker: Callable[[], Worker],
    work: Callable[[Worker, Task], Iterable[Outcome]],
    cancel: CancelToken,
) -> Generator[Outcome]:
    """Yield all outcomes of all tasks, in any order.

    No task is started after a failure, after the caller has closed this iterator, or after
    `cancel` was set. In the first two cases `cancel` is set here, for all who wait on it.

    Args:
        tasks: Advanced by the threads, one at a time.
        jobs: The number of threads.
        make_worker: Called once in each thread.
        work: Returns the outcomes of one task.
        cancel: Shared with whatever may wait in `work`.

    Raises:
        Interrupted: `cancel` was set by somebody else.
        BaseException: The first error of `make_worker` or `work`.
    """
    shared = _SharedTasks(tasks, cancel)
    outcomes = _Outcomes[Outcome]()

    def run() -> None:
        try:
            worker = make_worker()
            for task in shared:
                for outcome in work(worker, task):
                    outcomes.put((outcome,))
            outcomes.put(None)
        except BaseException as error:
            outcomes.put(error)
            cancel.set()  # after its error: those that others meet then are no reason

    threads = [threading.Thread(target=run, name=f"worker-{k}") for k in range(jobs)]
    with cancel.cancels_on_exit(*threads), outcomes:
        for _ in threads:
            yield from outcomes.of_one_thread()


class _Outcomes(Generic[Outcome]):
    """The queue of the outcomes, as a context of the caller: nobody waits to put after it."""

    def __init__(self) -> None:
        self._queue = queue.Queue[tuple[Outcome] | BaseException | None](MOST_WAITING)
        """Outcomes, each in a tuple of its own; the last item of a thread is its error, or None."""
        self._has_ended = threading.Event()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        # so that threads that wait for room go on at once
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def put(self, item: tuple[Outcome] | BaseException | None) -> None:
        """Add an item as soon as there is room. Drops it if the caller has ended."""
        while not self._has_ended.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=SIGNAL_SECONDS)
                return

    def of_one_thread(self) -> Iterator[Outcome]:
        """Yield outcomes until one of the threads ends. Raises its error if it has one."""
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    def _next(self) -> tuple[Outcome] | BaseException | None:
        """Return the next item as soon as there is one.

        A signal that arrives just before a wait begins does not end it. So no single wait is long.
        """
        while True:
            with suppress(queue.Empty):
                return self._queue.get(timeout=SIGNAL_SECONDS)


class _SharedTasks(Iterator[Task]):
    """The tasks that are left, for whichever thread asks next."""

    def __init__(self, tasks: Iterator[Task], cancel: CancelToken) -> None:
        self._tasks = tasks
        self._cancel = cancel
        self._lock = threading.Lock()

    def __next__(self) -> Task:
        with self._lock:
            if self._cancel.is_set():
                raise StopIteration
            return next(self._tasks)
