"""The order of names, their layers, and the patterns that they share."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconv.checkpoint.tensor_names import (
    MAX_SHOWN_KINDS,
    find_naturally,
    layer_of,
    natural_key,
    pattern_of,
    sort_naturally,
    summarize_names,
)


def test_numbers_are_ordered_as_numbers() -> None:
    names = ["a.10.w", "a.9.w", "a.w", "b1", "b.2", "a.09.w"]
    expected = ["a.09.w", "a.9.w", "a.10.w", "a.w", "b1", "b.2"]
    assert sorted(names, key=natural_key) == sorted(expected, key=natural_key)
    assert sorted(["e.10", "e.9", "e.100"], key=natural_key) == ["e.9", "e.10", "e.100"]
    assert natural_key("a.09.w") != natural_key("a.9.w")


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "a.", "b", "-", "/", "9", "0", "10", "07", "\0", "\1", "\2", "é"])
            | st.integers(0, 10**21).map(str),
            max_size=5,
        ).map("".join)
    )
)
def test_one_text_sorts_like_the_natural_key(names: list[str]) -> None:
    """Also if a name holds the characters that the text uses, or digits without end."""
    assert sort_naturally(names, str) == sorted(names, key=natural_key)
    plain = [name for name in names if "\0" not in name and "\1" not in name]
    assert sort_naturally(plain, str) == sorted(plain, key=natural_key)
    unpadded = [name for name in plain if not re.search(r"(?<![0-9])0[0-9]", name)]
    assert sort_naturally(unpadded, str) == sorted(unpadded, key=natural_key)


def test_a_name_is_found_in_natural_order() -> None:
    """Any of them, and none that is not there."""
    names = sort_naturally([f"a.{k}.{w}" for k in range(120) for w in ("w1", "w10", "w2")], str)
    assert [find_naturally(names, str, name) for name in names] == names
    for name in ("", "a.01.w1", "a.120.w1", "b"):
        with pytest.raises(KeyError):
            find_naturally(names, str, name)


def test_patterns_replace_whole_parts() -> None:
    """Digits inside a part stay."""
    assert pattern_of("model.layers.12.mlp.experts.3.w1.") == "model.layers.*.mlp.experts.*.w1."
    assert pattern_of("conv2d1.7") == "conv2d1.*"
    assert pattern_of("3.a") == "*.a"


def test_the_outermost_number_is_the_layer() -> None:
    assert layer_of("model.layers.3.mlp.experts.5.") == ("model.layers.", 3)
    assert layer_of("model.norm.") is None
    assert layer_of("model.layers.3") is None


def test_names_are_summarized_by_kind() -> None:
    """The most frequent first; control characters are escaped; the rest is counted."""
    names = [f"a.{n}.w" for n in range(1200)] + ["b\n"]
    assert summarize_names(names) == "a.*.w (1,200), b\\n (1)"
    many = summarize_names(f"kind{n}" for n in range(MAX_SHOWN_KINDS + 2))
    assert many.count("(1)") == MAX_SHOWN_KINDS
    assert many.endswith(", 2 more kinds")
    assert summarize_names([]) == ""
