"""Slices are made of their parts, by one thread or by several, as numpy would make them."""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from folders import qwen_tensors
from fused_by_hand import CONFIG
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.lazy import part_reader
from streamconv.lazy.part_reader import PartReader, copied_ranges
from streamconv.planning.build import build_outputs
from streamconv.planning.slices import slice_parts
from streamconv.planning.steps import Step
from streamconv.sources.wrappers.base import SourceWrapper

EXPERTS, INTERMEDIATE, HIDDEN = 3, 6, 4
PREFIX = "model.layers.0.mlp.experts"
TENSORS = qwen_tensors(1, EXPERTS, HIDDEN, INTERMEDIATE)
Box = Sequence[tuple[int, int]]


def array(name: str) -> Any:
    _, shape, data = TENSORS[name]
    return np.frombuffer(data, np.uint16).reshape(shape)


def whole(layout: str) -> Any:
    """The fused tensor of gate and up, by a formula."""
    pairs = [
        [array(f"{PREFIX}.{expert}.{name}_proj.weight") for name in ("gate", "up")]
        for expert in range(EXPERTS)
    ]
    fused = np.stack([np.concatenate(pair) for pair in pairs])
    return fused if layout == "fused" else fused.transpose(0, 2, 1)


def step_of(source: MemorySource, layout: str) -> Step:
    outputs = build_outputs(source.checkpoint, default_catalog(), layout, {})
    return outputs.steps[outputs.steps.find(f"{PREFIX}.gate_up_proj")]


def made(layout: str, box: Box) -> Any:
    source = MemorySource(TENSORS, config=CONFIG)
    shape = [end - begin for begin, end in box]
    memory = memoryview(bytearray(2 * math.prod(shape)))
    reader = PartReader()
    try:
        parts = list(slice_parts(step_of(source, layout), box))
        reader.fill(SourceWrapper(source), parts, memory)
    finally:
        reader.close()
    return np.frombuffer(memory, np.uint16).reshape(shape)


BOXES: list[Box] = [
    [(0, 3), (0, 12), (0, 4)],
    [(1, 2), (0, 12), (0, 4)],
    [(0, 3), (5, 8), (1, 3)],
    [(2, 3), (11, 12), (3, 4)],
    [(0, 3), (4, 4), (0, 4)],
]


@pytest.mark.parametrize("share", [2**23, 16])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("layout", ["fused", "fused-transposed"])
def test_a_slice(layout: str, box: Box, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same from small shares, which several threads make."""
    monkeypatch.setattr(part_reader, "SHARE_BYTES", share)
    monkeypatch.setattr(part_reader, "default_workers", lambda: 3)
    if layout == "fused-transposed":
        box = [box[0], box[2], box[1]]
    index = tuple(slice(begin, end) for begin, end in box)
    assert np.array_equal(made(layout, box), whole(layout)[index])


def test_ranges_that_are_a_slice_if_they_are_concatenated() -> None:
    source = MemorySource(TENSORS, config=CONFIG)
    step = step_of(source, "fused")
    parts = list(slice_parts(step, [(1, 2), (3, 9), (0, 4)]))
    ranges = copied_ranges(parts, 6 * 4 * 2)
    assert [(each.info.name, each.begin, each.end) for each in ranges or ()] == [
        (f"{PREFIX}.1.gate_proj.weight", 24, 48),
        (f"{PREFIX}.1.up_proj.weight", 0, 24),
    ]


@pytest.mark.parametrize(
    ("layout", "box"),
    [
        ("fused-transposed", [(0, 1), (0, 4), (0, 12)]),
        ("fused", [(0, 1), (0, 12), (1, 3)]),
    ],
)
def test_a_slice_that_is_rearranged_has_no_ranges(layout: str, box: Box) -> None:
    source = MemorySource(TENSORS, config=CONFIG)
    parts = list(slice_parts(step_of(source, layout), box))
    nbytes = 2 * math.prod(end - begin for begin, end in box)
    assert copied_ranges(parts, nbytes) is None
    assert copied_ranges([], 8) is None


def test_errors_of_any_thread_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the threads can be ended afterward."""
    monkeypatch.setattr(part_reader, "SHARE_BYTES", 16)
    monkeypatch.setattr(part_reader, "default_workers", lambda: 3)

    def read(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(5, "a helper fails")

    monkeypatch.setattr(MemorySource, "read", read)
    with pytest.raises(OSError, match="a helper fails"):
        made("fused", [(0, 3), (0, 12), (0, 4)])
