"""Which kind of source a location is."""

from streamconv.keys import Prefixes
from streamconv.sources import Source
from streamconv.stop import Stop


def is_url(location: str) -> bool:
    """Whether a location is not a path on this machine: `hf://org/name`, `s3://bucket/folder`."""
    return "://" in location


def open_source(
    location: str, prefixes: Prefixes | None = None, stop: Stop | None = None
) -> Source:
    """The checkpoint at `location`: a DCP, safetensors in a local folder, a repository, a URL.

    `prefixes` are those of a DCP's keys, where they are not what it says itself; `stop` ends the
    waits of all its reads. Raises StreamconvError where there is none, or it cannot be read as one.
    """
    if location.startswith("hf://"):
        from streamconv.sources.hub import open_repository

        return open_repository(location, stop or Stop())
    if is_url(location):
        from streamconv.sources.filesystem import open_url

        return open_url(location, stop or Stop())
    from streamconv.sources.dcp import find_dcp, open_dcp
    from streamconv.sources.local import open_folder

    folder = find_dcp(location)
    return open_dcp(location, folder, prefixes) if folder else open_folder(location)


def open_template(
    source: Source, location: str, stop: Stop, *, fill: bool, stated: str | None, casts: bool
) -> Source:
    """`source` with the template at `location`, opened; see `with_template`.

    Raises StreamconvError; the source then stays open, the template does not.
    """
    from streamconv.sources.template import with_template

    template = open_source(location, stop=stop)
    try:
        return with_template(source, template, fill=fill, stated=stated, casts=casts)
    except BaseException:
        template.close()
        raise
