"""Which kind of source a location is."""

from streamconv.keys import Prefixes
from streamconv.sources import Source


def open_source(location: str, prefixes: Prefixes | None = None) -> Source:
    """The checkpoint at `location`, opened: a DCP, or safetensors in a local folder.

    `prefixes` are those of a DCP's keys, where they are not what it says itself. Raises
    StreamconvError where there is none, or it cannot be read as one.
    """
    from streamconv.sources.dcp import find_dcp, open_dcp
    from streamconv.sources.local import open_folder

    folder = find_dcp(location)
    return open_dcp(location, folder, prefixes) if folder else open_folder(location)
