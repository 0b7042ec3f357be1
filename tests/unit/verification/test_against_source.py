"""A comparison of two checkpoints in memory: a changed byte is named, and progress adds up."""

import pytest
from folders import Tensors
from fused_by_hand import CONFIG, fused, source_tensors
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import detect
from streamconv.errors import Interrupted
from streamconv.system.cancellation import CancelToken
from streamconv.verification.against_source import compare
from streamconv.verification.result import (
    Difference,
    FileVerified,
    VerifyEvent,
    VerifyProgress,
    VerifyStarted,
)
from streamconv.verification.sides import Side

GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
NORM = "model.norm.weight"


def side(tensors: Tensors, layout: str | None = None, **others: bytes) -> Side:
    source = MemorySource(tensors, others, config=CONFIG)
    return Side(source, detect(source.checkpoint, default_catalog(), layout))


def events_of(output: Tensors, jobs: int = 2, **others: bytes) -> list[VerifyEvent]:
    pair = side(source_tensors(), None, vocab=b"abc"), side(output, "fused", **others)
    return list(compare(*pair, jobs=jobs, cancel=CancelToken()))


def flipped(tensors: Tensors, name: str, byte: int) -> Tensors:
    dtype, shape, data = tensors[name]
    changed = bytes([*data[:byte], data[byte] ^ 1, *data[byte + 1 :]])
    return {**tensors, name: (dtype, shape, changed)}


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_bytes_are_compared(jobs: int) -> None:
    output = fused(source_tensors())
    found = events_of(output, jobs, vocab=b"abc")
    total = sum(len(data) for _, _, data in output.values())
    assert found[0] == VerifyStarted(total + 3, ("model.safetensors",))
    assert not any(isinstance(event, Difference) for event in found)
    assert sum(e.nbytes for e in found if isinstance(e, VerifyProgress)) == total + 3
    verified = {e.name: (e.nbytes, e.total) for e in found if isinstance(e, FileVerified)}
    assert verified == {"model.safetensors": (total, total), "vocab": (3, 3)}


@pytest.mark.parametrize(
    ("name", "byte", "expected"),
    [
        (NORM, 3, Difference(NORM, f"differs from {NORM} of the source (1 of 4 elements)")),
        (
            GATE_UP,
            2 * 2 * 6 * 4,
            Difference(
                GATE_UP,
                "differs from model.layers.1.mlp.experts.1.gate_proj.weight of the source "
                "(1 of 48 elements)",
                1,
                "gate_proj",
            ),
        ),
        (
            GATE_UP,
            -1,
            Difference(
                GATE_UP,
                "differs from model.layers.1.mlp.experts.2.up_proj.weight of the source "
                "(1 of 48 elements)",
                2,
                "up_proj",
            ),
        ),
    ],
)
def test_a_byte_that_differs_is_named(name: str, byte: int, expected: Difference) -> None:
    """By tensor, expert and projection, and how much of it differs."""
    output = fused(source_tensors())
    byte %= len(output[name][2])
    found = events_of(flipped(output, name, byte), vocab=b"abc")
    assert [event for event in found if isinstance(event, Difference)] == [expected]


def test_a_file_that_differs() -> None:
    found = events_of(fused(source_tensors()), vocab=b"abd")
    (difference,) = [event for event in found if isinstance(event, Difference)]
    assert (difference.subject, difference.detail) == (
        "vocab",
        "differs from the source's file of that name",
    )


def test_a_canceled_comparison() -> None:
    cancel = CancelToken()
    cancel.set()
    pair = side(source_tensors()), side(fused(source_tensors()), "fused")
    with pytest.raises(Interrupted):
        list(compare(*pair, jobs=1, cancel=cancel))
