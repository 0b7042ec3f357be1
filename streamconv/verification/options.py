"""What a user may ask of a verification."""

from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.options import Reading
from streamconv.system.cancellation import CancelToken
from streamconv.verification.result import OnEvent
from streamconv.verification.sides import EVERYTHING, Sample


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify."""

    jobs: int
    """Number of threads."""
    catalog: Catalog
    sample: Sample = EVERYTHING
    sha256: bool = False
    """True to report the SHA-256 of each file of the checkpoint that is verified."""
    reading: Reading = field(default_factory=Reading)
    """Describes the source, or the only checkpoint; its prefixes are for both."""
    target_layout: str | None = None
    """Layout or form of the checkpoint that is verified, if it does not record its own."""
    on_event: OnEvent | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    """Ends the verification with Interrupted if it is set."""
