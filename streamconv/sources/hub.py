"""A repository of the Hugging Face hub: `hf://org/name` or `hf://org/name@revision`.

It is read through huggingface_hub, so tokens, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` have
their usual meaning. The commit is pinned when the repository is opened. Files that the local cache
holds for that commit are read from there. In offline mode the cached snapshot is the source.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, UsageError, quoted
from streamconv.sources.base import Source
from streamconv.sources.http_ranges import TIMEOUT, TRANSIENT_STATUS, RangeLocation, Ranges
from streamconv.sources.hub_errors import explain_refusals
from streamconv.sources.open_files import OpenFiles
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
    """Open the checkpoint in a repository, at the commit that its revision is at now.

    Raises:
        UsageError: `location` does not name a repository.
        BadCheckpoint: There is no such repository or revision, it may not be read, or it does not
            hold a checkpoint.
        IOFailed: The hub cannot be reached.
    """
    from huggingface_hub.constants import is_offline_mode

    match = _LOCATION.fullmatch(location)
    if match is None:
        raise UsageError(
            f"cannot read {quoted(location)}: it does not name a repository",
            "write hf://org/name or hf://org/name@revision",
        )
    repo, revision = match["repo"], match["revision"] or DEFAULT_REVISION
    if is_offline_mode():
        folder = _cached_snapshot(repo, revision)
        return open_folder(location, folder=folder, revision=folder.name)
    with explain_refusals(repo, revision):
        info = retry(f"cannot read {location}", lambda: _model_info(repo, revision), cancel)
    return open_remote(RepositoryFiles(location, repo, info, cancel), cancel)


class RepositoryFiles:
    """The files of one commit, as `RemoteFiles`."""

    def __init__(self, location: str, repo: str, info: "ModelInfo", cancel: CancelToken) -> None:
        from huggingface_hub import get_session

        if info.sha is None:
            raise BadCheckpoint(
                f"cannot read {location}: the hub does not say at which commit it is"
            )
        self.location = location
        self.revision: str | None = info.sha
        self._repo = repo
        self._commit = info.sha
        self.sizes: Mapping[str, int] = {
            file.rfilename: file.size for file in info.siblings or () if file.size is not None
        }
        self._listed_etags = {
            file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
            for file in info.siblings or ()
        }
        self._cached = {name: path for name in self.sizes if (path := self._cached_path(name))}
        self._ranges = Ranges(get_session, self._locate, cancel)
        self._files = system_files()
        self._open = OpenFiles(self._files, Path)

    def is_cached(self, name: str) -> bool:
        return name in self._cached

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        path = self._cached.get(name)
        if path is None:
            self._ranges.read_into(name, self.sizes[name], offset, buffers)
        else:
            self._read_cached(path, offset, buffers)

    def _read_cached(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> None:
        try:
            with self._open.descriptor(str(path)) as fd:
                for buffer in buffers:
                    if self._files.read_into(fd, buffer, offset) < len(buffer):
                        raise BadCheckpoint(
                            f"{quoted(str(path))} in the hub's cache has become shorter"
                        )
                    offset += len(buffer)
        except OSError as error:
            raise IOFailed(f"cannot read {quoted(str(path))}: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """Do nothing: a commit never changes, and every response was checked against it."""

    def close(self) -> None:
        self._open.close()

    def _cached_path(self, name: str) -> Path | None:
        """Return the path of a file in the local cache, or None if it is not there completely."""
        from huggingface_hub import try_to_load_from_cache

        if not is_below(name):
            return None
        path = try_to_load_from_cache(self._repo, name, revision=self._commit)
        if isinstance(path, str) and Path(path).stat().st_size == self.sizes.get(name):
            return Path(path)
        return None

    def _locate(self, name: str) -> RangeLocation:
        """Ask the hub where the bytes of a file are: on itself, or on a storage it signs for.

        The storage is never shown the token. Raises SourceChanged if the hub has another file.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._repo, name, revision=self._commit)
        with explain_refusals(self._repo, self._commit), _transient_errors():
            metadata = get_hf_file_metadata(url, timeout=TIMEOUT)
        listed = self._listed_etags.get(name)
        if listed and metadata.etag and metadata.etag != listed:
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: the hub listed it as "
                f"{quoted(listed)}, it sends {quoted(metadata.etag)}"
            )
        on_hub = urlsplit(metadata.location)[:2] == urlsplit(constants.ENDPOINT)[:2]
        return RangeLocation(metadata.location, build_hf_headers() if on_hub else {})


def _model_info(repo: str, revision: str) -> "ModelInfo":
    from huggingface_hub import HfApi

    with _transient_errors():
        return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)


def _cached_snapshot(repo: str, revision: str) -> Path:
    """Return the folder of a revision in the local cache. Raises BadCheckpoint if it is missing."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise BadCheckpoint(
            f"cannot read {quoted(repo)}: offline mode is on, and revision {quoted(revision)} is "
            f"not in the cache {constants.HF_HUB_CACHE}",
            "unset HF_HUB_OFFLINE, or download the repository first",
        ) from None


@contextmanager
def _transient_errors() -> Iterator[None]:
    """Replace errors that may be gone at the next attempt by TransientError."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code not in TRANSIENT_STATUS:
            raise
        wait = retry_after(error.response.headers)
        raise TransientError(f"the hub answers {error.response.status_code}", wait=wait) from error
    except httpx2.TransportError as error:
        raise TransientError(f"the hub cannot be reached: {error}") from error
