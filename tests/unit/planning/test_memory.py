"""Memory is known before a run, and kept."""

import itertools
import re
from dataclasses import replace

import pytest
from expert_memory import hub_tensors, plan_of, source_of
from header_models import TRUE_SIZE, model, planned
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import PlanRefused
from streamconv.options import Options
from streamconv.planning.build import build_plan
from streamconv.planning.compared_regions import Regions
from streamconv.planning.memory import (
    COPY_STAGING_BYTES,
    REMOTE_STAGING_BYTES,
    STAGING_BYTES,
    Limits,
    Memory,
    fit_memory,
)
from streamconv.planning.tables import Tables
from streamconv.planning.worker_memory import PieceNeeds
from streamconv.units import HUGE_PAGE_BYTES


def fitted(allowed: int | None, jobs: int = 4, source_buffer: int = 5 * 10**6) -> Memory:
    return fit_memory(Limits(10**7, jobs, allowed), source_buffer, "the.widest")


def test_memory_without_a_limit() -> None:
    """All workers."""
    memory = fitted(None)
    assert (memory.jobs, memory.staging, memory.allowed) == (4, STAGING_BYTES, None)
    assert (memory.base, memory.source_buffer) == (10**7, 5 * 10**6)
    assert memory.peak >= 10**7 + 4 * (5 * 10**6 + STAGING_BYTES)


def test_what_the_plan_has_taken_counts() -> None:
    """The process has held it already; it is not held again."""
    assert fit_memory(Limits(10**7, seen=5 * 10**8), 0, "the.widest").peak == 5 * 10**8
    with pytest.raises(PlanRefused, match=r"takes 500 MB"):
        fit_memory(Limits(10**7, allowed=10**8, seen=5 * 10**8), 0, "the.widest")


def test_a_verification_follows_the_run() -> None:
    """So the larger one counts: of what they hold for all tensors, and for each worker."""
    limits = Limits(10**7, jobs=8)
    run = fit_memory(limits, 0, "the.widest", tables=Tables(10**6)).peak
    large = Regions(100, (), (10**9,) * 32)
    blocks = fit_memory(limits, 0, "the.widest", tables=Tables(10**6, 10**6, large)).peak
    assert run + 8 * 2**20 <= blocks <= run + 8 * 4 * 2**20
    larger = fit_memory(limits, 0, "the.widest", tables=Tables(10**9, 10**6, large)).peak
    assert larger == run + 10**9 - 10**6


def test_what_hashing_has_freed_counts_if_the_system_does_not_get_it_back() -> None:
    """As the verification follows in the same process."""
    tables = Tables(10**6, 10**8, hashing=2 * 10**7, hash_blocks=10**7)
    returned, kept = (
        fit_memory(Limits(10**7, returns_freed=does), 0, "the.widest", tables=tables).peak
        for does in (True, False)
    )
    assert kept == returned + 10**7


def test_metadata_is_read_before_a_verification_has_threads() -> None:
    limits = Limits(10**7, jobs=8)
    regions = Regions(9, (10**7,) * 9)
    compares, reads, both = (
        fit_memory(limits, 10**7, "the.widest", tables=tables).peak
        for tables in (
            Tables(0, 10**6, regions),
            Tables(0, 10**6, regions, reading=10**9),
            Tables(0, 10**6, regions, reading=10**6),
        )
    )
    assert compares == both > 8 * 10**7
    assert 10**9 < reads < compares + 10**9


