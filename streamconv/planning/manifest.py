"""The facts of a plan with their digest, the fingerprint, and the manifest of its output.

They have neither times nor paths, so that the same conversion gives the same bytes wherever and
however it runs. `checkpoint/manifest.py` writes and reads the file.
"""

import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from typing import Any

from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.cast_summary import cast_rows
from streamconv.checkpoint.file_records import RecordedOther, RecordedShard, printable
from streamconv.checkpoint.manifest import FORMAT_VERSION, Manifest
from streamconv.checkpoint.reading_record import reading_fields
from streamconv.planning.cast_facts import CastFacts
from streamconv.planning.plan import Plan

LAYOUTS = ("source layouts", "target layouts")
"""The facts that have templates."""


def plan_facts(plan: Plan, *, used_only: bool = False) -> dict[str, Any]:
    """Return the facts that two runs of one conversion have in common, as JSON.

    These are source headers and file sizes, layouts and names on both sides, casts, shard size and
    format version; never paths, times, jobs or memory. Casts are a mapping whose values are made
    when they are looked at.

    Args:
        plan: The conversion.
        used_only: True to leave out the templates of weights that the source does not have, which
            another release may add to a layout.
    """
    used = _used_parts(plan) if used_only else {}
    return {
        "format version": FORMAT_VERSION,
        "file format": [plan.format.name, *plan.format.facts],
        "target": plan.record.to_json(),
        "source layouts": _layouts(
            {stack.pattern: stack.row for stack in plan.source.stacks}, used
        ),
        "target layouts": _layouts(plan.target.rows, used),
        "config": plan.config.rows(),
        "casts": CastFacts(plan.inputs) or {},
        "shard size": plan.max_shard_bytes,
        "source": {f.name: {"bytes": f.size, "header": f.digest} for f in plan.checkpoint.files},
        "other files": {other.name: {"bytes": other.size} for other in plan.copied},
        "output names": _names_digest(plan),
        **_reading(plan),
        **_revision(plan),
    }


def shorten_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts with a digest in place of templates, and of the casts of each tensor.

    Other facts, and values that `plan_facts` would not return, stay as they are.
    """
    short = dict(facts)
    for side in LAYOUTS:
        if isinstance(stacks := facts.get(side), Mapping):
            short[side] = {stack: _short_layout(row) for stack, row in stacks.items()}
    casts = facts.get("casts")
    if casts and isinstance(casts, Mapping) and all(isinstance(c, list) for c in casts.values()):
        dtypes = sorted({str(cast[0]) for cast in casts.values() if cast})
        short["casts"] = {"to": dtypes, "tensors": len(casts), "digest": fingerprint_of(casts)}
    return short


def _short_layout(row: Any) -> Any:
    """Return the name of a layout, and a digest of its templates and naming."""
    if not isinstance(row, Mapping) or not isinstance(row.get("templates"), Mapping):
        return row
    rows = {key: value for key, value in row.items() if key != "layout"}
    return {"layout": row.get("layout"), "templates": fingerprint_of(rows)}


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return the xxh3-128 digest of facts as JSON, as hex digits."""
    from xxhash import xxh3_128

    digest = xxh3_128()
    encode = json.JSONEncoder(sort_keys=True).encode
    for text in _json_text(facts, encode):
        digest.update(text.encode())
    return digest.hexdigest()


def _json_text(facts: Mapping[str, Any], encode: Callable[[Any], str]) -> Iterator[str]:
    """Yield facts as JSON, sorted by their names; an object with a row for each tensor in rows."""
    yield "{"
    for number, name in enumerate(sorted(facts)):
        value = facts[name]
        yield f"{', ' if number else ''}{encode(name)}: "
        yield from _json_text(value, encode) if isinstance(value, Mapping) else (encode(value),)
    yield "}"


def fingerprint(plan: Plan) -> str:
    """Return the digest of a plan's facts. Runs that share a conversion have the same one."""
    return fingerprint_of(plan_facts(plan))


