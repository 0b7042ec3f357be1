"""Torch processes that save and load DCPs, and the families tried with them."""

from collections.abc import Callable
from pathlib import Path

import checkpoints
import torch.multiprocessing

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "internvl_chat": checkpoints.internvl_chat,
    "glm4v_moe": checkpoints.glm4v_moe,
    "qwen3_omni_moe": checkpoints.qwen3_omni_moe,
}


def run_ranks(what: str, folder: Path, file: Path) -> None:
    """What `dcp_ranks.py` calls so, in two processes that are forked from this one."""
    from dcp_ranks import work

    torch.multiprocessing.start_processes(
        work, (what, str(folder), file), nprocs=2, start_method="fork"
    )


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in [folder, *folder.rglob("*")]
    }
