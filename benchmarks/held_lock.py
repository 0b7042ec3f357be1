"""How much of a worker's time holds the interpreter's lock.

All long calls of a worker release it: system calls, copies of numpy, the hash. They are wrapped in
clocks of the CPU time of their thread; what a worker uses outside of them is Python, which holds
the lock. CPU time tells that on a busy machine, too. The result is written to memory, whose pages
the system allocates in one call: that call is left out, as a disk has none of it. What the clocks
take themselves, two or three microseconds a call, is measured and subtracted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bench

LAYOUTS = ("fused", "fused-transposed")
RUN = """
import functools, json, os, sys, threading, time
import numpy as np
import streamconv
from streamconv.execution import worker
from streamconv.planning import make_plan
from streamconv.system import linux_file_ops, worker_threads
src, dst, layout, jobs, staging = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
if staging:
    make_plan.STAGING_BYTES = make_plan.COPY_STAGING_BYTES = staging
local, workers = threading.local(), []
def clocked(call):
    def timed(*args, **kwargs):
        begin = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            used = time.thread_time() - begin
            if hasattr(local, "released"):
                local.calls += 1
                local.released += used
                local.allocated += used if call is allocate else 0
    return timed
functions = {name: linux_file_ops._c_function(name) for name in linux_file_ops.C_ARGUMENTS}
allocate = functions["fallocate"]
def cost_of_a_clock(calls=20_000):
    local.calls, local.released, local.allocated = 0, 0.0, 0.0
    call, begin = clocked(len), time.thread_time()
    for _ in range(calls):
        call("")
    used = time.thread_time() - begin
    return (used - local.released) / calls
for name in ("preadv", "pwrite", "posix_fadvise", "fsync"):
    setattr(os, name, clocked(getattr(os, name)))
np.copyto = clocked(np.copyto)
clocks = {name: clocked(call) for name, call in functions.items()}
linux_file_ops._c_function = clocks.get
update = clocked(lambda digest, data: digest.update(data))
class Digest:
    def __init__(self):
        self.inner = hashed()
        self.reset, self.hexdigest = self.inner.reset, self.inner.hexdigest
    def update(self, data):
        update(self.inner, data)
hashed, worker.xxh3_128 = worker.xxh3_128, Digest
class Thread(threading.Thread):
    def run(self):
        local.calls, local.released, local.allocated = 0, 0.0, 0.0
        begin = time.thread_time()
        super().run()
        if self.name.startswith("worker"):
            total = time.thread_time() - begin - local.allocated - local.calls * COST
            workers.append((total, local.released - local.allocated))
COST = min(cost_of_a_clock() for _ in range(5))
threading.Thread = Thread
nbytes = streamconv.convert(src, dst, to=layout, jobs=jobs).plan.data_bytes
total, released = (sum(each) * 1e12 / nbytes for each in zip(*workers))
print(json.dumps([total, total - released]))
"""


def measured(source: Path, out: Path, layout: str, jobs: int, staging: int) -> tuple[float, float]:
    """Convert; return the CPU time of the workers and the held part, in ms for each GB."""
    command = [sys.executable, "-c", RUN, str(source), str(out), layout, str(jobs), str(staging)]
    done = subprocess.run(
        command, env=bench.ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    shutil.rmtree(out)
    total, held = json.loads(done.stdout)
    return float(total), float(held)


def rows(work: Path, memory: Path, layers: int, rounds: int) -> list[str]:
    """The table, in Markdown."""
    source = work / "source"
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    lines = [
        "| layout | written at once | CPU, ms a GB | with the lock | share |",
        "|---|---|---|---|---|",
    ]
    for layout in LAYOUTS:
        for staging in (0, 2**20, 2 * 2**20, 4 * 2**20):
            runs = [measured(source, memory / "out", layout, 2, staging) for _ in range(rounds)]
            # the least: other work on the machine only adds
            total, held = min(runs, key=lambda run: run[1])
            size = f"{staging >> 20} MiB" if staging else "as planned"
            lines.append(f"| {layout} | {size} | {total:.0f} | {held:.0f} | {held / total:.1%} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=1, help="layers of Qwen3-30B-A3B (1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    memory = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir="/dev/shm"))
    try:
        print("\n".join(rows(work, memory, args.layers, args.rounds)))
    finally:
        shutil.rmtree(work)
        shutil.rmtree(memory)


if __name__ == "__main__":
    main()
