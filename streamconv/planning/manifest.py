"""What a conversion leaves behind about itself: fingerprint, index and `streamconv.json`. Pure.

No times and no paths: the same conversion gives the same bytes wherever and however it runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.cast_summary import cast_rows
from streamconv.checkpoint.types import DIGEST, Cast
from streamconv.planning.plan import Plan

FORMAT_VERSION = 1


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What two runs have to agree on to be parts of one conversion, by name, as JSON has it.

    Source headers and file sizes, layouts and names on both sides, casts, shard size and format
    version; never paths, times, jobs or memory.
    """
    return {
        "format version": FORMAT_VERSION,
        "file format": [plan.format.name, *plan.format.facts],
        "target": plan.record.to_json(),
        "source layouts": _layouts({stack.pattern: stack.row for stack in plan.source.stacks}),
        "target layouts": _layouts(plan.target.rows),
        "casts": {i.name: [i.dtype, *_made(i.cast)] for i in plan.inputs if i.cast},
        "shard size": plan.max_shard_bytes,
        "source": {f.name: {"bytes": f.size, "header": f.digest} for f in plan.checkpoint.files},
        "other files": {other.name: {"bytes": other.size} for other in plan.copied},
        "output names": _names(plan),
        **_commit(plan),
    }


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """The digest of facts, as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode()))


def fingerprint(plan: Plan) -> str:
    """The digest of a plan's facts."""
    return fingerprint_of(plan_facts(plan))


def _layouts(rows: Mapping[str, NamedLayout]) -> dict[str, Any]:
    """Layouts as they are, not as they are called: a user's own may have been edited meanwhile."""
    return {
        f"{pattern}experts": {
            "layout": row.layout.name,
            "templates": {
                weight: [template.name, *map(" ".join, template.dims)]
                for weight, template in sorted(row.layout.templates.items())
            },
            "naming": {axis: list(tokens) for axis, tokens in sorted(row.naming.tokens.items())},
        }
        for pattern, row in sorted(rows.items())
    }


def _names(plan: Plan) -> str:
    """The digest of what the output's tensors are called, in order."""
    from xxhash import xxh3_128_hexdigest

    names = (step.name for shard in plan.shards for step in shard.steps)
    return str(xxh3_128_hexdigest("\0".join(names).encode("utf-8", "surrogatepass")))


def _commit(plan: Plan) -> dict[str, str]:
    """The commit that is read, where the source is a repository: a branch may move on meanwhile."""
    revision = plan.checkpoint.revision
    return {"revision": revision} if revision else {}


def _made(cast: Cast) -> list[Any]:
    scales = cast.scales and cast.scales.name
    return [cast.stored.dtype, scales, cast.block]


def closing_files(
    plan: Plan,
    rows: Sequence[Sequence[str]],
    files: Mapping[str, tuple[int, str]],
    sha256: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what is written when all else is durable, in order.

    `rows` are bytes and digest of each shard's pieces, in order; `files` are the size in bytes
    and the digest of each file that was copied; `sha256` is that of each of all these files,
    where it is to be in the manifest.
    """
    from hashlib import sha256 as sha

    from xxhash import xxh3_128_hexdigest

    def manifest(described: Mapping[str, bytes]) -> bytes:
        listed = {n: (len(raw), str(xxh3_128_hexdigest(raw))) for n, raw in described.items()}
        hashed = {n: sha(raw).hexdigest() for n, raw in described.items()} if sha256 else {}
        return build_manifest(plan, rows, {**files, **listed}, {**(sha256 or {}), **hashed})

    return plan.format.closing_files(plan.shards, manifest)


def build_manifest(
    plan: Plan,
    rows: Sequence[Sequence[str]],
    files: Mapping[str, tuple[int, str]],
    sha256: Mapping[str, str],
) -> bytes:
    """`streamconv.json`: what was made from what, and a digest for each piece of it.

    `rows` are bytes and digest of each shard's pieces, in order; `files` are the size in bytes
    and the digest of each other file of the output; `sha256` is that of some of either.
    """

    def hashed(name: str) -> dict[str, str]:
        return {"sha256": sha256[name]} if name in sha256 else {}

    return _json(
        {
            "version": FORMAT_VERSION,
            "fingerprint": fingerprint(plan),
            **_commit(plan),
            "record": plan.record.to_json(),
            "casting": plan.casting.to_json(),
            "casts": cast_rows(plan.inputs),
            "digest": DIGEST,
            "shards": {
                shard.name: {"size": shard.nbytes, **hashed(shard.name), "pieces": list(pieces)}
                for shard, pieces in zip(plan.shards, rows, strict=True)
            },
            "files": {
                _printable(name): {"size": size, "digest": digest, **hashed(name)}
                for name, (size, digest) in sorted(files.items())
            },
        }
    )


def _printable(name: str) -> str:
    """A file name as JSON can hold it: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode("ascii")
