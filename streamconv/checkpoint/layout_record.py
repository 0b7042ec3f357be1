"""What a checkpoint says of itself: the form and layouts it was written in. Pure.

The same record stands in `streamconv.json` and, as JSON, under the key `streamconv` of every
shard's `__metadata__`, because key names and shapes alone cannot tell every layout.
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
    """What a record calls the layout and the naming of a stack."""

    layout: str
    naming: str

    @classmethod
    def of(cls, row: NamedLayout) -> "LayoutNames":
        """Return the names of a layout and its naming."""
        return cls(row.layout.name, row.naming.name)


@dataclass(frozen=True)
class Record:
    """What was written: which form's names, and the layout and naming of each expert stack.

    It holds names only, so that a checkpoint can be opened before anybody knows which catalog
    they are looked up in.
    """

    names: str
    """The form whose names the tensors have: `hub`, or one whose renames are in effect."""
    form: str | None
    """The form that the whole checkpoint has, or None where the layouts are nobody's form."""
    stacks: Mapping[str, LayoutNames]
    """Pattern of each stack, in the names of this checkpoint, to its layout and naming."""
    layers: str | None = None
    """The range of layers that a partial checkpoint was cut to."""

    @property
    def kept(self) -> range | None:
        """The layers of a partial checkpoint, as numbers."""
        if self.layers is None:
            return None
        begin, _, end = self.layers.partition(":")
        return range(int(begin), int(end))

    def to_json(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "form": self.form,
            "names": self.names,
            "stacks": {
                pattern: {"layout": names.layout, "naming": names.naming}
                for pattern, names in sorted(self.stacks.items())
            },
            "layers": self.layers,
        }


def read_record(fields: Any, what: str) -> Record:
    """The record that `to_json` wrote; `what` names the file. Raises BadCheckpoint."""
    try:
        if fields["version"] != RECORD_VERSION:
            raise BadCheckpoint(
                f"{what}: its record of layouts has version {quoted(str(fields['version']))}, "
                f"this release reads {RECORD_VERSION}",
                "use a newer streamconv, or remove the record and name the layout with --from",
            )
        stacks = {
            str(pattern): LayoutNames(row["layout"], row["naming"])
            for pattern, row in fields["stacks"].items()
        }
        texts = (fields["names"], fields["form"], fields["layers"])
        if any(not isinstance(text, str | None) for text in texts):
            raise TypeError
        if any(type(name) is not str for s in stacks.values() for name in (s.layout, s.naming)):
            raise TypeError
        if fields["layers"] is not None and not LAYERS.fullmatch(fields["layers"]):
            raise TypeError
        return Record(str(fields["names"]), fields["form"], stacks, fields["layers"])
    except (KeyError, TypeError, AttributeError):
        raise BadCheckpoint(
            f"{what}: its record of layouts is not one that streamconv wrote",
            "remove the record and name the layout with --from",
        ) from None


def record_in_metadata(metadata: Mapping[str, str], what: str) -> Record | None:
    """The record in a shard's metadata, or None where there is none. Raises BadCheckpoint."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    return read_record(parse_json(text.encode("utf-8", "surrogatepass"), what), what)
