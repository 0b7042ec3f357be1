"""The files that a conversion removes, as the plan shows them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that is removed: of the former target, or of an unfinished run."""

    path: str
    """Its absolute path."""
    nbytes: int
