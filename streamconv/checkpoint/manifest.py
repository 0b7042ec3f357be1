"""The manifest of an output, `streamconv.json`: its layouts, its casts, and digests of its bytes.

It has neither times nor paths, so that the same conversion gives the same bytes wherever and
however it runs. In a DCP it is inside `.metadata`.

    {
      "version": 1,
      "fingerprint": "5f...",           of the plan
      "revision": "c0...",              commit of the source, if it is a repository
      "record": {...},                  see `layout_record`
      "reading": {...},                 see `reading_record`; missing if it is empty
      "casting": {...},                 the casts that were asked for
      "casts": [...],                   the casts that were made
      "config": [...],                  the changes of config.json; null if it was to be kept
      "digest": "xxh3-128",
      "shards": {
        "model.safetensors": {"size": 8389520, "sha256": "9a...", "pieces": ["8389520 c1...", ...]}
      },
      "files": {
        "config.json": {"size": 512, "digest": "77...", "sha256": "e3..."}
      }
    }

`Manifest` holds all of it. Code that needs only a part of a manifest reads that part alone, and
accepts a manifest that is wrong elsewhere: opening a checkpoint needs the record, removing one
needs the names of its files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.file_records import RecordedOther, RecordedShard
from streamconv.checkpoint.layout_record import Record, read_record
from streamconv.checkpoint.types import DIGEST, MANIFEST
from streamconv.errors import BadCheckpoint

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that the manifest of an output records."""

    fingerprint: str
    """Digest of the facts of the plan."""
    revision: str | None
    """Commit that was read, if the source is a repository."""
    record: Record
    reading: Mapping[str, Any]
    """How the source was read, as `reading_fields` returns it."""
    casting: Casting
    """The casts that were asked for."""
    casts: Sequence[Mapping[str, Any]]
    """The casts that were made, as `cast_rows` lists them."""
    config: Sequence[Mapping[str, Any]] | None
    """The changes of config.json, in its order; None if it was to be kept as it is."""
    shards: Mapping[str, RecordedShard]
    """By file name, in the order of the plan."""
    others: Mapping[str, RecordedOther]
    """By file name as `printable` returns it, sorted."""

    def encode(self) -> Iterator[bytes]:
        """Yield the content of `streamconv.json`: JSON that is indented by 2, a row at a time."""
        yield _dumps(self._head())[:-2].encode("ascii")
        for key, entries in (("shards", self.shards), ("files", self.others)):
            yield f',\n  "{key}": {{'.encode()
            comma = ""
            for name, entry in entries.items():
                row = _dumps({name: entry.to_json()})[1:-2].replace("\n", "\n  ")
                yield f"{comma}{row}".encode("ascii")
                comma = ","
            yield b"\n  }" if entries else b"}"
        yield b"\n}\n"

    def to_json(self) -> dict[str, Any]:
        """Return the value of the JSON that `encode` yields."""
        return {
            **self._head(),
            "shards": {name: shard.to_json() for name, shard in self.shards.items()},
            "files": {name: other.to_json() for name, other in self.others.items()},
        }

    def _head(self) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            **({"revision": self.revision} if self.revision else {}),
            "record": self.record.to_json(),
            **({"reading": self.reading} if self.reading else {}),
            "casting": self.casting.to_json(),
            "casts": list(self.casts),
            "config": None if self.config is None else list(self.config),
            "digest": DIGEST,
        }


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2)


# --- reading a part of it ----------------------------------------------------------------------


def recorded_layouts(fields: Any, source: str = MANIFEST) -> Record:
    """Return the record of layouts in a manifest.

    Args:
        fields: The manifest as JSON, which may be anything.
        source: The file that it is from, for messages.

    Raises:
        BadCheckpoint: There is no record, or it is malformed.
    """
    return read_record(fields.get("record") if isinstance(fields, Mapping) else None, source)


def recorded_casting(fields: Mapping[str, Any]) -> Casting:
    """Return the casts that were asked for; raises BadCheckpoint if they are malformed."""
    return Casting.from_json(fields.get("casting"), MANIFEST)


def keeps_config(fields: Mapping[str, Any]) -> bool:
    """Return True if a manifest records that config.json was kept as it is."""
    return "config" in fields and fields["config"] is None


def recorded_files(
    fields: Mapping[str, Any],
) -> tuple[dict[str, RecordedShard], dict[str, RecordedOther]]:
    """Return the shards and the other files of a manifest, by name.

    Raises BadCheckpoint if they, their digests or the version are not as this release writes them.
    """
    try:
        if (fields["version"], fields["digest"]) != (FORMAT_VERSION, DIGEST):
            raise ValueError
        shards = {name: RecordedShard.from_json(row) for name, row in fields["shards"].items()}
        others = {name: RecordedOther.from_json(row) for name, row in fields["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BadCheckpoint(f"{MANIFEST}: not a manifest that this release reads") from None
    return shards, others


def recorded_names(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all files that a manifest lists, itself included.

    Nothing else of it is read. There are none if it is not a manifest.
    """
    for key in ("shards", "files"):
        listed = fields.get(key)
        if isinstance(listed, Mapping):
            yield MANIFEST
            yield from listed
