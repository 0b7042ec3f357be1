"""The pictures in the README: a plan and the progress display of a real model, as SVG.

Made from the headers of Qwen3-30B-A3B, by rich's own export; no data is read or written.
"""

import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import streamconv
from streamconv.execution.events import PieceWritten, Planned
from streamconv.planning.memory import Limits, fit_memory
from streamconv.planning.plan import Plan
from streamconv.report.plan_tables import plan_table
from streamconv.report.progress import Bar

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import truesize

PICTURES = Path(__file__).parent / "pictures"
WIDTH = 112
BYTES_PER_SECOND = 1.9e9
FREE_DISK = 83_000_000_000


def main() -> None:
    """Draw both pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "Qwen3-30B-A3B"
        truesize.write("qwen3-30b-a3b", source)
        plan = streamconv.plan(source, to="fused-transposed")
    draw_plan(plan, source)
    draw_progress(plan)


def draw_plan(plan: Plan, source: Path) -> None:
    """What `--dry-run` shows; the memory is that of a process that does nothing else."""
    step = max(
        (step for shard in plan.shards for step in shard.steps), key=lambda s: s.buffer_bytes
    )
    limits = Limits(base=45_000_000, allowed=16_000_000_000)
    plan = replace(plan, memory=fit_memory(limits, step.buffer_bytes, step.name))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print("$ streamconv merge Qwen3-30B-A3B merged --to fused-transposed --dry-run")
    console.print(plan_table(plan, FREE_DISK))
    svg = console.export_svg(title="streamconv").replace(str(source), source.name)
    (PICTURES / "plan.svg").write_text(svg)


def draw_progress(plan: Plan) -> None:
    """The bar after two thirds of the run."""
    now = 0.0
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    bar = Bar(console, clock=lambda: now)
    bar(Planned(plan))
    written = 0
    for piece in plan.pieces():
        written += piece.nbytes
        if written > plan.write_bytes * 2 / 3:
            break
        now = written / BYTES_PER_SECOND
        bar(PieceWritten(piece, ""))
    console.print("$ streamconv merge Qwen3-30B-A3B merged --to fused-transposed")
    console.print(bar)
    (PICTURES / "progress.svg").write_text(console.export_svg(title="streamconv"))


if __name__ == "__main__":
    main()
