"""Regions are compared bit for bit, in memory, with numpy as the oracle."""

import numpy as np
import pytest
from memory_source import MemorySource

from streamconv.verification import compare
from streamconv.verification.compare import Comparer
from streamconv.verification.regions import Region, Run

SIZES = {"p": 2, "i": 6, "h": 5}


def region_of(source: MemorySource, axes: str) -> Region:
    info = source.checkpoint.tensors["w"]
    shape = tuple(SIZES[axis] for axis in axes)
    return Region((Run(info, 0, info.nbytes),), tuple(axes), shape, 16)


def stored(array: "np.typing.NDArray[np.uint16]") -> MemorySource:
    return MemorySource({"w": ("BF16", array.shape, array.tobytes())})


@pytest.mark.parametrize(("block", "of_source"), [(64, 1), (64, 4), (2**22, 4)])
@pytest.mark.parametrize("axes", ["pih", "hpi", "ihp", "hip"])
def test_one_element_that_differs_is_found(
    axes: str, block: int, of_source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is, in the same order of axes and in others, in one block and in many."""
    monkeypatch.setattr(compare, "SOURCE_BLOCK_BYTES", block)
    monkeypatch.setattr(compare, "OUTPUT_BLOCK_BYTES", block // of_source)
    values = np.arange(60, dtype=np.uint16).reshape(2, 6, 5)
    order = ["pih".index(axis) for axis in axes]
    source = stored(values)
    for at in range(0, 60, 7):
        output_values = values.transpose(order).copy()
        output = stored(output_values)
        regions = region_of(source, "pih"), region_of(output, axes)
        assert Comparer(source, output).compare(*regions, "p") is None
        output_values.reshape(-1)[at] ^= 1
        output = stored(output_values)
        unequal = Comparer(source, output).compare(*regions, "p")
        position = np.unravel_index(at, output_values.shape)[axes.index("p")]
        assert unequal is not None
        assert (unequal.differing, unequal.of, unequal.first) == (1, 60, at)
        assert unequal.positions == (position,)


def test_memory_is_as_large_as_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a block of 4 MiB for each side; taken once for regions of one size."""
    taken: list[int] = []

    def noted(nbytes: int) -> memoryview:
        taken.append(nbytes)
        return memoryview(bytearray(nbytes))

    monkeypatch.setattr(compare, "new_buffer", noted)
    source = stored(np.arange(60, dtype=np.uint16).reshape(2, 6, 5))
    comparer = Comparer(source, source)
    for _ in range(3):
        region = region_of(source, "pih")
        assert comparer.compare(region, region) is None
    assert sorted(taken) == [0, 0, 120, 120]
