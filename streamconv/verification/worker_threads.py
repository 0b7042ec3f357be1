"""Tasks dealt out to threads, which leave the interpreter's lock alone while they compare."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from streamconv.system.cancellation import CancelToken

Task = TypeVar("Task")
Worker = TypeVar("Worker")
Outcome = TypeVar("Outcome")
_Done = queue.Queue[tuple[Outcome] | BaseException | None]


def map_unordered(
    tasks: Iterator[Task],
    jobs: int,
    make_worker: Callable[[], Worker],
    work: Callable[[Worker, Task], Iterable[Outcome]],
    cancel: CancelToken,
) -> Iterator[Outcome]:
    """All that `work` makes of the tasks, in any order; each of `jobs` threads has its own worker.

    Raises what a task raises; no further ones are begun then, nor when the caller stops listening.
    `cancel` is set then for all who wait; set by another, it ends the tasks with Interrupted.
    """
    taken = _Taken(tasks, cancel)
    done: _Done[Outcome] = queue.Queue()

    def run() -> None:
        try:
            worker = make_worker()
            for task in taken:
                for outcome in work(worker, task):
                    done.put((outcome,))
            done.put(None)
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=run, name=f"verify-{k}") for k in range(jobs)]
    with cancel.cancels_on_exit(*threads):
        for _ in threads:
            yield from _until_done(done)


def _until_done(done: "_Done[Outcome]") -> Iterator[Outcome]:
    """Outcomes until some thread has no more of them; raises what one has raised."""
    while (outcome := done.get()) is not None:
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome[0]


class _Taken(Iterator[Task]):
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
