"""What the tensors of a run add to what its plan holds."""

from dataclasses import replace

from streamconv.planning.compared_regions import Regions
from streamconv.planning.tables import Counts, tables_bytes


def test_what_is_read_to_verify_counts() -> None:
    """Chunks of the result, `.metadata` of the source, modules; the regions are those counted."""
    few = Counts(inputs=10, outputs=10, regions=Regions(2, (), (1000, 10)))
    least = tables_bytes(few, "safetensors", verify=True)
    assert least.verify is not None
    assert least.regions == few.regions
    assert tables_bytes(few, "safetensors").verify is None
    for file_format, more in (
        ("dcp", replace(few, chunks=10**5)),
        ("dcp", replace(few, source_metadata=10**8)),
        ("safetensors", replace(few, source_metadata=10**8)),
        ("safetensors", replace(few, modules=10**5)),
        ("safetensors", replace(few, inputs=10**5)),
        ("safetensors", replace(few, outputs=10**5)),
        ("safetensors", replace(few, outputs=5 * 10**4, shards=2)),
    ):
        tables = tables_bytes(more, file_format, verify=True)
        assert max(tables.verify or 0, tables.reading) > least.verify + 2 * 10**7
    assert tables_bytes(replace(few, source_metadata=10**8), "dcp").reading == 0


def test_the_rows_of_pieces_count_when_the_run_has_ended() -> None:
    """A run of terabytes has hundreds of thousands of them, and no buffers any more."""
    few, many = (
        tables_bytes(Counts(10, 10, pieces=n), "safetensors", verify=True, hashed=10**9)
        for n in (1, 250_001)
    )
    assert many.run == few.run
    for phase in ("closing", "hashing", "verify"):
        assert 10**7 < getattr(many, phase) - getattr(few, phase) < 10**8


def test_the_digests_of_the_largest_shard_count_while_it_is_written() -> None:
    """And when its rows are read and written again at the end. No other shard is open as long."""
    few, many = (
        tables_bytes(Counts(10, 10, pieces=250_001, shard_pieces=n), "safetensors")
        for n in (1, 100_001)
    )
    for phase in ("run", "closing"):
        assert 10**7 < getattr(many, phase) - getattr(few, phase) < 4 * 10**7


def test_scales_that_are_kept_count_once() -> None:
    """In the run and in its verification, for all workers together."""
    plain, kept = (
        tables_bytes(Counts(inputs=10, outputs=20, kept=n), "safetensors", verify=True)
        for n in (0, 5000)
    )
    assert kept.run == plain.run + 5000
    assert (kept.verify or 0) == (plain.verify or 0) + 5000


def test_the_blocks_of_hashing_are_gone_when_a_verification_begins() -> None:
    """They count as far as the files fill them, and only while these are hashed."""
    counts = Counts(inputs=10, outputs=10)
    small, large = (
        tables_bytes(counts, "safetensors", verify=True, hashed=n) for n in (1000, 10**9)
    )
    assert large.hashing - small.hashing == 16 * 2**20 - 1000
    assert (small.hash_blocks, large.hash_blocks) == (1000, 16 * 2**20)
    assert large.verify == small.verify == tables_bytes(counts, "safetensors", verify=True).verify


def test_tensors_that_are_quantized_count_more() -> None:
    """Their casts are listed with the shapes that they have."""
    counts = Counts(inputs=10**5, outputs=10**5)
    cast, quantized = (
        tables_bytes(counts, "safetensors", casts=True, quantizes=does, verify=True)
        for does in (False, True)
    )
    assert quantized.closing > cast.closing + 5 * 10**6
    assert quantized.run > cast.run + 10**6
    assert (quantized.verify or 0) >= (cast.verify or 0) + 10**6