def _used_parts(plan: Plan) -> dict[str, set[tuple[str, str]]]:
    """Return the parts of matrices, such as their scales, that the source has, by pattern.

    Several stacks may have one pattern.
    """
    used: dict[str, set[tuple[str, str]]] = {}
    for stack in plan.source.stacks:
        used.setdefault(stack.pattern, set()).update(
            _part(stack.row, weight) for module in stack.modules for weight in module.tensors
        )
    return used


def _part(row: NamedLayout, weight: str) -> tuple[str, str]:
    """Return the matrix that a weight belongs to, and its part of it."""
    kind = row.layout.kinds.get(weight)
    return (kind.matrix(weight), kind.part) if kind else (weight, "")


def _layouts(
    rows: Mapping[str, NamedLayout], used: Mapping[str, Container[tuple[str, str]]]
) -> dict[str, Any]:
    """Return layouts with their templates, which a user's file may change under the same name.

    Of a stack in `used`, they are those of the parts that it has there.
    """
    return {
        f"{pattern}experts": {
            "layout": row.layout.name,
            "templates": {
                weight: [template.name, *map(" ".join, template.dims)]
                for weight, template in sorted(row.layout.templates.items())
                if pattern not in used or _part(row, weight) in used[pattern]
            },
            "naming": {axis: list(tokens) for axis, tokens in sorted(row.naming.tokens.items())},
        }
        for pattern, row in sorted(rows.items())
    }


def _names_digest(plan: Plan) -> str:
    """Return the digest of the output's tensor names, in order."""
    from xxhash import xxh3_128

    digest = xxh3_128()
    between = ""
    for shard in plan.shards:
        for step in shard.steps:
            digest.update(f"{between}{step.name}".encode("utf-8", "surrogatepass"))
            between = "\0"
    return digest.hexdigest()


def _revision(plan: Plan) -> dict[str, str]:
    """Return the commit that is read, if the source is a repository: a branch may move."""
    revision = plan.checkpoint.revision
    return {"revision": revision} if revision else {}


def _reading(plan: Plan) -> dict[str, Any]:
    """Return how the source was read, if the user has added files or renamed tensors."""
    fields = reading_fields(plan.checkpoint)
    return {"reading": fields} if fields else {}


def closing_files(
    plan: Plan,
    pieces: Sequence[Collection[str]],
    files: Mapping[str, tuple[int, str]],
    sha256: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file that is written after all else is durable.

    Args:
        plan: The plan that was carried out.
        pieces: For each shard in order, the rows of its pieces as the journal has them.
        files: Size in bytes and digest of each copied file.
        sha256: SHA-256 of every file, if the manifest records them.
    """
    import hashlib

    from xxhash import xxh3_128_hexdigest

    def manifest(contents: Mapping[str, bytes]) -> Manifest:
        listed = {n: (len(raw), str(xxh3_128_hexdigest(raw))) for n, raw in contents.items()}
        hashed = dict(sha256 or {})
        if sha256:
            hashed |= {n: hashlib.sha256(raw).hexdigest() for n, raw in contents.items()}
        return build_manifest(plan, pieces, {**files, **listed}, hashed)

    return plan.format.closing_files(plan.shards, manifest)


def build_manifest(
    plan: Plan,
    pieces: Sequence[Collection[str]],
    files: Mapping[str, tuple[int, str]],
    sha256: Mapping[str, str],
) -> Manifest:
    """Return the manifest of an output.

    Args:
        plan: The plan that was carried out.
        pieces: For each shard in order, the rows of its pieces as the journal has them.
        files: Size in bytes and digest of each other file of the output.
        sha256: SHA-256 of shards and other files, as far as it is known.
    """
    return Manifest(
        fingerprint=fingerprint(plan),
        revision=plan.checkpoint.revision,
        record=plan.record,
        reading=reading_fields(plan.checkpoint),
        casting=plan.casting,
        casts=cast_rows(plan.inputs),
        config=plan.config.rows(),
        shards={
            shard.name: RecordedShard(shard.nbytes, digests, sha256.get(shard.name))
            for shard, digests in zip(plan.shards, pieces, strict=True)
        },
        others={
            printable(name): RecordedOther(size, digest, sha256.get(name))
            for name, (size, digest) in sorted(files.items())
        },
    )
