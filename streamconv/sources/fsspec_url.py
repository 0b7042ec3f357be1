"""A checkpoint at a URL that fsspec opens: `s3://bucket/folder`, `memory://folder` and so on."""

from collections.abc import Mapping, Sequence
from typing import Any

from streamconv.errors import (
    BadCheckpoint,
    Interrupted,
    IOFailed,
    SourceChanged,
    UsageError,
    quoted,
)
from streamconv.options import Opening
from streamconv.sources.base import Source
from streamconv.sources.fsspec_paths import paths_read
from streamconv.sources.remote import open_remote
from streamconv.sources.request_gate import RequestGate
from streamconv.system.cancellation import CancelToken
from streamconv.system.retry import TransientError, retry

RANGE_BYTES = 2 * 2**20
"""The most bytes in a request: fsspec returns bytes in memory of its own."""
SCRATCH_BYTES = 5 * 2**20
"""A connection, and a range in transit, which some file systems put together of its parts."""
_CHANGE_KEYS = ("ETag", "etag", "mtime", "LastModified", "created")
"""The fields of a listing that change with the file; each file system has other ones."""


def open_url(location: str, opening: Opening, cancel: CancelToken) -> Source:
    """Open the checkpoint at a URL.

    Raises:
        UsageError: Nothing that is installed opens such a URL, or it lacks a part.
        BadCheckpoint: There is no checkpoint, or it is malformed or incomplete.
        IOFailed: Reading failed.
    """
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot open {quoted(location)}: {quoted(str(error))}",
            "run pip install 'streamconv[fsspec]', and install what fsspec needs for such URLs",
        ) from error
    except OSError as error:
        raise IOFailed(f"cannot open {quoted(location)}: {_reason(error)}") from error
    except Interrupted:
        raise
    except Exception as error:  # each file system has errors of its own for what a URL lacks
        raise UsageError(
            f"cannot open {quoted(location)}: fsspec makes no file system of it: {_reason(error)}",
            "check the URL: it may lack a host, or after `::` the URL of an archive or folder",
        ) from error
    return open_remote(UrlFiles(location, filesystem, root, cancel), opening, cancel)


class UrlFiles:
    """The files below a path of one of fsspec's file systems, as `RemoteFiles`."""

    revision = None

    def __init__(self, location: str, filesystem: Any, root: str, cancel: CancelToken) -> None:
        self.location = location
        self.scratch_bytes = SCRATCH_BYTES
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.local_paths = paths_read(filesystem, root)
        self._cancel = cancel
        self._gate = RequestGate(cancel)
        self._listing = self._list()
        if not self._listing:
            raise BadCheckpoint(f"cannot read {self.location}: there are no files")
        self.sizes: Mapping[str, int] = {name: size for name, (size, _) in self._listing.items()}

    def _list(self) -> dict[str, tuple[int, str]]:
        """Return the size of every file and a text that changes with the file, by name."""
        try:
            found = self._filesystem.find(self._root, detail=True)
        except Interrupted:
            raise
        except Exception as error:  # each file system has errors of its own
            raise IOFailed(f"cannot list {self.location}: {_reason(error)}") from error
        try:
            return {
                path.removeprefix(self._root).lstrip("/"): (
                    int(fields["size"]),
                    str([fields.get(key) for key in _CHANGE_KEYS]),
                )
                for path, fields in found.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise BadCheckpoint(
                f"cannot read {self.location}: the listing has a file without a size"
            ) from None

    def is_cached(self, name: str) -> bool:
        return False

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            for begin in range(0, len(buffer), RANGE_BYTES):
                self._read_range(name, offset + begin, buffer[begin : begin + RANGE_BYTES])
            offset += len(buffer)

    def check_unchanged(self) -> None:
        """Check every file against the listing that was made when the source was opened."""
        self._filesystem.invalidate_cache(self._root)
        now = self._list()
        for name, entry in self._listing.items():
            if now.get(name) != entry:
                raise SourceChanged(f"{quoted(name)} has changed since it was planned")

    def close(self) -> None:
        """Do nothing: fsspec keeps no file open between reads."""

    def _read_range(self, name: str, offset: int, buffer: memoryview) -> None:
        path = f"{self._root}/{name}"

        def attempt() -> bytes:
            with self._gate.request() as measured:
                data = fetch()
                measured.add(len(data))
            return data

        def fetch() -> bytes:
            try:
                data = self._filesystem.cat_file(path, start=offset, end=offset + len(buffer))
            except FileNotFoundError as error:
                raise SourceChanged(f"{quoted(name)} has gone since it was planned") from error
            except PermissionError as error:
                raise IOFailed(
                    f"cannot read {quoted(name)}: it is not permitted: {error}"
                ) from error
            except Exception as error:  # each file system has errors of its own
                raise TransientError(str(error) or type(error).__name__) from error
            return bytes(data)

        data = retry(f"cannot read {quoted(name)}", attempt, self._cancel, "check the network")
        if len(data) != len(buffer):
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: of {len(buffer)} bytes at "
                f"{offset} there are {len(data)}"
            )
        buffer[:] = data


def _reason(error: Exception) -> str:
    """Return what an error says; its kind if it says nothing."""
    return quoted(str(error)) or type(error).__name__
