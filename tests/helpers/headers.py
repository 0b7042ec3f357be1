"""Headers of safetensors files: their readers, and values of JSON to make them of."""

from typing import Any

import pytest
import safetensors
from corpus import CORPUS, Case
from hypothesis import strategies as st

from streamconv.formats.safetensors import LENGTH_BYTES
from streamconv.formats.safetensors_reader import header_length, parse_header

FILE = "model.safetensors"
NAMES = st.text(max_size=6) | st.sampled_from(["t", "__metadata__", "dtype"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def cases(chosen: list[Case] = CORPUS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case", chosen, ids=[f"{case.number} {case.name}" for case in chosen]
    )


def ours(raw: bytes) -> Any:
    """Return the header of a file, by our parser."""
    length = header_length(raw[:LENGTH_BYTES], len(raw), FILE)
    return parse_header(raw[LENGTH_BYTES : LENGTH_BYTES + length], len(raw), FILE)


def theirs(raw: bytes) -> dict[str, Any] | None:
    """Return the tensors of a file, by safetensors' own parser, or None if it refuses them."""
    try:
        return dict(safetensors.deserialize(raw))
    except safetensors.SafetensorError:
        return None
