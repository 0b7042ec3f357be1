"""What is in sight, and when."""

import itertools
from collections.abc import Iterator

import pytest

from streamconv.system.lookahead import MOST_TASKS, with_lookahead

SIZES = [3, 5, 0, 2, 9, 1, 1]


@pytest.mark.parametrize("window", [0, 1, 4, 7, 100])
def test_every_task_once_and_in_sight_before_it(window: int) -> None:
    """Each after the first comes into sight once, in order, with a task before it."""
    tasks = list(enumerate(SIZES))
    found = list(with_lookahead(tasks, lambda task: task[1], window))
    assert [task for task, _ in found] == tasks
    assert list(itertools.chain.from_iterable(each for _, each in found)) == tasks[1:]
    seen = 1
    for number, (_, new) in enumerate(found):
        seen += len(new)
        ahead = SIZES[number + 1 : seen]
        assert sum(ahead) >= window or seen == len(SIZES)
        assert len(ahead) <= 1 or sum(ahead[:-1]) < window


def test_no_more_is_taken_than_is_in_sight() -> None:
    """Tasks without an end, of which a few are asked for."""
    taken = []

    def tasks() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    found = with_lookahead(tasks(), lambda _: 10, 25)
    assert next(found) == (0, (1, 2, 3))
    assert next(found) == (1, (4,))
    assert taken == [0, 1, 2, 3, 4]


def test_tasks_without_bytes() -> None:
    """They are taken a few at a time, too."""
    found = with_lookahead(itertools.count(), lambda _: 0, 10)
    assert next(found) == (0, tuple(range(1, MOST_TASKS + 1)))
    assert next(found) == (1, (MOST_TASKS + 1,))


def test_no_tasks() -> None:
    assert list(with_lookahead([], lambda _: 1, 10)) == []
