"""Project the memory that a run adds to its plan for each tensor: a row in every table.

Tables are headers, index and manifest while a run writes, or later the tables of `--sha256` and
`--verify`, which read the result. The figures are measured growths of the process, in bytes.
"""

from dataclasses import dataclass

from streamconv.formats.dcp_metadata_limits import reading_bytes
from streamconv.planning.compared_regions import Regions
from streamconv.units import HUGE_PAGE_BYTES

INPUT_BYTES = 90
"""What a run adds for each tensor that it reads, unless its outputs take more."""
RUN_OUTPUT_BYTES, RUN_CHUNK_BYTES = 60, 120
"""What it adds for each tensor that it writes and each chunk of a DCP, until all is written."""
OUTPUT_BYTES = {"safetensors": 60, "dcp": 450}
"""What it adds at its end for each tensor that it writes, by format, to list it."""
CHUNK_BYTES = 300
"""The same for each chunk of a DCP."""
CLOSING_OVERHEAD_BYTES = {"safetensors": 0, "dcp": 3 * 10**6}
"""Growth of the interpreter at the end of a run, by format: a `.metadata` is pickled."""
INDEX_BYTES = 330
"""The same for each tensor that it writes if there is an index."""
CAST_BYTES = 60
"""The same for each tensor that it reads if dtypes are cast: the casts are listed."""
QUANTIZE_BYTES = 120
"""What it adds in addition for each of them if weights are quantized."""
QUANTIZE_OVERHEAD_BYTES = 3 * 10**6
"""Growth of the interpreter when it quantizes: tables of numbers, buffers of numpy."""

PIECE_ROW_BYTES = 150
"""What it adds for each piece at its end: the row in the journals, and in the manifest."""
SHARD_PIECE_BYTES = 240
"""What it adds for each piece of the largest shard: its digest, and the row when it is finished."""
SHARD_ROW_BYTES = 200
"""What it adds for each of them at its end, as journals and manifest are made a shard at a time."""

VERIFY_INPUT_BYTES = 580
"""What `--verify` takes for each tensor of the source, after the run has written everything."""
VERIFY_OUTPUT_BYTES = {"safetensors": 560, "dcp": 650}
"""What it takes for each tensor of the result, by its format."""
VERIFY_INDEX_BYTES = 720
"""What it takes for each tensor of the result while it reads the index of it, if there is one, with
what the run has left. Headers are read later."""
VERIFY_CHUNK_BYTES = 300
"""What it takes for each chunk, when the `.metadata` of the result has been read."""
VERIFY_MODULE_BYTES = {"safetensors": 300, "dcp": 1100}
"""What it takes for each module with experts, of both sides, by the format of the result."""
VERIFY_CAST_BYTES = 130
"""What it takes for each tensor of the source if dtypes are cast."""
VERIFY_ENCODING_BYTES = 70
"""What it takes in addition for each of them if weights are quantized."""
VERIFY_QUANTIZE_BYTES = 3 * 10**6
"""Growth of the interpreter when it quantizes again to verify."""
RUN_LEFT_BYTES = {"tensor": 150, "chunk": 330}
"""What a run that writes a DCP does not give back for each tensor and chunk: it is fragmented."""
VERIFY_OVERHEAD_BYTES = 7_500_000
"""Growth of the interpreter when it verifies: 4 to 7 MB, as more of a library is mapped at once if
the page cache holds it in large pieces."""
SHA256_BYTES = 16 * 2**20
"""Blocks of the files that `--sha256` reads back; smaller files take less. A verification begins
after they have been given back to the system."""
SHA256_OVERHEAD_BYTES = 4 * 10**6
"""Growth of the interpreter when `--sha256` reads files, in addition to what the workers left."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Bytes that a run adds to its plan for its tensors, in each of its phases."""

    run: int = 0
    """While the workers write."""
    verify: int | None = None
    """While the verification compares, which follows; None if there is none."""
    regions: Regions = Regions()  # noqa: RUF009 - frozen
    """What the verification compares."""
    hashing: int = 0
    """During `--sha256`, which follows when the buffers of the workers are free."""
    closing: int = 0
    """While the index, the manifest or `.metadata` is written, at the end."""
    hash_blocks: int = 0
    """Bytes of `hashing` that are freed before the verification."""
    reading: int = 0
    """While the verification reads the metadata of both sides, before its threads start."""