def test_workers_are_as_many_as_have_something_to_do() -> None:
    """In the run, as many as are done as soon; in its verification, those with a region."""
    limits, held = Limits(10**7, jobs=8), Tables(10**6)

    def fit(count: int | None, tables: Tables = held) -> Memory:
        pieces = None if count is None else [PieceNeeds(10**8, 10**7)] * count
        return fit_memory(limits, 10**7, "the.widest", tables=tables, pieces=pieces)

    def peak(count: int | None, tables: Tables = held) -> int:
        return fit(count, tables).peak

    assert [fit(count).writers for count in (None, 16, 9, 8, 1)] == [8, 8, 5, 8, 1]
    assert fit(1).jobs == 8
    assert peak(16) == peak(8) == peak(None)
    assert peak(9) == peak(5)
    assert peak(None) - peak(2) > 6 * 10**7
    assert 10**7 < peak(2) - peak(1) < peak(None) - peak(2)
    many, two, one = (
        peak(1, Tables(10**6, 10**6, Regions(count, (10**7,) * count))) for count in (9, 2, 1)
    )
    assert many > 8 * 10**7
    assert 10**7 < two - one < (many - two) / 5 < 2 * 10**7


def test_many_small_files_fill_no_buffers() -> None:
    """Of many pieces, none is larger than a file."""
    limits = Limits(10**7, jobs=8)
    large, small, whole = (
        fit_memory(limits, 0, "the.widest", staging=REMOTE_STAGING_BYTES, largest_shard=size).peak
        for size in (None, 10**6, 10**9)
    )
    assert large == whole
    assert large - small == 8 * (REMOTE_STAGING_BYTES - HUGE_PAGE_BYTES)


def test_small_pieces_fill_no_buffers() -> None:
    """Those that need most count: each worker may make one of them."""
    limits = Limits(10**7, jobs=2)

    def peak(*pieces: PieceNeeds) -> int:
        staging = REMOTE_STAGING_BYTES
        return fit_memory(limits, 10**7, "the.widest", staging=staging, pieces=pieces).peak

    large, small = PieceNeeds(10**8, 10**7), PieceNeeds(10**5, 1000)
    both = peak(large, large)
    assert peak(large, small, large, small) == both
    saved = both - peak(large, small, small)
    assert saved > 10**7 + REMOTE_STAGING_BYTES - 2 * HUGE_PAGE_BYTES
    assert peak(PieceNeeds(10**8, None), PieceNeeds(10**8, None)) == both


def test_workers_are_given_up() -> None:
    """With less and less memory: never more than is allowed, never fewer than is needed."""
    chosen = []
    for allowed in range(fitted(None).peak, 0, -100_000):
        try:
            memory = fitted(allowed)
        except PlanRefused:
            break
        assert memory.peak <= allowed == memory.allowed
        chosen.append(memory.jobs)
    assert [jobs for jobs, _ in itertools.groupby(chosen)] == [4, 3, 2, 1]


@settings(deadline=None, max_examples=100)
@given(
    jobs=st.integers(1, 9),
    source_buffer=st.integers(0, 10**9),
    allowed=st.integers(1, 3 * 10**9),
)
def test_memory_is_kept_or_refused(jobs: int, source_buffer: int, allowed: int) -> None:
    """What the refusal asks for is enough, and one megabyte less is not."""
    try:
        memory = fitted(allowed, jobs, source_buffer)
    except PlanRefused as refused:
        asked = re.search(r"--max-memory (\d+)MB", refused.hint)
        assert asked is not None
        enough = int(asked[1]) * 10**6
        assert enough > allowed
        assert fitted(enough, jobs, source_buffer).jobs == 1
        with pytest.raises(PlanRefused):
            fitted(enough - 10**6, jobs, source_buffer)
    else:
        assert memory.peak <= allowed
        assert 1 <= memory.jobs <= jobs


def test_a_refusal_has_the_figures() -> None:
    """What is needed, for which tensor, and what is allowed."""
    with pytest.raises(PlanRefused) as caught:
        planned(model(**TRUE_SIZE), "fused-transposed", limits=Limits(10**7, allowed=12 * 10**6))
    assert "model.layers.1.mlp.experts.gate_up_proj" in caught.value.message
    assert "6.29 MB at once" in caught.value.message
    assert "12.0 MB are allowed" in caught.value.message
    with pytest.raises(PlanRefused, match=r"one worker; 10\.1 MB are allowed"):
        planned(model(**TRUE_SIZE), "fused", limits=Limits(10**7, allowed=10_100_000))


