"""The public functions that read refuse values that make no sense."""

from pathlib import Path

import pytest

import streamconv


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_verification_without_workers(jobs: int, tmp_path: Path) -> None:
    """Nobody would compare anything, and nothing would differ."""
    with pytest.raises(streamconv.UsageError, match=rf"cannot start {jobs} workers"):
        streamconv.verify(tmp_path, tmp_path, jobs=jobs)
