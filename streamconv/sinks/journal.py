"""The journal: what a run records while it works, so that a later run can resume.

A journal is text, with a JSON array `[digest, body]` in each line, where the digest is the
XXH3-64 of the body's JSON with sorted keys. The first body is the conversion's facts, shortened,
and a digest of a sample of the source's weights; every other one is a shard, written after the
shard is durable:

    ["1d0f...", {"facts": {"casts": {}, "file format": ["safetensors"], ...}, "sample": "c8..."}]
    ["9a3c...", {"pieces": ["8388608 5f...", "912 c1..."], "shard": "model-...", "size": 8389520}]

A crash can leave a line that was written in part. A line whose digest is wrong ends the journal:
it and all lines after it count as not written.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconv.checkpoint.file_records import PieceRows, parse_piece
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import parse_json
from streamconv.planning.manifest import LAYOUTS, fingerprint_of, plan_facts, shorten_facts
from streamconv.planning.plan import Plan

SAMPLED = "weights of the source, by the digest of a sample"
"""What a sample is called in a message."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that is durable."""

    size: int
    """Bytes of the file."""
    pieces: Collection[str]
    """Bytes and digest of each piece, in order, as in the manifest."""

    def without_pieces(self) -> "Finished":
        """Return what a run has to know of it. The digests are in the journal until the end."""
        return Finished(self.size, ())


@dataclass(frozen=True, slots=True)
class Journal:
    """The content of a journal."""

    facts: Mapping[str, Any]
    """The facts of the conversion, see `plan_facts`. Those of an earlier version are in full."""
    finished: Mapping[str, Finished] = field(default_factory=dict)
    """The finished shards, by file name."""
    sample: str = ""
    """Digest of a sample of the source's weights. An earlier version recorded none."""


# --- writing -----------------------------------------------------------------------------------


def opening_line(plan: Plan) -> bytes:
    """Build the first line of a journal."""
    facts = shorten_facts(plan_facts(plan, used_only=True))
    return _line(json.dumps({"facts": facts, "sample": plan.sample}, sort_keys=True))


def finished_line(name: str, finished: Finished) -> bytes:
    """Build the line about a finished shard with the file name `name`."""
    rest = json.dumps({"shard": name, "size": finished.size}, sort_keys=True)
    # not as a list of rows, which would take several times as much
    return _line(f'{{"pieces": {PieceRows(finished.pieces).json_array()}, {rest[1:]}')


def _line(text: str) -> bytes:
    """Build the line of a body, which is JSON with sorted keys."""
    return f'["{_digest(text)}", {text}]\n'.encode("ascii")


def _digest(text: str) -> str:
    from xxhash import xxh3_64_hexdigest

    return str(xxh3_64_hexdigest(text.encode()))


# --- reading -----------------------------------------------------------------------------------


def read_journal(lines: Iterable[bytes]) -> Journal | None:
    """Read the whole lines of a journal, up to the first damaged one.

    Args:
        lines: Its lines, each with its end: only the last one may have none.

    Returns:
        The content; None if the first line is damaged or missing.
    """
    bodies = _whole_bodies(lines)
    opening = next(bodies, None)
    if opening is None or not isinstance(opening.get("facts"), dict):
        return None
    finished: dict[str, Finished] = {}
    for body in bodies:
        name, done = body.get("shard"), _finished(body)
        if done is None or not isinstance(name, str):
            break
        finished[name] = done
    sample = opening.get("sample")
    return Journal(opening["facts"], finished, sample if isinstance(sample, str) else "")


def _finished(body: Mapping[str, Any]) -> Finished | None:
    """Return the shard of a line; None if a field is missing or is not as it is written."""
    size, pieces = body.get("size"), body.get("pieces")
    if type(size) is not int or not isinstance(pieces, list):
        return None
    try:
        for row in pieces:
            parse_piece(row)
    except ValueError:
        return None
    return Finished(size, PieceRows(pieces))


def _whole_bodies(lines: Iterable[bytes]) -> Iterator[Any]:
    """Read the bodies of the lines before the first damaged one."""
    for line in lines:
        if not line.endswith(b"\n"):
            return
        try:
            digest, body = parse_json(line[:-1], "journal", half_characters=True)
        except (BadCheckpoint, ValueError, TypeError):
            return
        if not isinstance(body, dict) or digest != _digest(json.dumps(body, sort_keys=True)):
            return
        yield body


# --- comparing with a plan ---------------------------------------------------------------------


def finished_shards(plan: Plan, journals: Iterable[Journal]) -> dict[int, Finished]:
    """Find the shards of a plan that a journal calls finished.

    A shard counts only if its size and the sizes of its pieces are as planned.

    Args:
        plan: The conversion.
        journals: The journals of all its parts.

    Returns:
        The finished shards, by number.
    """
    recorded = {name: done for journal in journals for name, done in journal.finished.items()}
    finished = {}
    for number, shard in enumerate(plan.shards):
        done = recorded.get(shard.name)
        if done is None or done.size != shard.nbytes:
            continue
        sizes = [piece.nbytes for piece in plan.pieces([number])]
        if [parse_piece(row)[0] for row in done.pieces] == sizes:
            finished[number] = done
    return finished


def difference(plan: Plan, journal: Journal) -> str:
    """Describe the first difference between a plan and the conversion of a journal.

    Args:
        plan: The conversion of this run.
        journal: A journal of an earlier run.

    Returns:
        Such as `shard size: 200 there, 300 here`; empty if it is the same conversion.
    """
    theirs = shorten_facts(journal.facts)
    ours = shorten_facts(plan_facts(plan, used_only=True))
    if any(theirs.get(key) != ours[key] for key in LAYOUTS):
        # earlier releases wrote the templates of all weights that a layout may have
        all_ours = shorten_facts(plan_facts(plan))
        ours |= {key: all_ours[key] for key in LAYOUTS if theirs.get(key) == all_ours[key]}
    if fingerprint_of(theirs) == fingerprint_of(ours):
        if not (journal.sample and plan.sample) or journal.sample == plan.sample:
            return ""
        theirs, ours = {SAMPLED: journal.sample}, {SAMPLED: plan.sample}
    path, there, here = _first_difference((), theirs, ours)
    keys = quoted(": ".join(path))
    return f"{keys}: {_shown(there)} there, {_shown(here)} here"


def _first_difference(
    path: tuple[str, ...], there: Any, here: Any
) -> tuple[tuple[str, ...], Any, Any]:
    """Find the innermost fact that differs; returns its keys and both values.

    Args:
        path: The keys that lead to `there` and `here`.
        there: A fact of the journal.
        here: The same fact of the plan; the two differ.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys((*here, *there)):
            if there.get(key) != here.get(key):
                return _first_difference((*path, key), there.get(key), here.get(key))
    return path, there, here


def _shown(fact: Any) -> str:
    return "none" if fact is None else quoted(json.dumps(fact))
