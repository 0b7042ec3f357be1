"""Memory of a workspace is the same until it is too small, and a table is made once."""

import numpy as np

from streamconv.quantization.workspace import Array, Workspace


def test_an_array_is_the_same_memory_again() -> None:
    """For as many numbers or fewer, in any dtype; each name has its own."""
    workspace = Workspace()
    first = workspace.array("values", 6, np.float32)
    first[:] = 7
    again = workspace.array("values", 12, np.uint16)
    assert again.shape == (12,)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, workspace.array("index", 6, np.float32))


def test_a_larger_array_has_other_memory() -> None:
    workspace = Workspace()
    first = workspace.array("values", 4, np.uint8)
    larger = workspace.array("values", 5, np.uint8)
    assert larger.shape == (5,)
    assert not np.shares_memory(first, larger)


def test_parts_do_not_overlap_and_are_the_same_memory_again() -> None:
    """Each begins at a line of the cache; a smaller request is served from the same memory."""
    workspace = Workspace()

    def parts() -> list[Array]:
        allocate = workspace.parts("matrix", 3 + 70, 2)
        return [np.frombuffer(allocate(nbytes), np.uint8) for nbytes in (3, 70)]

    first, second = parts()
    assert (len(first), len(second)) == (3, 70)
    assert second.ctypes.data - first.ctypes.data == 64
    again = parts()
    assert [each.ctypes.data for each in again] == [first.ctypes.data, second.ctypes.data]


def test_only_the_last_table_is_kept() -> None:
    made: list[str] = []

    def make(key: str) -> Array:
        made.append(key)
        return np.zeros(1)

    workspace = Workspace()
    for key in ("a", "a", "b", "a"):
        workspace.table(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == ["a", "b", "a"]
