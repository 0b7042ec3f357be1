"""The command line in several processes that torchrun starts."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(
    size: int, words: list[str], *, fault: str = "", script: Path | None = None, restarts: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Run the command line in so many processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(size), "--max-restarts", str(restarts)]
    what = ["-m", "streamconv"] if script is None else [str(script)]
    return subprocess.run(
        [*launch, *what, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1"},
    )
