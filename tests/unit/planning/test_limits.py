"""Workers and memory: as asked for, else by the source and the machine."""

import sys
from dataclasses import replace

import pytest
from header_models import checkpoint_of

from streamconv.planning import limits
from streamconv.planning.limits import ask_limits
from streamconv.planning.memory import (
    FEW_REMOTE_JOBS,
    IMPORT_BYTES,
    MEMORY_PART,
    MOST_REMOTE_JOBS,
    PIPELINE_BYTES,
    REMOTE_JOBS,
)
from streamconv.sources.link import LEAST_REQUESTS

LOCAL = checkpoint_of({"a": ("BF16", (2,))})
REMOTE = replace(LOCAL, remote=True)
GB = 10**9
RUN_IMPORTS = ("streamconv.execution.pipeline", "numpy")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, 64 GB, and two ranks on the host."""
    for name, value in {"cores": 4, "total_memory": 64 * GB, "ranks_on_host": 2}.items():
        monkeypatch.setattr(limits, name, lambda value=value: value)
    monkeypatch.setattr(limits, "default_workers", lambda processes: 4 // processes)
    monkeypatch.setattr(limits, "default_max_memory", lambda processes: 10 * GB // processes)


def test_only_a_run_gives_freed_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan alone leaves the memory of its caller's process as it is; both know if it can."""
    calls: list[str] = []
    monkeypatch.setattr(limits, "return_freed_memory", lambda: calls.append("returned"))
    monkeypatch.setattr(limits, "resident_bytes", lambda: calls.append("measured") or 10**8)
    for can in (True, False):
        monkeypatch.setattr(limits, "can_return_memory", lambda can=can: can)
        assert ask_limits(LOCAL, {}).returns_freed == can
    assert calls == ["measured"] * 2
    ask_limits(LOCAL, {}, is_run=True)
    assert calls[2:] == ["returned", "measured"]


def test_a_plan_counts_what_a_run_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it plans, as part of the peak as well; and after the plan."""
    monkeypatch.setattr(limits, "resident_bytes", lambda: GB)
    monkeypatch.setattr(limits, "peak_bytes", lambda: 2 * GB)
    found = []
    for module in (*RUN_IMPORTS, ""):
        for name in RUN_IMPORTS:
            monkeypatch.delitem(sys.modules, name, raising=False)
            if module != name:
                monkeypatch.setitem(sys.modules, name, sys)
        made = ask_limits(LOCAL, {})
        found.append((made.base - GB, made.seen - 2 * GB))
    assert found == [(PIPELINE_BYTES, PIPELINE_BYTES), (IMPORT_BYTES, 0), (0, 0)]


def test_what_is_asked_for_counts_before_all_else() -> None:
    for checkpoint in (LOCAL, REMOTE):
        made = ask_limits(checkpoint, {"jobs": 7, "max_memory": "1GB"})
        assert (made.jobs, made.allowed, made.why, made.fair) == (7, GB, "as asked for", None)


def test_ranks_share_the_cores_and_the_memory_of_their_host() -> None:
    made = ask_limits(LOCAL, {})
    assert (made.jobs, made.allowed) == (2, 5 * GB)
    assert made.fair == 64 * GB // MEMORY_PART // 2
    assert made.why == "as many as there are cores"


def test_more_cores_than_are_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 64)
    assert ask_limits(LOCAL, {}).why == "the most by default"


def test_a_remote_source_has_workers_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are cores; the most only of a large source, and if the memory is known."""
    made = ask_limits(REMOTE, {})
    assert (made.jobs, made.least) == (FEW_REMOTE_JOBS, FEW_REMOTE_JOBS)
    assert FEW_REMOTE_JOBS == LEAST_REQUESTS
    assert made.why == "as the source is remote, with 4 B"
    monkeypatch.setattr(limits, "FEW_REMOTE_BYTES", REMOTE.total_bytes)
    monkeypatch.setattr(limits, "MANY_REMOTE_BYTES", REMOTE.total_bytes)
    made = ask_limits(REMOTE, {})
    assert (made.jobs, made.least, made.why) == (
        MOST_REMOTE_JOBS,
        REMOTE_JOBS,
        "as the source is remote",
    )
    monkeypatch.setattr(limits, "MANY_REMOTE_BYTES", REMOTE.total_bytes + 1)
    assert ask_limits(REMOTE, {}).jobs == REMOTE_JOBS
    monkeypatch.setattr(limits, "MANY_REMOTE_BYTES", 0)
    monkeypatch.setattr(limits, "total_memory", lambda: None)
    made = ask_limits(REMOTE, {})
    assert (made.jobs, made.fair) == (REMOTE_JOBS, None)
