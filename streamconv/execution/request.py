"""What the user asked for: one value for a whole conversion.

Its lasting half is stored next to the shards until they are committed, so that `finish` and a
resumed run can read it.
"""

import json
from dataclasses import dataclass, field
from typing import cast

from streamconv.errors import BadCheckpoint
from streamconv.options import Location, Options

PROCESS_OPTIONS = ("part", "jobs", "max_memory", "max_rate")
"""Options of one process. They do not change the result, so they are not stored."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """A conversion as the user asked for it."""

    src: str
    """A path or URL; absolute and pinned to a commit once it is stored."""
    dst: Location
    to: str | None = None
    """The form or layout of the result; None for what merging makes of the source."""
    overwrite: bool = False
    resume: bool = False
    verify: bool = False
    """True to verify the result before it is moved to `dst`."""
    options: Options = field(default_factory=Options)

    def to_json(self) -> bytes:
        """Return the fields that are stored: those that are the same in every process."""
        options = {k: v for k, v in self.options.items() if k not in PROCESS_OPTIONS}
        fields = {"src": self.src, "to": self.to, "overwrite": self.overwrite, "options": options}
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
    try:
        fields = json.loads(raw)
        return ConversionRequest(
            fields["src"],
            dst,
            fields["to"],
            overwrite=fields["overwrite"],
            resume=True,
            options=cast(Options, dict(fields["options"])),
        )
    except (ValueError, KeyError, TypeError):
        raise BadCheckpoint(
            f"cannot read {path}: it is not a request that streamconv stored",
            "remove the folder that holds it, and convert again",
        ) from None
