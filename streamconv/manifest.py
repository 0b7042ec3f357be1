"""What a conversion leaves behind about itself: fingerprint, index and `streamconv.json`. Pure.

No times and no paths: the same conversion gives the same bytes wherever and however it runs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from streamconv.checkpoint import INDEX_SUFFIX
from streamconv.plan import Plan

FORMAT_VERSION = 1
INDEX = f"model{INDEX_SUFFIX}"
DIGEST = "xxh3-128"


def fingerprint(plan: Plan) -> str:
    """What two runs have to agree on to be parts of one conversion, as hex digits.

    Source headers and file sizes, target, shard size and format version; never paths, times,
    jobs or memory.
    """
    from xxhash import xxh3_128_hexdigest

    facts = {
        "version": FORMAT_VERSION,
        "source": [[file.name, file.size, file.digest] for file in plan.checkpoint.files],
        "others": [[other.name, other.size] for other in plan.copied],
        "record": plan.record.to_json(),
        "max_shard_bytes": plan.max_shard_bytes,
    }
    return str(xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode()))


def build_index(plan: Plan) -> bytes | None:
    """The index of the output's shards, or None where there is one shard and so no index."""
    if len(plan.shards) == 1:
        return None
    weight_map = {step.name: shard.name for shard in plan.shards for step in shard.steps}
    return _json(
        {
            "metadata": {"total_size": plan.data_bytes},
            "weight_map": dict(sorted(weight_map.items())),
        }
    )


def build_manifest(
    plan: Plan, digests: Sequence[Sequence[str]], files: Mapping[str, tuple[int, str]]
) -> bytes:
    """`streamconv.json`: what was made from what, and a digest for each piece of it.

    `digests` are those of each shard's pieces, in order; `files` are the size in bytes and the
    digest of each other file of the output.
    """
    pieces: list[list[str]] = [[] for _ in plan.shards]
    for piece in plan.pieces():
        rows = pieces[piece.shard]
        rows.append(f"{piece.nbytes} {digests[piece.shard][len(rows)]}")
    return _json(
        {
            "version": FORMAT_VERSION,
            "fingerprint": fingerprint(plan),
            "record": plan.record.to_json(),
            "digest": DIGEST,
            "shards": {
                shard.name: {"size": shard.nbytes, "pieces": rows}
                for shard, rows in zip(plan.shards, pieces, strict=True)
            },
            "files": {
                _printable(name): {"size": size, "digest": digest}
                for name, (size, digest) in sorted(files.items())
            },
        }
    )


def _printable(name: str) -> str:
    """A file name as JSON can hold it: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode("ascii")
