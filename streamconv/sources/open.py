"""Decides which kind of source a location is, and opens it.

    hf://org/name@revision      a repository of the Hugging Face hub
    s3://bucket/folder          anything else with :// in it, through fsspec
    path/to/folder              a DCP if there is one in it, else a folder of safetensors
    path/to/x.safetensors       a single file of safetensors, with the config.json next to it

Each kind is imported only if it is used.
"""

from streamconv.options import Opening
from streamconv.sources.base import Source
from streamconv.sources.no_checkpoint import hub_location, page_of_hub
from streamconv.system.cancellation import CancelToken


def is_url(location: str) -> bool:
    """Return True if a location is a URL, such as `hf://org/name`, and not a local path."""
    return "://" in location


def open_source(
    location: str, opening: Opening | None = None, cancel: CancelToken | None = None
) -> Source:
    """Open the checkpoint at `location`.

    Args:
        location: A local path or a URL.
        opening: How its files are opened; by default without any option.
        cancel: Ends the waits of all reads.

    Raises:
        UsageError: The location is malformed, or a package that could open it is not installed.
        BadCheckpoint: There is no checkpoint, or it is malformed or incomplete.
        IOFailed: Reading failed.
    """
    opening = opening or Opening()
    if meant := hub_location(location):
        raise page_of_hub(location, meant)
    if location.startswith("hf://"):
        from streamconv.sources.hub import open_repository

        return open_repository(location, opening, cancel or CancelToken())
    if is_url(location):
        from streamconv.sources.fsspec_url import open_url

        return open_url(location, opening, cancel or CancelToken())
    from streamconv.sources.training_run import find_dcp

    if folder := find_dcp(location):
        from streamconv.sources.dcp_folder import open_dcp

        return open_dcp(location, folder, opening.prefixes)
    from streamconv.sources.safetensors_folder import open_folder

    return open_folder(location, opening)
