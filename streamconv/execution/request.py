"""What the parts of a run were asked for, kept while they are at work, for who closes it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint

OF_A_PROCESS = ("part", "jobs", "max_memory", "max_rate")
"""Options that are about how a process works, not about what comes out."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """A conversion as it was asked for."""

    src: str
    """An absolute path or a URL, pinned to a commit where there is one."""
    to: str | None
    overwrite: bool
    options: Mapping[str, Any]

    def to_json(self) -> bytes:
        options = {k: v for k, v in self.options.items() if k not in OF_A_PROCESS}
        fields = {"src": self.src, "to": self.to, "overwrite": self.overwrite, "options": options}
        return json.dumps(fields, sort_keys=True).encode("ascii")


def read_request(raw: bytes, what: str) -> ConversionRequest:
    """What `to_json` wrote; `what` names the file. Raises BadCheckpoint."""
    try:
        fields = json.loads(raw)
        return ConversionRequest(
            fields["src"], fields["to"], fields["overwrite"], dict(fields["options"])
        )
    except (ValueError, KeyError, TypeError):
        raise BadCheckpoint(f"{what}: not a command that streamconv wrote") from None
