"""A checkpoint at a URL that fsspec opens: `s3://bucket/folder`, `memory://folder` and so on."""

from collections.abc import Mapping, Sequence
from typing import Any

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, UsageError, quoted
from streamconv.sources.base import Source
from streamconv.sources.remote import open_remote
from streamconv.system.cancellation import CancelToken
from streamconv.system.retry import TransientError, retry

RANGE_BYTES = 2 * 2**20
"""The most that is asked for at once: fsspec hands bytes over in memory of its own."""


def open_url(location: str, cancel: CancelToken) -> Source:
    """The checkpoint at a URL.

    Raises UsageError where nothing here opens such a URL, BadCheckpoint and IOFailed as any
    source does.
    """
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{quoted(location)} cannot be opened: {quoted(str(error))}",
            "pip install 'streamconv[fsspec]', and what fsspec needs for this kind of URL",
        ) from error
    return open_remote(UrlFiles(location, filesystem, root, cancel), cancel)


class UrlFiles:
    """The files below a path of one of fsspec's file systems."""

    revision = None

    def __init__(self, location: str, filesystem: Any, root: str, cancel: CancelToken) -> None:
        self.location = location
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._cancel = cancel
        self._found = self._find()
        if not self._found:
            raise BadCheckpoint(f"{self.location}: there are no files")
        self.sizes: Mapping[str, int] = {name: facts[0] for name, facts in self._found.items()}

    def _find(self) -> dict[str, tuple[int, str]]:
        """Size of every file by its name, and whatever tells that it has changed."""
        try:
            found = self._filesystem.find(self._root, detail=True)
        except OSError as error:
            raise IOFailed(f"{self.location}: listing it failed: {error}") from error
        return {
            path.removeprefix(self._root).lstrip("/"): (int(facts["size"]), _stamp(facts))
            for path, facts in found.items()
        }

    def is_cached(self, name: str) -> bool:
        return False

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            for begin in range(0, len(buffer), RANGE_BYTES):
                part = buffer[begin : begin + RANGE_BYTES]
                self._read(name, offset + begin, part)
            offset += len(buffer)

    def check_unchanged(self) -> None:
        """By what the file system says of each file: size, time or ETag, whichever it has."""
        self._filesystem.invalidate_cache(self._root)
        now = self._find()
        for name, facts in self._found.items():
            if now.get(name) != facts:
                raise SourceChanged(f"{quoted(name)} has changed since it was planned")

    def close(self) -> None:
        """There is nothing to let go of."""

    def _read(self, name: str, offset: int, part: memoryview) -> None:
        def attempt() -> bytes:
            try:
                data = self._filesystem.cat_file(path, start=offset, end=offset + len(part))
            except FileNotFoundError as error:
                raise SourceChanged(f"{quoted(name)} has gone since it was planned") from error
            except PermissionError as error:
                raise IOFailed(f"{quoted(name)}: may not be read: {error}") from error
            except Exception as error:  # each file system has errors of its own
                raise TransientError(str(error) or type(error).__name__) from error
            return bytes(data)

        path = f"{self._root}/{name}"
        data = retry(f"{quoted(name)}: reading failed", attempt, self._cancel)
        if len(data) != len(part):
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: of {len(part)} bytes at "
                f"{offset} there are {len(data)}"
            )
        part[:] = data


def _stamp(facts: Mapping[str, Any]) -> str:
    """What changes with a file, under the names that file systems have for it."""
    return str([facts.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created")])
