"""Makes a request mean the same later: absolute paths, and commits instead of branches."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from streamconv.errors import StreamconvError
from streamconv.execution.request import ConversionRequest, read_request
from streamconv.options import Options
from streamconv.sources.base import Source
from streamconv.sources.open import is_url
from streamconv.system.absolute_paths import absolute_path


def pin_request(request: ConversionRequest, source: Source) -> ConversionRequest:
    """Return the request with absolute paths, and with the commit at which `source` is open."""
    changed: Options = {}
    family, template = request.options.get("family"), request.options.get("template")
    if family is not None:
        changed["family"] = str(absolute_path(family))
    if template is not None:
        changed["template"] = _absolute(str(template))
    checkpoint = source.checkpoint
    src = _absolute(checkpoint.location)
    if checkpoint.revision:
        src = f"{checkpoint.location.partition('@')[0].rstrip('/')}@{checkpoint.revision}"
    dst = str(absolute_path(request.dst))
    return replace(request, src=src, dst=dst, options={**request.options, **changed})


def _absolute(location: str) -> str:
    """Return an absolute path, or the URL as it is."""
    return location if is_url(location) else str(absolute_path(location))


def resumed_source(request: ConversionRequest) -> str:
    """Return the source of a run that resumes.

    A branch of the hub may have moved since the run started. If that run stored the commit of the
    same repository, it is that commit; otherwise the source that the user named.
    """
    from streamconv.sinks.journal_files import load_request

    src = request.src
    with suppress(StreamconvError):
        stored = read_request(*load_request(Path(request.dst)), request.dst).src
        if is_url(src) and stored.rpartition("@")[0] == src.rstrip("/").removesuffix("@main"):
            return stored
    return src
