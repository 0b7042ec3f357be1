"""The limit of open files, raised in a process of its own, as it stays raised."""

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from streamconv.system.open_file_limit import files_held_open, raise_open_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
before = files_held_open()
raise_open_file_limit()
print(before, files_held_open(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "held"),
    [(8, 8, (4, 4)), (100, 400, (25, 100)), (400, 400, (100, 100)), (64, 4096, (16, 1024))],
)
def test_the_limit_is_raised_as_far_as_it_goes(soft: int, hard: int, held: tuple[int, int]) -> None:
    """A source holds a fourth of it open, and never more than 1,024 files."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(soft), str(hard)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(map(int, done.stdout.split())) == (*held, hard, hard)
