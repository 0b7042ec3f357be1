"""What the manifest and the journals record of a file: its size, and digests of its bytes."""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

_PIECE = re.compile(r"(0|[1-9][0-9]{0,17}) ([0-9a-f]{32})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PieceRows(Collection[str]):
    """The rows of pieces as one text: a shard may have thousands, and a run a hundred shards."""

    __slots__ = ("_text",)

    def __init__(self, rows: Iterable[str]) -> None:
        left = iter(rows)
        # some at a time: all rows as texts of their own would take twice as much
        some = iter(lambda: "\n".join(itertools.islice(left, 1000)), "")
        self._text = "\n".join(some)

    def json_array(self) -> str:
        """Return the JSON of the list of rows, which have no character to be escaped."""
        return '["' + self._text.replace("\n", '", "') + '"]' if self._text else "[]"

    def __iter__(self) -> Iterator[str]:
        return iter(self._text.split("\n") if self._text else ())

    def __len__(self) -> int:
        return self._text.count("\n") + bool(self._text)

    def __contains__(self, row: object) -> bool:
        return row in list(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PieceRows | tuple | list) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal tuples would have another hash


@dataclass(frozen=True, slots=True)
class RecordedShard:
    """A shard, with a digest for each piece."""

    size: int
    pieces: Collection[str]
    """Bytes and digest of each piece, in order, as `piece_row` writes them."""
    sha256: str | None = None

    def runs(self) -> Iterator[tuple[int, str]]:
        """Yield size and digest of each piece."""
        yield from map(parse_piece, self.pieces)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `from_json` reads."""
        return {"size": self.size, **_sha256_field(self.sha256), "pieces": list(self.pieces)}

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Read what `to_json` returned. Raises ValueError, TypeError or KeyError."""
        shard = cls(_read_size(fields), tuple(fields["pieces"]), _read_sha256(fields))
        if sum(nbytes for nbytes, _ in shard.runs()) != shard.size:
            raise ValueError
        return shard


@dataclass(frozen=True, slots=True)
class RecordedOther:
    """A file without tensors, with one digest."""

    size: int
    digest: str
    sha256: str | None = None

    def runs(self) -> Iterator[tuple[int, str]]:
        """Yield size and digest of the file."""
        yield self.size, self.digest

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `from_json` reads."""
        return {"size": self.size, "digest": self.digest, **_sha256_field(self.sha256)}

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Read what `to_json` returned. Raises ValueError, TypeError or KeyError."""
        digest = fields["digest"]
        if not isinstance(digest, str):
            raise TypeError
        return cls(_read_size(fields), digest, _read_sha256(fields))


RecordedFile = RecordedShard | RecordedOther


def piece_row(nbytes: int, digest: str) -> str:
    """Return the text that records a piece, for the manifest and for journals."""
    return f"{nbytes} {digest}"


def parse_piece(row: Any) -> tuple[int, str]:
    """Return bytes and digest of what `piece_row` wrote. Raises ValueError for anything else."""
    found = _PIECE.fullmatch(row) if isinstance(row, str) else None
    if found is None:
        raise ValueError(f"{row!r} is not a piece")
    return int(found[1]), found[2]


def printable(name: str) -> str:
    """Return a file name as JSON can hold it: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_size(fields: Any) -> int:
    size = fields["size"]
    if type(size) is not int or size < 0:
        raise ValueError
    return size


def _read_sha256(fields: Any) -> str | None:
    sha256 = fields.get("sha256")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError
    return sha256


def _sha256_field(sha256: str | None) -> dict[str, str]:
    return {"sha256": sha256} if sha256 else {}
