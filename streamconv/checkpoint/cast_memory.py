"""The memory that casts take: of each worker, and of all workers together."""

import math
from collections.abc import Iterable

from streamconv.checkpoint.encoding import (
    KEPT_SCALES_BYTES,
    again_bytes,
    encoding_again_bytes,
    encoding_bytes,
    view_bytes,
)
from streamconv.checkpoint.types import Cast, TensorInfo

PORTION_BYTES = 2**20
"""Bytes read at once of a tensor that becomes narrower, which needs a buffer of its own."""
TABLE_BYTES = 2**19
"""Bytes of the lookup tables of a cast from one dtype to another."""
CHUNKS_BYTES = 3 * 2**18
"""Bytes of the chunks of such a cast, which pass through the processor's cache."""
CAST_RATIO = 8
"""Bytes that such a cast takes for each byte of a tensor that is smaller than a portion."""
SCRATCH_BYTES = 3 * 2**20
"""Further bytes of a worker that dequantizes: tiles in the cache, lookup tables."""


def buffer_bytes(
    inputs: Iterable[TensorInfo], concurrent_inputs: int, *, again: bool = False
) -> int:
    """Return the bytes that one worker needs to cast any of `inputs`, in addition to its output.

    The scales and other companions of each are in memory as they are stored. Codes that cannot be
    read row by row are in memory for one matrix.

    Args:
        inputs: The tensors that are read.
        concurrent_inputs: How many of them are read at a time.
        again: True for a thread of a verification, which computes the same in another way.
    """
    most = 0
    for info in inputs:
        if info.cast is not None:
            decoding = info.cast.decoding
            needed = 0 if decoding is None else SCRATCH_BYTES + PORTION_BYTES
            if info.cast.is_of_dtype:
                largest = max(info.nbytes, info.cast.stored.nbytes)
                # a result that is no narrower is made in its own buffer
                portion = PORTION_BYTES if info.nbytes < info.cast.stored.nbytes else 0
                needed = TABLE_BYTES + min(CHUNKS_BYTES + portion, CAST_RATIO * largest)
            if decoding is not None:
                needed += concurrent_inputs * decoding.companion_bytes + decoding.scratch_bytes
            most = max(most, needed + _encoding_bytes(info, info.cast, again))
    return most


def kept_scales_bytes(inputs: Iterable[TensorInfo]) -> int:
    """Return the bytes of computed scales that all workers together keep until they are written."""
    scales = 0
    for info in inputs:
        encoding = info.cast.encoding if info.cast is not None else None
        if encoding is not None and encoding.role not in ("codes", "shape"):
            scales += info.nbytes
    return min(KEPT_SCALES_BYTES, scales)


def _encoding_bytes(info: TensorInfo, cast: Cast, again: bool) -> int:
    """Return the bytes that one worker needs to quantize a weight, or to cut it out of a tensor."""
    encoding, dtype = cast.encoding, cast.stored.dtype
    if encoding is None:
        own = view_bytes(cast.view, info.shape, info.dtype)
        if own:
            own += again_bytes(math.prod(info.shape)) if again else info.nbytes
    else:
        needed = encoding_again_bytes if again else encoding_bytes
        own = needed(encoding, cast.view, dtype)
    return own + (buffer_bytes([cast.stored], 1, again=again) if cast.stored.cast else 0)
