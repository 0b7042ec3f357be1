"""Ranks that are forked from the tests end in time, or are ended."""

import time
from pathlib import Path

import dcp_ranks
import pytest
import torch
from dcp_jobs import run_ranks


def _hangs(rank: int, what: str, folder: str, file: Path) -> None:
    if rank == 1:
        time.sleep(600)


def test_ranks_that_hang_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are left."""
    monkeypatch.setattr(dcp_ranks, "work", _hangs)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="ranks that load"):
        run_ranks("load", tmp_path, tmp_path / "file", longest=0.2)
    assert time.monotonic() - begin < 60
    assert not torch.multiprocessing.active_children()
