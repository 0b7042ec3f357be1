"""Worker threads that share one iterator of tasks and hand their results to the caller.

    tasks --> worker threads --> queue --> the caller, who iterates

A run has as many threads as jobs. Each has a worker of its own, for what cannot be shared, such as
buffers. Threads are enough: reading, hashing, copying and comparing release the interpreter's lock.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from streamconv.system.cancellation import SIGNAL_SECONDS, CancelToken

Task = TypeVar("Task")
Worker = TypeVar("Worker")
Outcome = TypeVar("Outcome")
_Outcomes = queue.Queue[tuple[Outcome] | BaseException | None]
"""Outcomes, each in a tuple of its own; the last item of a thread is its error, or None."""


def map_unordered(
    tasks: Iterator[Task],
    jobs: int,
    make_worker: Callable[[], Worker],
    work: Callable[[Worker, Task], Iterable[Outcome]],
    cancel: CancelToken,
) -> Iterator[Outcome]:
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
    outcomes: _Outcomes[Outcome] = queue.Queue()

    def run() -> None:
        try:
            worker = make_worker()
            for task in shared:
                for outcome in work(worker, task):
                    outcomes.put((outcome,))
            outcomes.put(None)
        except BaseException as error:
            outcomes.put(error)
            cancel.set()

    threads = [threading.Thread(target=run, name=f"worker-{k}") for k in range(jobs)]
    with cancel.cancels_on_exit(*threads):
        for _ in threads:
            yield from _until_thread_ends(outcomes)


def _until_thread_ends(outcomes: "_Outcomes[Outcome]") -> Iterator[Outcome]:
    """Yield outcomes until one of the threads ends. Raises its error if it has one."""
    while (outcome := _next(outcomes)) is not None:
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome[0]


def _next(outcomes: "_Outcomes[Outcome]") -> tuple[Outcome] | BaseException | None:
    """Return the next outcome, or the end of a thread, as soon as there is one.

    A signal that arrives just before a wait begins does not end it. So no single wait is long.
    """
    while True:
        with suppress(queue.Empty):
            return outcomes.get(timeout=SIGNAL_SECONDS)


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
