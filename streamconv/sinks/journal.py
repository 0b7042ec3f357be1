"""What a run writes down as it goes, so that another one can go on where it stopped. Pure.

A journal is text, a JSON array a line: a digest, and what it is the digest of. The first line
says which conversion this is, each other one that a shard is finished, written once the shard is
durable. A line whose digest does not fit was torn by a crash: it counts as not written, and so
does everything behind it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamconv.planning.manifest import fingerprint_of, plan_facts
from streamconv.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that is durable."""

    size: int
    """Bytes of the file."""
    pieces: tuple[str, ...]
    """Bytes and digest of each piece, in order, as in the manifest."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What a journal says."""

    facts: Mapping[str, Any]
    """Which conversion it is about."""
    finished: Mapping[str, Finished] = field(default_factory=dict)
    """By the name of the shard."""


def opening_line(plan: Plan) -> bytes:
    """The first line of a journal."""
    return _line({"facts": plan_facts(plan)})


def finished_line(name: str, finished: Finished) -> bytes:
    """The line that says that a shard is finished."""
    return _line({"shard": name, "size": finished.size, "pieces": finished.pieces})


def read_journal(raw: bytes) -> Journal | None:
    """What the lines say up to the first torn one; None where that is the first one."""
    lines = raw.split(b"\n")[:-1]
    bodies = _untorn(lines)
    opening = next(bodies, None)
    if opening is None or not isinstance(opening.get("facts"), dict):
        return None
    finished = {body["shard"]: Finished(body["size"], tuple(body["pieces"])) for body in bodies}
    return Journal(opening["facts"], finished)


def finished_shards(plan: Plan, journals: Iterable[Journal]) -> dict[int, Finished]:
    """By number, the plan's shards that any of the journals says are finished.

    Only where size and pieces are as planned; a shard that is not is made again.
    """
    said = {name: done for journal in journals for name, done in journal.finished.items()}
    found = {}
    for number, shard in enumerate(plan.shards):
        done = said.get(shard.name)
        if done is None or done.size != shard.nbytes:
            continue
        sizes = [str(piece.nbytes) for piece in plan.pieces([number])]
        if [row.partition(" ")[0] for row in done.pieces] == sizes:
            found[number] = done
    return found


def difference(plan: Plan, journal: Journal) -> str:
    """What another conversion's journal says otherwise than the plan, with both facts; or ""."""
    ours = plan_facts(plan)
    if fingerprint_of(journal.facts) == fingerprint_of(ours):
        return ""
    path, there, here = _first_difference((), journal.facts, ours)
    return f"{': '.join(path)}: {_shown(there)} there, {_shown(here)} here"


def _first_difference(
    path: tuple[str, ...], there: Any, here: Any
) -> tuple[tuple[str, ...], Any, Any]:
    """The innermost fact that differs, what it is called, and both."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys((*here, *there)):
            if there.get(key) != here.get(key):
                return _first_difference((*path, key), there.get(key), here.get(key))
    return path, there, here


def _shown(fact: Any) -> str:
    return "none" if fact is None else json.dumps(fact)


def _line(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True)
    return f'["{_digest(text)}", {text}]\n'.encode("ascii")


def _untorn(lines: Sequence[bytes]) -> Iterator[Any]:
    for line in lines:
        try:
            digest, body = json.loads(line)
        except (ValueError, TypeError):
            return
        if not isinstance(body, dict) or digest != _digest(json.dumps(body, sort_keys=True)):
            return
        yield body


def _digest(text: str) -> str:
    from xxhash import xxh3_64_hexdigest

    return str(xxh3_64_hexdigest(text.encode()))
