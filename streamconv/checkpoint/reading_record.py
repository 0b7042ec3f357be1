"""The record in a manifest of how its source was read: the files added, and the renames.

It lets a verification read the source in the same way.
"""

from typing import Any

from streamconv.checkpoint.types import Checkpoint
from streamconv.checkpoint.user_renames import parse_rename
from streamconv.errors import BadCheckpoint, UsageError
from streamconv.options import Reading


def reading_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a manifest for a source; none if it was read as it describes itself."""
    fields = {
        "added": list(checkpoint.added),
        "renames": [rename.text for rename in checkpoint.renames],
    }
    return {name: value for name, value in fields.items() if value}


def recorded_reading(fields: Any, source: str) -> Reading:
    """Return the options with which the source of a manifest was read.

    Args:
        fields: What `reading_fields` returned, or any other JSON value; None for no options.
        source: The file that it is from, for messages.

    Raises:
        BadCheckpoint: It is something else.
    """
    if fields is None:
        return Reading()
    try:
        added, renames = (fields.get(name, []) for name in ("added", "renames"))
        if not (isinstance(added, list) and isinstance(renames, list)):
            raise TypeError
        for text in renames:
            parse_rename(text)
    except (AttributeError, TypeError, UsageError):
        raise BadCheckpoint(
            f"{source}: its record of how the source was read is not one that streamconv wrote"
        ) from None
    return Reading(add_unlisted=bool(added), rename=renames)
