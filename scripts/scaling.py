"""What more ranks bring: measures 1 and 2 on this machine, and computes more from that.

    python scripts/scaling.py [FOLDER] [--layers 8] [--runs 3]

Makes experts of some layers of Qwen3-30B-A3B in FOLDER, merges them with one and with two ranks
(one worker each, the page cache warm, both ending in a sync; medians of alternating runs), and
measures what the disk takes from one and from two writers at once. The model:

    seconds(n) = start + bytes / min(n * rate of a rank, rate of the disk)

`start` is what torchrun, torch and planning take, found from the runs of one layer and of all.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from truesize import write

RANKS = (1, 2)
COMPUTED = (1, 2, 4, 8, 16, 32)
BLOCK = 8 * 2**20


def merge(ranks: int, src: Path, dst: Path, *more: str) -> float:
    """Seconds that so many ranks take, one worker each."""
    shutil.rmtree(dst, ignore_errors=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = ["-m", "streamconv", "merge", str(src), str(dst), "--layout", "fused-transposed"]
    begin = time.monotonic()
    subprocess.run(
        [
            *launch,
            "--nproc-per-node",
            str(ranks),
            *words,
            "-j",
            "1",
            "--max-shard-size",
            "1GB",
            *more,
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.sync()
    return time.monotonic() - begin


def disk_rate(folder: Path, writers: int, nbytes: int) -> float:
    """Bytes a second that the disk takes from so many writers at once."""
    block = os.urandom(BLOCK)

    def write(number: int) -> None:
        with (folder / f"rate-{number}").open("wb", buffering=0) as file:
            for _ in range(nbytes // writers // BLOCK):
                file.write(block)
            os.fsync(file.fileno())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = nbytes / (time.monotonic() - begin)
    for number in range(writers):
        (folder / f"rate-{number}").unlink()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where to work; a temporary folder")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        src, dst = folder / "source", folder / "merged"
        write("qwen3-30b-a3b", src, layers=asked.layers, fill="random", only="experts")
        nbytes = sum(path.stat().st_size for path in src.rglob("*.safetensors"))
        merge(1, src, dst)
        first: list[float] = []
        seconds: dict[int, list[float]] = {ranks: [] for ranks in RANKS}
        for _ in range(asked.runs):
            first.append(merge(1, src, dst, "--layers", "0:1"))
            for ranks in RANKS:
                seconds[ranks].append(merge(ranks, src, dst))
        disk = max(disk_rate(folder, writers, nbytes // 2) for writers in RANKS)
    one = statistics.median(seconds[1])
    more, longer = nbytes * (asked.layers - 1) / asked.layers, one - statistics.median(first)
    if longer <= 0:
        sys.exit(f"{asked.layers} layers take no longer than one: give more with --layers")
    rate = more / longer
    start = one - nbytes / rate
    print(
        f"{nbytes / 1e9:.2f} GB; start {start:.1f} s; a rank {rate / 1e9:.2f} GB/s; "
        f"the disk {disk / 1e9:.2f} GB/s\n"
    )
    print("| ranks | measured, s | computed, s |\n|---|---|---|")
    for ranks in COMPUTED:
        measured = f"{statistics.median(seconds[ranks]):.1f}" if ranks in seconds else ""
        computed = start + nbytes / min(ranks * rate, disk)
        print(f"| {ranks} | {measured} | {computed:.1f} |")


if __name__ == "__main__":
    main()
