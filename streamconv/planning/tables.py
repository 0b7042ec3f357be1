"""Project what the tensors of a run add to what its plan holds: a row of each in every table.

Tables are headers, index and manifest while a run writes, or later what `--sha256` and `--verify`
take to read the result. The figures are measured growths of the process.
"""

from dataclasses import dataclass

from streamconv.formats.dcp_metadata_limits import reading_bytes

INPUT_BYTES = 80
"""What a run adds for each tensor that it reads, unless its outputs take more."""
OUTPUT_BYTES = {"safetensors": 60, "dcp": 500}
"""What it adds for each tensor that it writes, by format: its place in headers or `.metadata`."""
CHUNK_BYTES = 330
"""What it adds for each chunk of a DCP that it writes."""
INDEX_BYTES = 250
"""What it adds for each tensor that it writes if there is an index."""
CAST_BYTES = 470
"""What it adds for each tensor that it reads if dtypes are cast: the casts are listed."""

VERIFY_INPUT_BYTES = 440
"""What `--verify` takes, when the rest is done, for each tensor of the source."""
VERIFY_OUTPUT_BYTES = 530
"""What it takes for each tensor of the result."""
VERIFY_CHUNK_BYTES = 300
"""What it takes for each chunk, when the `.metadata` of the result has been read."""
VERIFY_MODULE_BYTES = 1100
"""What it takes for each module with experts, of both sides."""
VERIFY_CAST_BYTES = 130
"""What it takes for each tensor of the source if dtypes are cast."""
RUN_LEFT_BYTES = {"tensor": 150, "chunk": 330}
"""What a run that writes a DCP leaves for each tensor and chunk, in use or in small parts."""
VERIFY_OVERHEAD_BYTES = 6 * 10**6
"""Growth of the interpreter when it verifies."""
VERIFY_BLOCK_BYTES = 4 * 2**20
"""A block that each thread of a verification holds of either side, as far as tensors fill it."""
HUGE_PAGE_BYTES = 2 * 2**20
"""Of a huge page: a large block takes whole ones."""
SHA256_BYTES = 16 * 2**20
"""Blocks of the files that `--sha256` reads back, as far as the files fill them. A verification
takes them in addition to its own: what its threads have freed is not always given back."""
SHA256_OVERHEAD_BYTES = 4 * 10**6
"""Growth of the interpreter when it reads them, next to what the workers have left."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Bytes for the tensors of a run, which it adds to what the plan holds."""

    run: int = 0
    verify: int | None = None
    """Those of its verification, which follows; None without one."""
    verify_block: int = VERIFY_BLOCK_BYTES
    """Bytes that a thread of the verification holds at a time of either side."""
    hashing: int = 0
    """Those of `--sha256`, which follows when the buffers of the workers are free."""


NO_TABLES = Tables()
"""Those of no tensors."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of everything a conversion has that takes memory."""

    inputs: int
    """Tensors that are read."""
    outputs: int
    """Tensors that are written."""
    modules: int = 0
    """Modules with experts, or other groups of tensors."""
    shards: int = 1
    """Output files with tensors."""
    chunks: int = 0
    """Chunks of the DCP that is written."""
    largest: int = VERIFY_BLOCK_BYTES
    """Bytes of the largest tensor that is read."""
    source_metadata: int = 0
    """Bytes that reading the `.metadata` of the source takes."""
    kept: int = 0
    """Bytes that all workers together keep of what they have made until it is written."""


def tables_bytes(
    counts: Counts,
    file_format: str,
    *,
    casts: bool = False,
    verify: bool = False,
    hashed: int = 0,
) -> Tables:
    """Return the bytes that a run adds for its tensors to what the plan holds.

    Reading and writing the closing files have their peaks one after another, so the larger one
    counts. So has the verification: it reads what describes the result, then what describes the
    source, then compares.

    Args:
        counts: What the conversion has.
        file_format: Format of the output.
        casts: True if dtypes are cast.
        verify: True if the result is verified in the same process.
        hashed: Bytes of the files that are read back for their SHA-256.
    """
    is_dcp = file_format == "dcp"
    inputs, outputs, chunks = counts.inputs, counts.outputs, counts.chunks
    output = INDEX_BYTES if counts.shards > 1 and not is_dcp else OUTPUT_BYTES[file_format]
    listed = inputs * CAST_BYTES if casts else 0
    closing = outputs * output + chunks * CHUNK_BYTES + listed
    result = outputs * VERIFY_OUTPUT_BYTES + chunks * VERIFY_CHUNK_BYTES
    source = inputs * (VERIFY_INPUT_BYTES + VERIFY_CAST_BYTES * casts)
    held = max(
        reading_bytes(outputs, chunks) if is_dcp else 0,
        result + max(source + counts.modules * VERIFY_MODULE_BYTES, counts.source_metadata),
    )
    if is_dcp:
        held += outputs * RUN_LEFT_BYTES["tensor"] + chunks * RUN_LEFT_BYTES["chunk"]
    blocks = min(SHA256_BYTES, hashed)
    return Tables(
        max(inputs * INPUT_BYTES + listed, closing) + counts.kept,
        VERIFY_OVERHEAD_BYTES + held + counts.kept + blocks if verify else None,
        _block_bytes(counts.largest),
        SHA256_OVERHEAD_BYTES + closing + blocks if hashed else 0,
    )


def _block_bytes(largest: int) -> int:
    """Return the bytes of a block of a verification: of two tensors, gate and up, at most."""
    return in_pages(min(VERIFY_BLOCK_BYTES, 2 * largest))


def in_pages(nbytes: int) -> int:
    """Return the bytes that a buffer takes, which has huge pages if it is at least as large."""
    return nbytes if nbytes < HUGE_PAGE_BYTES else -(-nbytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
