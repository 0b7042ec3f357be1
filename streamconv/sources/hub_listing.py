"""What a hub says of a repository: its commit, and its files with their sizes.

    GET /api/models/ORG/NAME/revision/REVISION?blobs=true

    {"sha": "COMMIT", "siblings": [{"rfilename": "config.json", "size": 660, "blobId": "ETAG"},
     {"rfilename": "model.safetensors", "size": 7, "lfs": {"sha256": "ETAG"}}]}

The answer is untrusted: it is read up to a limit, and every field that is used is checked.
"""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import parse_json
from streamconv.sources.bad_answers import explain_bad_answers
from streamconv.sources.http_ranges import TIMEOUT, TRANSIENT_STATUS
from streamconv.system import deadline
from streamconv.system.cancellation import CancelToken
from streamconv.system.deadline import LeastRate, within
from streamconv.system.retry import TransientError, retry_after

if TYPE_CHECKING:
    import httpx2

MAX_LISTING_BYTES = 64 * 2**20
"""A listing of a hundred thousand files takes a third of this."""
MAX_ERROR_BYTES = 2**16
"""How much of the body of a refusal is read."""
MAX_FILE_SIZE = 2**63
_COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one commit."""

    commit: str
    sizes: Mapping[str, int]
    """Bytes of every file, by its path with slashes."""
    etags: Mapping[str, str]
    """The ETag of each file for which the hub names one, by path."""


def request_listing(repo: str, revision: str, cancel: CancelToken) -> Listing:
    """Ask the hub for the files of a revision, once.

    Raises:
        TransientError: The hub does not answer, or fails.
        HfHubHTTPError: The hub refuses.
        BadCheckpoint: Its answer is not a listing.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status
    from huggingface_hub.utils._validators import validate_repo_id

    validate_repo_id(repo)
    url = f"{constants.ENDPOINT}/api/models/{repo}/revision/{quote(revision, safe='')}"
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    with explain_bad_answers(quoted(repo)), ExitStack() as stack:
        request = get_session().build_request(
            "GET", url, headers=headers, params={"blobs": True}, timeout=TIMEOUT
        )
        response = within(
            deadline.ANSWER_SECONDS,
            lambda: get_session().send(request, stream=True),
            cancel,
            lambda late: late.close(),
        )
        stack.callback(response.close)
        if response.status_code in TRANSIENT_STATUS:
            wait = retry_after(response.headers)
            raise TransientError(f"the hub answers {response.status_code}", wait=wait)
        raw = _body(response, repo, cancel)
        hf_raise_for_status(response)
        if response.status_code != 200:
            raise BadCheckpoint(
                f"cannot read {quoted(repo)}: the hub answers {response.status_code}"
            )
    return parse_listing(raw, repo)


def _body(response: "httpx2.Response", repo: str, cancel: CancelToken) -> bytes:
    """Return the body of an answer. Raises BadCheckpoint if it is too long."""
    most = MAX_LISTING_BYTES if response.status_code == 200 else MAX_ERROR_BYTES
    rate, raw = LeastRate(), bytearray()
    for chunk in response.iter_raw():
        cancel.check()
        rate.add(len(chunk))
        raw += chunk
        if len(raw) > most and response.status_code == 200:
            raise BadCheckpoint(
                f"cannot read {quoted(repo)}: the hub's listing has over {most:,} bytes"
            )
        if len(raw) > most:
            break
    return bytes(raw)


def parse_listing(raw: bytes, repo: str) -> Listing:
    """Parse the body of an answer as a listing. Raises BadCheckpoint if it is not one."""
    try:
        fields = parse_json(raw, "listing")
    except BadCheckpoint:
        raise _no_listing(repo, "it is not JSON") from None
    if not isinstance(fields, dict):
        raise _no_listing(repo, "it is not an object")
    commit = fields.get("sha")
    if commit is None:
        raise BadCheckpoint(
            f"cannot read {quoted(repo)}: the hub does not say at which commit it is"
        )
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise _no_listing(repo, f"its commit is {_shown(commit)}")
    siblings = fields.get("siblings")
    if not isinstance(siblings, list):
        raise _no_listing(repo, f"its files are {_shown(siblings)}")
    sizes: dict[str, int] = {}
    etags: dict[str, str] = {}
    for sibling in siblings:
        name, size, etag = _parse_file(sibling, repo)
        if name in sizes:
            raise _no_listing(repo, f"it names {quoted(name)} twice")
        sizes[name] = size
        if etag is not None:
            etags[name] = etag
    return Listing(commit, sizes, etags)


def _parse_file(sibling: Any, repo: str) -> tuple[str, int, str | None]:
    """Return the name, size and ETag of a file of the listing. Raises BadCheckpoint."""
    name = sibling.get("rfilename") if isinstance(sibling, dict) else None
    if not isinstance(name, str) or not name:
        raise _no_listing(repo, f"one of its files is {_shown(sibling)}")
    size, lfs = sibling.get("size"), sibling.get("lfs")
    if type(size) is not int or not 0 <= size < MAX_FILE_SIZE:
        raise _no_listing(repo, f"the size of {quoted(name)} is {_shown(size)}")
    if lfs is not None and not isinstance(lfs, dict):
        raise _no_listing(repo, f"the lfs of {quoted(name)} is {_shown(lfs)}")
    etag = lfs.get("sha256") if lfs else sibling.get("blobId")
    if etag is not None and not isinstance(etag, str):
        raise _no_listing(repo, f"the digest of {quoted(name)} is {_shown(etag)}")
    return name, size, etag


def _shown(value: Any) -> str:
    """Return the beginning of a JSON value. Python may refuse to turn a large number into text."""
    if isinstance(value, str | bool | None):
        return quoted(json.dumps(value)[:80])
    if isinstance(value, int | float):
        return "a number that cannot be right"
    return "an object" if isinstance(value, dict) else "a list"


def _no_listing(repo: str, fact: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"cannot read {quoted(repo)}: the hub's answer is not a listing of files: {fact}",
        "check HF_ENDPOINT and the network: a proxy may answer instead of the hub",
    )
