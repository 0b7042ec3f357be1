"""Objects that have what no other process and no copy can have, such as open files."""

from typing import ClassVar, NoReturn, SupportsIndex


class NotCopied:
    """An object that is neither pickled nor copied. Forked processes may use it as it is."""

    why_not_copied: ClassVar[str] = (
        "it has open files; open the checkpoint again with streamconv.open, in each process"
    )
    """Why not, and what to do instead."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled or copied. Raises TypeError."""
        kind = type(self).__name__
        raise TypeError(f"cannot pickle or copy a {kind}: {self.why_not_copied}")
