"""Which kind of source a location is, and how it is to be understood."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from streamconv.catalog.presets import Prefixes
from streamconv.errors import UsageError
from streamconv.options import Location, Reading, prefixes_of
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken


def is_url(location: str) -> bool:
    """Whether a location is not a path on this machine: `hf://org/name`, `s3://bucket/folder`."""
    return "://" in location


def open_source(
    location: str, prefixes: Prefixes | None = None, cancel: CancelToken | None = None
) -> Source:
    """The checkpoint at `location`: a DCP, safetensors in a local folder, a repository, a URL.

    `prefixes` are those of a DCP's keys, where they are not what it says itself; `cancel` ends the
    waits of all its reads. Raises StreamconvError where there is none, or it cannot be read as one.
    """
    if location.startswith("hf://"):
        from streamconv.sources.hub import open_repository

        return open_repository(location, cancel or CancelToken())
    if is_url(location):
        from streamconv.sources.fsspec_url import open_url

        return open_url(location, cancel or CancelToken())
    from streamconv.sources.dcp_folder import open_dcp
    from streamconv.sources.safetensors_folder import open_folder
    from streamconv.sources.training_state import find_dcp

    folder = find_dcp(location)
    return open_dcp(location, folder, prefixes) if folder else open_folder(location)


@contextmanager
def open_with_template(
    src: Location, reading: Reading, *, casts: bool = False, cancel: CancelToken | None = None
) -> Iterator[Source]:
    """The checkpoint at `src` as a user wants it read, with its template; open until the end.

    Where it `casts`, the dtypes of the template need not be the checkpoint's; `cancel` ends the
    waits of its reads. Raises StreamconvError.
    """
    location = reading.get("template")
    fill = reading.get("fill_from_template", False)
    if fill and location is None:
        raise UsageError("there is no template to fill from", "name the hub checkpoint: --template")
    with closing(open_source(str(src), prefixes_of(reading), cancel)) as source:
        if location is None:
            yield source
            return
        from streamconv.sources.wrappers.template import with_template

        with closing(open_source(str(location), cancel=cancel)) as template:
            declared_layout = reading.get("source_layout")
            yield with_template(
                source, template, fill=fill, declared_layout=declared_layout, casts=casts
            )