def test_buffers_depend_on_an_expert_alone() -> None:
    """Not on how many of them there are, nor on layers; copies need nothing but staging."""
    few = planned(model(layers=1, e=4, i=768, h=2048), "fused-transposed").memory
    many = planned(model(layers=9, e=40, i=768, h=2048), "fused-transposed").memory
    assert replace(few, peak=0, tables=0) == replace(many, peak=0, tables=0)
    assert 0 < many.peak - few.peak == many.tables - few.tables
    assert few.source_buffer == 2 * 768 * 2048 * 2
    assert planned(model(**TRUE_SIZE), "fused").memory.source_buffer == 0


@pytest.mark.parametrize(
    ("cores", "fair", "jobs"), [(8, None, 8), (8, 0, 2), (2, 0, 2), (1, 0, 1), (8, 10**9, 8)]
)
def test_workers_by_the_memory_of_the_host(cores: int, fair: int | None, jobs: int) -> None:
    """Fewer if they would take too large a part of it, but never fewer than a small host has."""
    limits = Limits(10**7, cores, why="as many as there are cores", fair=fair)
    memory = fit_memory(limits, 5 * 10**6, "the.widest")
    assert memory.jobs == jobs
    assert (memory.why == limits.why) == (jobs == cores)


def test_as_many_workers_as_fit_into_a_part_of_the_memory() -> None:
    """The peak is below it, and with one worker more it is not."""
    peaks = [fitted(None, jobs).peak for jobs in range(1, 10)]
    for jobs in range(3, 9):
        limits = Limits(10**7, 8, fair=peaks[jobs - 1])
        assert fit_memory(limits, 5 * 10**6, "the.widest").jobs == jobs
        limits = replace(limits, fair=peaks[jobs - 1] - 1)
        memory = fit_memory(limits, 5 * 10**6, "the.widest")
        assert memory.jobs == jobs - 1
        assert "a 64th of the memory" in memory.why


@pytest.mark.parametrize(("fair", "jobs"), [(None, 16), (0, 8), (10**9, 16)])
def test_more_workers_for_a_remote_source_if_the_host_has_the_memory(
    fair: int | None, jobs: int
) -> None:
    limits = Limits(10**7, 16, why="as the source is remote", fair=fair, least=8)
    memory = fit_memory(limits, 5 * 10**6, "the.widest")
    assert memory.jobs == jobs
    assert ("at least 8" in memory.why) == (jobs == 8)


def test_the_reason_of_an_allowed_memory() -> None:
    limits = Limits(10**7, 8, fitted(None, 3).peak, why="as asked for")
    memory = fit_memory(limits, 5 * 10**6, "the.widest")
    assert (memory.jobs, memory.why) == (3, "as many as fit into the allowed memory")


def test_a_remote_source_is_asked_for_more_at_once() -> None:
    """Each worker has a larger buffer, which is counted."""
    near, far = (
        fit_memory(Limits(10**7, 3), 0, "the.widest", staging=staging)
        for staging in (STAGING_BYTES, REMOTE_STAGING_BYTES)
    )
    more = far.staging - near.staging
    assert more > 0
    assert far.peak - near.peak == 3 * more
    source = source_of(hub_tensors())
    assert plan_of(source).memory.staging == STAGING_BYTES
    source.checkpoint = replace(source.checkpoint, remote=frozenset({"model.safetensors"}))
    assert plan_of(source).memory.staging == REMOTE_STAGING_BYTES


def test_copies_are_written_in_longer_runs() -> None:
    """If all bytes keep their order, as a worker has no other buffer then; not if they are cast."""
    source = source_of(hub_tensors())
    plans = [
        build_plan(source.checkpoint, default_catalog(), "fused", options)
        for options in (Options(), Options(dtype="fp32"))
    ]
    assert [plan.memory.source_buffer for plan in plans] == [0, 0]
    assert [plan.memory.staging for plan in plans] == [COPY_STAGING_BYTES, STAGING_BYTES]
