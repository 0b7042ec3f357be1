"""Tasks in order, each with the later ones that can be prepared from now on."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Task = TypeVar("Task")

MOST_TASKS = 256
"""How many tasks are in sight at most, as each takes memory."""


def with_lookahead(
    tasks: Iterable[Task], nbytes: Callable[[Task], int], window: int
) -> Iterator[tuple[Task, tuple[Task, ...]]]:
    """Yield every task, with the tasks after it that are in sight for the first time.

    The tasks in sight are those that begin within `window` bytes after the end of the task that is
    yielded: at least one, and at most MOST_TASKS. So every task but the first one comes into sight
    once, together with an earlier one.

    Args:
        tasks: The tasks. No more of them are taken than are in sight.
        nbytes: Returns the bytes of a task.
        window: How many bytes are in sight.
    """
    following = iter(tasks)
    in_sight = deque(itertools.islice(following, 1))
    ahead = 0
    while in_sight:
        task = in_sight.popleft()
        coming: list[Task] = []
        while (ahead < window and len(in_sight) + len(coming) < MOST_TASKS) or not (
            in_sight or coming
        ):
            found = list(itertools.islice(following, 1))
            if not found:
                break
            coming += found
            ahead += nbytes(found[0])
        in_sight.extend(coming)
        yield task, tuple(coming)
        ahead -= nbytes(in_sight[0]) if in_sight else 0
