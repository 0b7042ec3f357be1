"""A repository of the Hugging Face hub: `hf://org/name` or `hf://org/name@revision`.

It is read through huggingface_hub, so tokens, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` have
their usual meaning. The commit is pinned when the repository is opened. Files that the local cache
holds for that commit are read from there. In offline mode the cached snapshot is the source.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, UsageError, quoted
from streamconv.options import Opening
from streamconv.sources.bad_answers import explain_bad_answers
from streamconv.sources.base import Source
from streamconv.sources.http_ranges import TIMEOUT, TRANSIENT_STATUS, RangeLocation, Ranges
from streamconv.sources.hub_cache import cache_paths, cached_snapshot
from streamconv.sources.hub_environment import check_environment
from streamconv.sources.hub_errors import explain_refusals
from streamconv.sources.hub_listing import Listing, request_listing
from streamconv.sources.open_files import OpenFiles
from streamconv.sources.remote import open_remote
from streamconv.sources.safe_paths import is_below
from streamconv.sources.safetensors_folder import open_folder
from streamconv.system import deadline
from streamconv.system.cancellation import CancelToken
from streamconv.system.deadline import within
from streamconv.system.linux_file_ops import system_files
from streamconv.system.retry import TransientError, retry, retry_after

SCHEME = "hf://"
DEFAULT_REVISION = "main"
SCRATCH_BYTES = 2**19
"""A connection with its encryption, and what has arrived of a response: 64 kB at a time."""
_LOCATION = re.compile(rf"{SCHEME}(?P<repo>[^/@\s]+(/[^/@\s]+)?)(@(?P<revision>\S+))?/?")


def open_repository(location: str, opening: Opening, cancel: CancelToken) -> Source:
    """Open the checkpoint in a repository, at the commit that its revision is at now.

    Raises:
        UsageError: `location` does not name a repository.
        BadCheckpoint: There is no such repository or revision, it may not be read, or it does not
            hold a checkpoint.
        IOFailed: The hub cannot be reached.
    """
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise UsageError(
            f"cannot read {quoted(location)}: it does not name a repository",
            "write hf://org/name or hf://org/name@revision",
        )
    repo, revision = match["repo"], match["revision"] or DEFAULT_REVISION
    check_environment()
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        with explain_refusals(repo, revision):
            folder = cached_snapshot(repo, revision)
        cache = cache_paths(repo, revision, folder.name)
        return open_folder(location, opening, folder=folder, revision=folder.name, cache=cache)
    with explain_refusals(repo, revision):
        listing = retry(
            f"cannot read {location}",
            lambda: request_listing(repo, revision, cancel),
            cancel,
            _hint(repo),
        )
    cache = cache_paths(repo, revision, listing.commit)
    return open_remote(RepositoryFiles(location, repo, listing, cache, cancel), opening, cancel)


def _hint(repo: str) -> str:
    """Return what to do if the hub does not answer.

    A name without an organization may be the reason: almost no repository has such a name.
    """
    network = "check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to read what is cached"
    return network if "/" in repo else f"write hf://org/name; else {network}"


class RepositoryFiles:
    """The files of one commit, as `RemoteFiles`."""

    def __init__(
        self,
        location: str,
        repo: str,
        listing: Listing,
        cache: tuple[Path, ...],
        cancel: CancelToken,
    ) -> None:
        from huggingface_hub import get_session

        self.location = location
        self.local_paths = cache
        self.scratch_bytes = SCRATCH_BYTES
        self.revision: str | None = listing.commit
        self._repo = repo
        self._commit = listing.commit
        self._cancel = cancel
        self.sizes: Mapping[str, int] = listing.sizes
        self._listed_etags = listing.etags
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
        """Return the path of a file in the local cache, or None if it is missing or incomplete."""
        from huggingface_hub import try_to_load_from_cache

        if not is_below(name):
            return None
        path = try_to_load_from_cache(self._repo, name, revision=self._commit)
        if isinstance(path, str) and Path(path).stat().st_size == self.sizes.get(name):
            return Path(path)
        return None

    def _locate(self, name: str) -> RangeLocation:
        """Ask the hub where the bytes of a file are: on the hub, or at a signed URL of a storage.

        The storage is never shown the token. Raises SourceChanged if the hub has another file.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._repo, name, revision=self._commit)
        refused = explain_refusals(self._repo, self._commit, name)
        with refused, _transient_errors(quoted(name)):
            metadata = within(
                deadline.ANSWER_SECONDS,
                lambda: get_hf_file_metadata(url, timeout=TIMEOUT),
                self._cancel,
            )
            on_hub = urlsplit(metadata.location)[:2] == urlsplit(constants.ENDPOINT)[:2]
        listed = self._listed_etags.get(name)
        if listed and metadata.etag and metadata.etag != listed:
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: the hub listed it as "
                f"{quoted(listed)}, it sends {quoted(metadata.etag)}"
            )
        return RangeLocation(metadata.location, build_hf_headers() if on_hub else {})


@contextmanager
def _transient_errors(subject: str) -> Iterator[None]:
    """Raise TransientError in place of errors that a retry may overcome."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with explain_bad_answers(subject):
            yield
    except HfHubHTTPError as error:
        if error.response.status_code not in TRANSIENT_STATUS:
            raise
        wait = retry_after(error.response.headers)
        raise TransientError(f"the hub answers {error.response.status_code}", wait=wait) from error
