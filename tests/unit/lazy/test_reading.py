"""A forked process reads, checks and closes, whatever the threads of its parent were doing."""

import gc
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from folders import qwen_tensors, write_checkpoint
from forked import forked
from fused_by_hand import CONFIG

import streamconv
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.sources.local_files import LocalFiles
from streamconv.sources.open_files import OpenFiles
from streamconv.system import maps

NAME = "model.layers.0.mlp.experts.gate_up_proj"


def check_and_close(lazy: LazyCheckpoint) -> None:
    lazy.check_unchanged()
    lazy.close()
    with pytest.raises(streamconv.UsageError, match="the checkpoint is closed"):
        lazy.get_tensor(NAME)


def read_and_close(lazy: LazyCheckpoint) -> None:
    assert lazy.get_tensor(NAME).shape == (3, 12, 4)
    check_and_close(lazy)


def take_maps(_: LazyCheckpoint) -> None:
    assert maps._budget.take(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.parametrize("use", [check_and_close, read_and_close, take_maps])
def test_a_forked_process_waits_for_no_lock_of_its_parent(
    tmp_path: Path, use: Callable[[LazyCheckpoint], None]
) -> None:
    folder = write_checkpoint(tmp_path / "src", {"a.safetensors": qwen_tensors(1)}, CONFIG)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            done.wait()

    def bounded() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        use(lazy)

    with streamconv.open(folder, to="fused") as lazy:
        lazy.get_tensor(NAME)
        every = gc.get_objects()
        locks = [lazy._reader._lock, lazy._reader._parts._lock, maps._budget._lock]
        locks += [each._lock for each in every if type(each) is OpenFiles]
        locks += [each._map_lock for each in every if type(each) is LocalFiles]
        assert len(locks) >= 5
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            ended = forked(bounded)
        finally:
            done.set()
            thread.join()
    assert (ended.code, ended.stderr) == (0, b"")
