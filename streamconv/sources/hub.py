"""A repository of the Hugging Face hub: `hf://org/name` or `hf://org/name@revision`.

Through huggingface_hub, so that tokens, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` mean what
its users know. The commit is pinned when the repository is opened; files that lie in the local
cache for that commit are read from there. Offline, the cached snapshot is the source.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, UsageError, quoted
from streamconv.sources.base import Source
from streamconv.sources.http_ranges import (
    PASSING_STATUS,
    TIMEOUT,
    RangeLocation,
    Ranges,
)
from streamconv.sources.hub_errors import explain_refusals
from streamconv.sources.remote import open_remote
from streamconv.sources.safe_paths import is_below
from streamconv.sources.safetensors_folder import open_folder
from streamconv.system.cancellation import CancelToken
from streamconv.system.linux_file_ops import system_files
from streamconv.system.retry import TransientError, retry, retry_after

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

SCHEME = "hf://"
DEFAULT_REVISION = "main"
_LOCATION = re.compile(rf"{SCHEME}(?P<repo>[^/@\s]+(/[^/@\s]+)?)(@(?P<revision>\S+))?/?")


def open_repository(location: str, cancel: CancelToken) -> Source:
    """The checkpoint in a repository, at the commit that its revision is now.

    Raises UsageError where `location` names none, BadCheckpoint where there is none or it may
    not be read, IOFailed where the hub cannot be reached.
    """
    from huggingface_hub.constants import is_offline_mode

    match = _LOCATION.fullmatch(location)
    if match is None:
        raise UsageError(
            f"{quoted(location)} names no repository", "write hf://org/name or hf://org/name@v1.0"
        )
    repo, revision = match["repo"], match["revision"] or DEFAULT_REVISION
    if is_offline_mode():
        folder = _snapshot(repo, revision)
        return open_folder(location, folder=folder, revision=folder.name)
    with explain_refusals(repo, revision):
        what = f"{location}: asking the hub failed"
        info = retry(what, lambda: _info(repo, revision), cancel)
    return open_remote(RepositoryFiles(location, repo, info, cancel), cancel)


class RepositoryFiles:
    """The files of one commit."""

    def __init__(self, location: str, repo: str, info: "ModelInfo", cancel: CancelToken) -> None:
        from huggingface_hub import get_session

        if info.sha is None:
            raise BadCheckpoint(f"{location}: the hub does not say which commit it is")
        self.location = location
        self.revision: str | None = info.sha
        self._repo = repo
        self._commit = info.sha
        self.sizes: Mapping[str, int] = {
            file.rfilename: file.size for file in info.siblings or () if file.size is not None
        }
        self._etags = {
            file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
            for file in info.siblings or ()
        }
        self._cached = {name: path for name in self.sizes if (path := self._in_cache(name))}
        self._ranges = Ranges(get_session, self._locate, cancel)
        self._files = system_files()
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_cached(self, name: str) -> bool:
        return name in self._cached

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        path = self._cached.get(name)
        if path is None:
            self._ranges.read_into(name, self.sizes[name], offset, buffers)
            return
        try:
            for buffer in buffers:
                if self._files.read_into(self._descriptor(path), buffer, offset) < len(buffer):
                    raise BadCheckpoint(
                        f"{quoted(str(path))} in the hub's cache has become shorter"
                    )
                offset += len(buffer)
        except OSError as error:
            raise IOFailed(f"{quoted(str(path))}: reading failed: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """A commit stays what it is; every answer has been held against it."""

    def close(self) -> None:
        with self._lock:
            for fd in self._open.values():
                self._files.close(fd)
            self._open.clear()

    def _in_cache(self, name: str) -> Path | None:
        """The file in the local cache, where it lies there whole."""
        from huggingface_hub import try_to_load_from_cache

        if not is_below(name):
            return None
        path = try_to_load_from_cache(self._repo, name, revision=self._commit)
        if isinstance(path, str) and Path(path).stat().st_size == self.sizes.get(name):
            return Path(path)
        return None

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if str(path) not in self._open:
                self._open[str(path)] = self._files.open_read(path)
            return self._open[str(path)]

    def _locate(self, name: str) -> RangeLocation:
        """Where the hub says that a file's bytes are: on itself, or on a storage it signs for."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._repo, name, revision=self._commit)
        with explain_refusals(self._repo, self._commit), _passing():
            metadata = get_hf_file_metadata(url, timeout=TIMEOUT)
        known = self._etags.get(name)
        if known and metadata.etag and metadata.etag != known:
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: the hub listed it as "
                f"{quoted(known)}, it sends {quoted(metadata.etag)}"
            )
        own = urlsplit(metadata.location)[:2] == urlsplit(constants.ENDPOINT)[:2]
        return RangeLocation(metadata.location, build_hf_headers() if own else {})


def _info(repo: str, revision: str) -> "ModelInfo":
    from huggingface_hub import HfApi

    with _passing():
        return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)


def _snapshot(repo: str, revision: str) -> Path:
    """The folder of a revision in the local cache."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise BadCheckpoint(
            f"{quoted(repo)}: offline mode is on, and revision {quoted(revision)} is not in the "
            f"cache {constants.HF_HUB_CACHE}",
            "unset HF_HUB_OFFLINE, or download it first",
        ) from None


@contextmanager
def _passing() -> Iterator[None]:
    """Turns the failures that another attempt may not meet into Passing."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code not in PASSING_STATUS:
            raise
        wait = retry_after(error.response.headers)
        raise TransientError(f"the hub answers {error.response.status_code}", wait=wait) from error
    except httpx2.TransportError as error:
        raise TransientError(f"the hub cannot be reached: {error}") from error
