"""Memory for tensors."""

import pytest
from file_calls import PAGE

from streamconv.system.buffers import HUGE_PAGE, new_buffer


@pytest.mark.parametrize("nbytes", [1, PAGE, PAGE + 1, HUGE_PAGE + 1])
def test_new_buffer(nbytes: int) -> None:
    """Zeroed memory of that size that can be written."""
    buffer = new_buffer(nbytes)
    assert len(buffer) == nbytes
    assert not any(buffer)
    buffer[-1] = 1
