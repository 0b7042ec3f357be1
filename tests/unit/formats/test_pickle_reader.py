"""Pickles are read as Python reads them, but for what they name and call."""

import pickle
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import Global, Object
from streamconv.formats.pickle_writer import write_pickle

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(_VALUES)
@example(["x"] * 600)
@example([str(n) for n in range(600)] * 2)
def test_values_are_read_as_python_reads_them(value: Any) -> None:
    """Whoever wrote them, in any protocol."""
    assert pickle.loads(write_pickle(value)) == value
    for protocol in (2, 3, 4, 5):
        assert read_pickle(pickle.dumps(value, protocol), (), "it") == value
    assert read_pickle(write_pickle(value), (), "it") == value


def test_objects_are_read_as_data() -> None:
    """Names and calls, with their arguments and states."""
    value = [Global("torch.bfloat16"), Object("a.b.C", (1, "x"))]
    found = read_pickle(write_pickle(value), ("torch.bfloat16", "a.b.C"), "it")
    assert found[0] == value[0]
    assert (found[1].name, found[1].args, found[1].state) == ("a.b.C", (1, "x"), None)
