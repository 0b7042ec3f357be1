"""The request of a relay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """Options of `streamconv.relay`, and the content of config.json."""

    source: str | None
    """The form or layout that the tensors have, if the user names it."""
    to: str
    config: Mapping[str, Any]
    views: bool
    max_open_layers: int
