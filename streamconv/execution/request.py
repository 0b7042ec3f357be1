"""What the user asked for: one value for a whole conversion.

The fields that are the same in every process are stored next to the shards until these are
committed, so that `finish` and a resumed run can read them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from streamconv.checkpoint.user_renames import parse_rename
from streamconv.errors import BadCheckpoint, UsageError, quoted
from streamconv.formats.strict_json import parse_json_object
from streamconv.options import Location, Options, parse_layers, preset_of
from streamconv.planning.partition import MAX_PARTS, parse_partition
from streamconv.system.typed_text import flaw_of
from streamconv.units import parse_size

PROCESS_OPTIONS = ("part", "jobs", "max_memory", "max_rate")
"""Options of one process. They do not change the result, so they are not stored."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """A conversion as the user asked for it."""

    src: str
    """A path or URL; absolute and pinned to a commit once it is stored."""
    dst: Location
    to: str | None = None
    """The form or layout of the result; None for the one that merging chooses for the source."""
    overwrite: bool = False
    resume: bool = False
    verify: bool = False
    """True to verify the result before it is moved to `dst`."""
    options: Options = field(default_factory=Options)
    parts: int = 1
    """How many parts share the conversion. In a stored request, it is the number that was given to
    the part that started last."""

    def to_json(self) -> bytes:
        """Return the fields that are stored: those that are the same in every process."""
        stored = {k: v for k, v in self.options.items() if k not in PROCESS_OPTIONS}
        options = {k: v for k, v in stored.items() if v != ()}
        fields: dict[str, Any] = {"src": self.src, "to": self.to, "overwrite": self.overwrite}
        fields["options"] = options
        parts = parse_partition(self.options.get("part") or "1/1").of
        if parts > 1:
            fields["parts"] = parts
        return json.dumps(fields, sort_keys=True).encode("ascii")


def read_request(raw: bytes, path: str, dst: Location) -> ConversionRequest:
    """Return a stored request, as one that resumes what it started.

    Args:
        raw: The bytes that `to_json` returned.
        path: The file they were read from, for the error.
        dst: The target, which is not stored: the request lies next to it.

    Raises:
        BadCheckpoint: They are not a stored request.
    """
    fields: Mapping[str, Any] = {}
    wrong = ""
    try:
        fields = parse_json_object(raw, quoted(path), half_characters=True)
        wrong = _wrong_field(fields)
    except BadCheckpoint as error:
        wrong = error.message.rpartition(": ")[2]
    except UsageError as error:
        wrong = error.message
    if wrong:
        raise BadCheckpoint(
            f"cannot read {quoted(path)}: it is not a request that streamconv stored: {wrong}",
            "remove the folder that holds it, and convert again",
        ) from None
    return ConversionRequest(
        fields["src"],
        dst,
        fields["to"],
        overwrite=fields["overwrite"],
        resume=True,
        options=cast(Options, dict(fields["options"])),
        parts=fields.get("parts", 1),
    )


_TEXTS = frozenset(
    {
        *("source_layout", "preset", "hf_prefix", "dcp_prefix", "family", "template", "layers"),
        *("format", "dtype", "dequantize", "quantize", "scale", "max_shard_size"),
    }
)
_PATHS = frozenset({"family", "template"})
_FLAGS = frozenset(
    {
        "fill_from_template",
        "add_unlisted",
        "cast_all",
        "pass_through",
        "copy",
        "keep_config",
        "sha256",
    }
)
_LISTS = frozenset({"rename", "only", "skip"})


def _wrong_field(fields: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields of a stored request; empty if nothing is.

    Raises UsageError if an option makes no sense.
    """
    kinds: dict[str, Any] = {"src": str, "to": str | None, "overwrite": bool, "options": dict}
    for name, kind in kinds.items():
        if name not in fields or not isinstance(fields[name], kind):
            return f"its field {name} is missing, or has another type"
    if flaw_of(fields["src"], is_path=True):
        return "its field src is not a path"
    if not (type(parts := fields.get("parts", 1)) is int and 1 <= parts < MAX_PARTS):
        return "its field parts is not a number of parts"
    return _wrong_option(fields["options"])


def _wrong_option(options: Mapping[str, Any]) -> str:
    """Return what is wrong with stored options; empty if nothing is. Raises UsageError."""
    for name, value in options.items():
        if name in _LISTS and isinstance(value, list):
            if not all(
                isinstance(text, str) and not flaw_of(text, is_path=False) for text in value
            ):
                return f"its option {name} is not a list of texts that can be typed"
            continue
        kind = str | None if name in (*_TEXTS, *_LISTS) else bool if name in _FLAGS else None
        if name == "max_shard_size" and type(value) is int:
            continue
        if kind is None or not isinstance(value, kind):
            return f"its option {quoted(name)} is not known, or has another type"
        if isinstance(value, str) and flaw_of(value, is_path=name in _PATHS):
            return f"its option {quoted(name)} is not text that can be typed"
    for text in options.get("rename") or ():
        parse_rename(text)
    if options.get("layers"):
        parse_layers(options["layers"])
    if options.get("max_shard_size"):
        parse_size(options["max_shard_size"])
    preset_of(cast(Options, options))
    return ""
