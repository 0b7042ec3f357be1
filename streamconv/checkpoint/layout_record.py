"""The record in a checkpoint of the form and layouts that it was written in.

Names and shapes alone do not identify every layout. The record is therefore in `streamconv.json`
and, as JSON, under the key `streamconv` of the `__metadata__` of every shard.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.layouts import NamedLayout
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import parse_json

METADATA_KEY = "streamconv"
RECORD_VERSION = 1
LAYERS = re.compile("[0-9]{1,9}:[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class LayoutNames:
    """Names of the layout and the naming of a stack."""

    layout: str
    naming: str
    hub_layout: str | None = None
    """The layout that the stack was made from, if the hub has more than one for it."""

    @classmethod
    def of(cls, row: NamedLayout, hub_layout: str | None = None) -> "LayoutNames":
        """Return the names of a layout and its naming."""
        return cls(row.layout.name, row.naming.name, hub_layout)

    def to_json(self) -> dict[str, str]:
        """Return the fields of a record."""
        fields = {"layout": self.layout, "naming": self.naming}
        return fields if self.hub_layout is None else {**fields, "hub_layout": self.hub_layout}


@dataclass(frozen=True)
class Record:
    """The form of the tensor names, and the layout and naming of each expert stack.

    It holds names only. Detection looks them up, so that sources open a checkpoint without a
    catalog.
    """

    names: str
    """The form whose names the tensors have, such as `hub`."""
    form: str | None
    """The form of the whole checkpoint, or None if it is in no form."""
    stacks: Mapping[str, LayoutNames]
    """Layout and naming of each stack, by its pattern in hub names."""
    layers: str | None = None
    """The layers of a partial checkpoint, such as `0:2`."""

    @property
    def kept(self) -> range | None:
        """The numbers of the layers of a partial checkpoint."""
        if self.layers is None:
            return None
        begin, _, end = self.layers.partition(":")
        return range(int(begin), int(end))

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `read_record` reads."""
        return {
            "version": RECORD_VERSION,
            "form": self.form,
            "names": self.names,
            "stacks": {pattern: names.to_json() for pattern, names in sorted(self.stacks.items())},
            "layers": self.layers,
        }


def read_record(fields: Any, source: str) -> Record:
    """Read what `Record.to_json` returned.

    Args:
        fields: A JSON value, which may be anything.
        source: The file that it is from, for messages.

    Raises:
        BadCheckpoint: It is not a record, or one of another version.
    """
    try:
        if fields["version"] != RECORD_VERSION:
            raise BadCheckpoint(
                f"{source}: its record of layouts has version {quoted(str(fields['version']))}, "
                f"this release reads {RECORD_VERSION}",
                "use a newer streamconv, or remove the record and name the layout with --from",
            )
        stacks = {
            str(pattern): LayoutNames(row["layout"], row["naming"], row.get("hub_layout"))
            for pattern, row in fields["stacks"].items()
        }
        names, form, layers = (fields[key] for key in ("names", "form", "layers"))
        texts = [names, *(text for s in stacks.values() for text in (s.layout, s.naming))]
        optional = [form, *(s.hub_layout for s in stacks.values())]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if not all(isinstance(text, str | None) for text in optional):
            raise TypeError
        if layers is not None and not LAYERS.fullmatch(layers):
            raise TypeError
        return Record(names, form, stacks, layers)
    except (KeyError, TypeError, AttributeError):
        raise BadCheckpoint(
            f"{source}: its record of layouts is not one that streamconv wrote",
            "remove the record and name the layout with --from",
        ) from None


def record_in_metadata(metadata: Mapping[str, str], source: str) -> Record | None:
    """Return the record in the metadata of the shard `source`, or None. Raises BadCheckpoint."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    return read_record(parse_json(text.encode("utf-8", "surrogatepass"), source), source)
