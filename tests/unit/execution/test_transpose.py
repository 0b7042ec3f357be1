"""Panels of a rearranged unit, compared with numpy's own transpose, byte by byte."""

import math
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.execution.transpose import (
    NARROW_BYTES,
    PANEL_BYTES,
    PANEL_ROWS,
    PanelMemory,
    Transposer,
)
from streamconv.planning.memory import SCRATCH_BYTES, STAGING_BYTES
from streamconv.planning.plan_rearrangement import plan_rearrangement
from streamconv.planning.rearrangement import Rearrangement

CATALOG = default_catalog()

Array = npt.NDArray[Any]
UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
GUARD = 16
"""Bytes around a panel that it must not change."""


def noise(nbytes: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def described(memory: Array, view: Array) -> Rearrangement:
    """The unit that is `view` of an array of bytes, as a plan describes it."""
    size = view.itemsize
    begin = view.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
    strides = tuple(stride // size for stride in view.strides)
    return Rearrangement(1, 1, False, 0, 0, memory.nbytes, begin // size, view.shape, strides, size)


def rearranged(transposer: Transposer) -> list[bytes]:
    """The panels, each written to an address that is no multiple of anything."""
    results = []
    for panel in transposer.panels:
        room = np.full(panel.nbytes + 2 * GUARD + 1, 0xA5, np.uint8)
        inner = slice(GUARD + 1, GUARD + 1 + panel.nbytes)
        panel.write_into(room.data[inner])
        assert (room[: inner.start] == 0xA5).all()
        assert (room[inner.stop :] == 0xA5).all()
        results.append(room[inner].tobytes())
    return results


def check(memory: Array, view: Array) -> list[bytes]:
    """All panels in the order of the output, and nothing but them."""
    how = described(memory, view)
    before = memory.tobytes()
    panels = rearranged(Transposer(how, memory.data, PanelMemory()))
    assert b"".join(panels) == view.tobytes()
    assert sum(map(len, panels)) == how.unit_bytes
    assert memory.tobytes() == before
    return panels


@st.composite
def selections(draw: st.DrawFn) -> tuple[Array, Array]:
    """Bytes, and two or three axes of a part of them in some order; steps and starts included."""
    itemsize = draw(st.sampled_from(sorted(UINT)))
    rank = draw(st.integers(2, 3))
    longest = 400 if rank == 2 else 140
    extents = [draw(st.integers(1, longest)) for _ in range(rank)]
    extents[draw(st.integers(0, rank - 1))] = draw(st.integers(1, 9))
    memory = noise(math.prod(extents) * itemsize, draw(st.integers(0, 2**20)))
    whole = memory.view(UINT[itemsize]).reshape(extents)
    parts = []
    for extent in extents:
        begin = draw(st.integers(0, extent - 1))
        end = draw(st.integers(begin + 1, extent))
        parts.append(slice(begin, end, draw(st.integers(1, 3))))
    order = draw(st.permutations(range(rank)))
    return memory, whole[tuple(parts)].transpose(order)


@settings(deadline=None, max_examples=250)
@given(selections())
def test_any_order_of_any_part(selection: tuple[Array, Array]) -> None:
    """Every order of axes, width of elements and selection, whatever the rows are multiples of."""
    check(*selection)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 3 * PANEL_ROWS + 40),
    width=st.integers(1, 40),
    itemsize=st.sampled_from(sorted(UINT)),
)
@example(rows=PANEL_ROWS, width=3, itemsize=2)
@example(rows=PANEL_ROWS + 1, width=3, itemsize=2)
@example(rows=PANEL_ROWS - 1, width=3, itemsize=2)
@example(rows=NARROW_BYTES // 2, width=3, itemsize=2)
@example(rows=NARROW_BYTES // 2 + 1, width=3, itemsize=2)
@example(rows=1, width=1, itemsize=8)
def test_rows_about_narrow_and_full_panels(rows: int, width: int, itemsize: int) -> None:
    """A transpose of columns of a wider matrix, one row more or less than a panel has."""
    memory = noise(width * (rows + 5) * itemsize, rows)
    check(memory, memory.view(UINT[itemsize]).reshape(width, rows + 5)[:, 3 : rows + 3].T)


@pytest.mark.parametrize(
    ("shape", "order", "itemsize"),
    [
        ((2500, 451), (1, 0), 2),
        ((40_000, 37), (1, 0), 1),
        ((9000, 75), (1, 0), 8),
        ((33, 2, 16_500), (2, 0, 1), 2),
        ((5, 33_000, 3), (2, 0, 1), 2),
        ((3, 300, 700), (1, 2, 0), 4),
        ((70_000, 3, 2), (2, 1, 0), 2),
        ((2, 900, 333), (2, 1, 0), 2),
    ],
)
def test_beyond_one_panel(shape: tuple[int, ...], order: tuple[int, ...], itemsize: int) -> None:
    """Units of several megabytes come in panels, none of them larger than the staging needs."""
    memory = noise(math.prod(shape) * itemsize)
    panels = check(memory, memory.view(UINT[itemsize]).reshape(shape).transpose(order))
    assert len(panels) > 1
    assert max(map(len, panels)) <= PANEL_BYTES <= STAGING_BYTES


def test_one_dimension_with_gaps() -> None:
    """What is left when a bias is taken out of an interleaved one."""
    for itemsize, dtype in UINT.items():
        memory = noise(2 * 333 * itemsize)
        check(memory, memory.view(dtype)[1::2])


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    itemsize=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 1000),
)
def test_unusual_values_survive(shape: tuple[int, int], itemsize: int, seed: int) -> None:
    """NaNs keep sign and payload, signalling ones stay so, -0 stays -0."""
    odd = {
        2: [0x7FC1, 0x7FA1, 0xFF81, 0x8000, 0x7C01, 0xFE55],
        4: [0x7FC00001, 0x7F800001, 0xFFBFFFFF, 0x80000000],
        8: [0x7FF8000000000001, 0x7FF0000000000001, 0xFFF7FFFFFFFFFFFF, 0x8000000000000000],
    }[itemsize]
    values = np.random.default_rng(seed).choice(np.array(odd, UINT[itemsize]), shape)
    memory = values.reshape(-1).view(np.uint8)
    check(memory, values.T)


def test_used_again_for_every_unit() -> None:
    """Nothing of one unit is left over in the next that is read to its place."""
    units = noise(3 * 50 * 70 * 2).view(np.uint16).reshape(3, 50, 70)
    memory = np.empty(50 * 70 * 2, np.uint8)
    view = memory.view(np.uint16).reshape(50, 70).T
    transposer = Transposer(described(memory, view), memory.data, PanelMemory())
    for unit in (0, 2, 1, 2):
        memory[:] = units[unit].reshape(-1).view(np.uint8)
        assert b"".join(rearranged(transposer)) == units[unit].T.tobytes()


@pytest.mark.parametrize("target", ["fused-transposed", "fused-interleaved"])
@pytest.mark.parametrize(("i", "h"), [(768, 2048), (2048, 7168), (1408, 4096)])
def test_what_a_worker_needs_besides_its_buffers(target: str, i: int, h: int) -> None:
    """Panels of gate_up and down together stay within what the plan counts for a worker."""
    sizes = {"e": 4, "p": 2, "d": 1, "i": i, "h": h}
    hows = [
        plan_rearrangement(
            CATALOG.layouts["per-expert"].templates[weight],
            CATALOG.layouts[target].templates[weight],
            sizes,
            {},
            16,
        )
        for weight in ("gate_up", "down")
    ]
    source = memoryview(bytearray(max(how.buffer_bytes for how in hows)))
    tracemalloc.start()
    try:
        panels = PanelMemory()
        transposers = [Transposer(how, source, panels) for how in hows]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(transposers) == 2
    assert held <= SCRATCH_BYTES
