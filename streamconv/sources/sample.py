"""A digest of some of a source's weights, by which a run that goes on notices that they changed.

A training run that overwrites its last checkpoint leaves the same headers and sizes. It changes
nearly every weight, so a sample is enough.
"""

import itertools
from collections.abc import Iterator

from streamconv.checkpoint.types import Checkpoint
from streamconv.sources.base import ByteRange, Read, Source

SAMPLES, SAMPLE_BYTES = 512, 1024
"""The most places that are read, evenly spread over all bytes, and the bytes of each."""
BATCH_READS = 64
"""Reads that are asked for at once."""


def sampled_digest(source: Source) -> str:
    """Return the XXH3-128 of a sample of a source's weights, in hexadecimal.

    Empty if no file is on this machine. Those of a server are not sampled: each sample would be a
    request, and a commit does not change.

    Raises:
        SourceChanged, BadCheckpoint, IOFailed, Interrupted: As `read` of the source does.
    """
    from xxhash import xxh3_128

    digest, nbytes = xxh3_128(), 0
    memory = memoryview(bytearray(BATCH_READS * SAMPLE_BYTES))
    places = _sample(source.checkpoint)
    while batch := list(itertools.islice(places, BATCH_READS)):
        reads, end = [], 0
        for place in batch:
            begin, end = end, end + place.end - place.begin
            reads.append(Read(place.info, place.begin, memory[begin:end]))
        source.read(reads)
        digest.update(memory[:end])
        nbytes += end
    return str(digest.hexdigest()) if nbytes else ""


def _sample(checkpoint: Checkpoint) -> Iterator[ByteRange]:
    """Yield the ranges that are read, as if all tensors were one after the other."""
    if checkpoint.revision is not None:
        return
    step = max(checkpoint.total_bytes // SAMPLES, SAMPLE_BYTES)
    window = tensor = 0
    for info in checkpoint.tensors.values():
        while window < tensor + info.nbytes:
            begin, end = max(window - tensor, 0), window + SAMPLE_BYTES - tensor
            if info.file not in checkpoint.remote:
                yield ByteRange(info, begin, min(end, info.nbytes))
            if end > info.nbytes:
                break  # the next tensor has the rest
            window += step
        tensor += info.nbytes
