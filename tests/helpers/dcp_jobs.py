"""Torch processes that save and load DCPs, and the families tried with them."""

import time
from collections.abc import Callable
from pathlib import Path

import checkpoints
import torch.multiprocessing

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "internvl_chat": checkpoints.internvl_chat,
    "glm4v_moe": checkpoints.glm4v_moe,
    "qwen3_omni_moe": checkpoints.qwen3_omni_moe,
}


LONGEST = 120
"""Seconds that ranks may take."""


def run_ranks(what: str, folder: Path, file: Path, longest: float = LONGEST) -> None:
    """What `dcp_ranks.py` calls so, in two processes that are forked from this one.

    Raises TimeoutError, and leaves none of them, if they are not done in time.
    """
    from dcp_ranks import work

    ranks = torch.multiprocessing.start_processes(
        work, (what, str(folder), file), nprocs=2, join=False, daemon=True, start_method="fork"
    )
    end = time.monotonic() + longest
    try:
        while not ranks.join(timeout=max(0, end - time.monotonic())):
            if time.monotonic() >= end:
                raise TimeoutError(f"ranks that {what} were not done in {longest} s")
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in [folder, *folder.rglob("*")]
    }