NO_TABLES = Tables()
"""The tables of a run without tensors."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers and sizes that the tables of a conversion depend on."""

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
    pieces: int = 0
    """Pieces of all output files."""
    shard_pieces: int = 0
    """Pieces of the output file that has most of them."""
    regions: Regions = Regions()  # noqa: RUF009 - frozen
    """What a verification compares."""
    source_metadata: int = 0
    """Bytes that reading the `.metadata` of the source takes."""
    kept: int = 0
    """Bytes of results that all workers together keep until they are written."""


def tables_bytes(
    counts: Counts,
    file_format: str,
    *,
    casts: bool = False,
    quantizes: bool = False,
    verify: bool = False,
    hashed: int = 0,
) -> Tables:
    """Return the bytes that a run adds to its plan for its tensors.

    Moving the tensors and writing the closing files have their peaks one after the other, so the
    larger one counts. The same is true of the steps of the verification: it reads the headers of
    the result, then those of the source, then compares.

    Args:
        counts: Numbers and sizes of the conversion.
        file_format: Format of the output.
        casts: True if dtypes are cast.
        quantizes: True if weights are quantized, which is a cast.
        verify: True if the result is verified in the same process.
        hashed: Bytes of the files that are read back for their SHA-256.
    """
    is_dcp = file_format == "dcp"
    inputs, outputs, chunks = counts.inputs, counts.outputs, counts.chunks
    has_index = counts.shards > 1 and not is_dcp
    output = INDEX_BYTES if has_index else OUTPUT_BYTES[file_format]
    overhead = QUANTIZE_OVERHEAD_BYTES * quantizes
    running = max(inputs * INPUT_BYTES + chunks * RUN_CHUNK_BYTES, outputs * RUN_OUTPUT_BYTES)
    listed = inputs * (CAST_BYTES + QUANTIZE_BYTES * quantizes) if casts else 0
    closing = outputs * output + chunks * CHUNK_BYTES + listed + overhead
    closing += CLOSING_OVERHEAD_BYTES[file_format]
    result = outputs * VERIFY_OUTPUT_BYTES[file_format] + chunks * VERIFY_CHUNK_BYTES
    encoding = VERIFY_ENCODING_BYTES * quantizes
    source = inputs * (VERIFY_INPUT_BYTES + VERIFY_CAST_BYTES * casts + encoding)
    reading = max(
        reading_bytes(outputs, chunks) * is_dcp,
        outputs * VERIFY_INDEX_BYTES * has_index,
        result + counts.source_metadata,
    )
    comparing = result + source + counts.modules * VERIFY_MODULE_BYTES[file_format]
    again = VERIFY_QUANTIZE_BYTES * quantizes
    blocks = min(SHA256_BYTES, hashed)
    rows = counts.pieces * PIECE_ROW_BYTES
    digests = counts.shard_pieces * SHARD_PIECE_BYTES
    before = VERIFY_OVERHEAD_BYTES + counts.kept + rows
    if is_dcp:
        before += outputs * RUN_LEFT_BYTES["tensor"] + chunks * RUN_LEFT_BYTES["chunk"]
    return Tables(
        running + overhead + counts.kept + digests,
        before + again + comparing if verify else None,
        counts.regions,
        SHA256_OVERHEAD_BYTES + running + blocks + rows if hashed else 0,
        closing + rows + counts.shard_pieces * SHARD_ROW_BYTES,
        blocks,
        before + reading if verify else 0,
    )


def in_pages(nbytes: int) -> int:
    """Return the bytes that a buffer takes: whole huge pages, if it is at least that large."""
    return nbytes if nbytes < HUGE_PAGE_BYTES else -(-nbytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
