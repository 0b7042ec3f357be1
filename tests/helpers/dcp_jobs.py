"""Torch processes that save and load DCPs, and the families tried with them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import checkpoints

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "internvl_chat": checkpoints.internvl_chat,
    "glm4v_moe": checkpoints.glm4v_moe,
    "qwen3_omni_moe": checkpoints.qwen3_omni_moe,
}
RANKS = Path(__file__).with_name("dcp_ranks.py")


def run_ranks(*arguments: str | Path) -> None:
    """`dcp_ranks.py` in two processes that find one another over loopback."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(RANKS)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in [folder, *folder.rglob("*")]
    }
