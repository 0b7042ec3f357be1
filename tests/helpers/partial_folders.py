"""Partial folders and results of runs that have ended, as they leave them on disk."""

from pathlib import Path

from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished, finished_line, opening_line


def write_result(folder: Path, plan: Plan) -> None:
    """The shards of a plan, as a commit leaves them."""
    folder.mkdir()
    for shard in plan.shards:
        (folder / shard.name).write_bytes(bytes(shard.nbytes))


def journal(plan: Plan, *finished: int) -> bytes:
    lines = [opening_line(plan)]
    for number in finished:
        shard = plan.shards[number]
        lines.append(finished_line(shard.name, Finished(shard.nbytes, ())))
    return b"".join(lines)


def partial(folder: Path, plan: Plan, *finished: int) -> Path:
    """A partial folder with both shards and a journal of some."""
    path = folder / "out.streamconv-partial"
    write_result(path, plan)
    (path / "streamconv-journal-1.jsonl").write_bytes(journal(plan, *finished))
    return path
