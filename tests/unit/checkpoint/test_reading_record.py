"""How a source was read, as a manifest records it."""

from dataclasses import replace

import pytest
from header_models import checkpoint_of, experts

from streamconv.checkpoint.reading_record import reading_fields, recorded_reading
from streamconv.checkpoint.types import AppliedRename
from streamconv.errors import BadCheckpoint

SOURCE = checkpoint_of(experts("mlp.", 2, 3, 5))


def test_nothing_is_recorded_of_a_source_that_describes_itself() -> None:
    assert reading_fields(SOURCE) == {}
    assert recorded_reading(None, "file") == {}


def test_what_is_recorded_is_read_back() -> None:
    renamed = replace(SOURCE, added=("mtp.safetensors",), renames=(AppliedRename("a=b", 3),))
    fields = reading_fields(renamed)
    assert recorded_reading(fields, "file") == {"add_unlisted": True, "rename": ["a=b"]}


@pytest.mark.parametrize("fields", [3, [], {"added": 3}, {"renames": "a=b"}, {"renames": ["a"]},
                                    {"renames": [3]}])  # fmt: skip
def test_anything_else_is_refused(fields: object) -> None:
    with pytest.raises(BadCheckpoint, match="file: its record of how the source was read"):
        recorded_reading(fields, "file")
