"""Which kind of source a location is."""

from streamconv.sources import Source


def open_source(location: str) -> Source:
    """The checkpoint at `location`, opened: a local folder.

    Raises StreamconvError where there is none, or it cannot be read as one.
    """
    from streamconv.sources.local import open_folder

    return open_folder(location)
