"""The memory of casts grows with what is cast, up to the size of portions and tiles."""

from streamconv.checkpoint.cast_memory import (
    CAST_RATIO,
    CHUNKS_BYTES,
    PORTION_BYTES,
    TABLE_BYTES,
    buffer_bytes,
    kept_scales_bytes,
)
from streamconv.checkpoint.encoding import (
    AGAIN_LEAST_BYTES,
    KEPT_SCALES_BYTES,
    Encoding,
    again_bytes,
)
from streamconv.checkpoint.types import Cast, TensorInfo


def tensor(elements: int, dtype: str, width: int, cast: Cast | None = None) -> TensorInfo:
    return TensorInfo("a", dtype, (elements,), "", 0, elements * width, cast)


def cast(elements: int, dtype: str, width: int, stored: str, stored_width: int) -> TensorInfo:
    return tensor(elements, dtype, width, Cast(tensor(elements, stored, stored_width)))


def scales(nbytes: int, role: str) -> TensorInfo:
    encoding = Encoding("fp8-block", None, (1, 1), (1, 1), "BF16", "F32", role)
    return tensor(nbytes, "U8", 1, Cast(tensor(1, "BF16", 2), encoding=encoding))


def test_without_a_cast_no_memory_is_needed() -> None:
    assert buffer_bytes([tensor(10, "BF16", 2)], 1) == 0


def test_a_small_tensor_takes_little_and_a_large_one_no_more_than_its_portions() -> None:
    """A result that is narrower needs a portion of its own in addition."""
    small, wider, narrower = (
        buffer_bytes([each], 1)
        for each in (
            cast(10, "F32", 4, "BF16", 2),
            cast(10**9, "F32", 4, "BF16", 2),
            cast(10**9, "BF16", 2, "F32", 4),
        )
    )
    assert small == TABLE_BYTES + 40 * CAST_RATIO
    assert wider == TABLE_BYTES + CHUNKS_BYTES
    assert narrower == TABLE_BYTES + CHUNKS_BYTES + PORTION_BYTES


def test_the_largest_need_counts() -> None:
    small, large = cast(10, "F32", 4, "BF16", 2), cast(10**9, "F32", 4, "BF16", 2)
    assert buffer_bytes([small, large, small], 1) == buffer_bytes([large], 1)


def test_a_verification_needs_other_memory_to_quantize_again() -> None:
    few = [scales(4, "scale")]
    assert AGAIN_LEAST_BYTES < buffer_bytes(few, 1, again=True) < buffer_bytes(few, 1)
    assert again_bytes(10) < AGAIN_LEAST_BYTES + 10**4
    assert 10**6 < again_bytes(10**6) == again_bytes(10**9) < again_bytes(10**9, 10**5)


def test_only_scales_are_kept_and_no_more_than_there_is_room_for() -> None:
    assert kept_scales_bytes([scales(10, "scale"), scales(10, "codes"), scales(10, "shape")]) == 10
    assert kept_scales_bytes([scales(KEPT_SCALES_BYTES, "scale")] * 2) == KEPT_SCALES_BYTES
    assert kept_scales_bytes([tensor(10, "BF16", 2)]) == 0
