"""The request of a relay."""

from collections.abc import Mapping
from typing import Any

from streamconv.records import dataclass


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """Options of `streamconv.relay`, and the content of config.json."""

    source: str | None
    """The form or layout that the tensors have, if the user names it."""
    to: str
    config: Mapping[str, Any]
    views: bool
    max_open_layers: int
