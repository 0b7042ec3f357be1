"""Changes of a JSON text: the new values, and every other character as it was."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconv.formats.json_edit import REMOVED, Edit, edit_json, edit_value


@pytest.mark.parametrize(
    ("text", "path", "new", "wanted"),
    [
        ('{"a": 1,  "b" :\t2}\n', "b", 3, '{"a": 1,  "b" :\t3}\n'),
        ('{"a":1.50,"b":2}', "b", "x", '{"a":1.50,"b":"x"}'),
        ('{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}', "b", REMOVED, '{\n  "a": 1,\n  "c": 3\n}'),
        ('{\n  "a": 1,\n  "b": 2\n}', "b", REMOVED, '{\n  "a": 1\n}'),
        ('{\n  "b": {"c": [2]} ,\n  "a": 1\n}\r\n', "b", REMOVED, '{\n  "a": 1\n}\r\n'),
        ('{ "b": {"c": "}"}\n}', "b", REMOVED, "{}"),
        ('{"a": 1, "b": 2 , "c": 3}', "c", REMOVED, '{"a": 1, "b": 2}'),
        ('{"t": {"d": "x", "e": {"f": 1}}}', "t.e.f", 2, '{"t": {"d": "x", "e": {"f": 2}}}'),
        ('{"t": {"d": "x"}, "d": "x"}', "t.d", REMOVED, '{"t": {}, "d": "x"}'),
        ('{"l": [ 1e0,\n 2 , 3]}', "l", [1.0, 2], '{"l": [ 1e0,\n 2]}'),
        ('{"l": [{"a": []}, "]", 3]}', "l", [{"a": []}], '{"l": [{"a": []}]}'),
        ('{"l": [1, 2]}', "l", [7], '{"l": [7]}'),
        ('{"s": "M-M*\\u00e9"}', "s", "M-", '{"s": "M-"}'),
        (
            '{\n  "a": 1\n}\n',
            "b",
            {"c": [2]},
            '{\n  "a": 1,\n  "b": {\n    "c": [\n      2\n    ]\n  }\n}\n',
        ),
        ('{"a": 1}', "b", {"c": 2}, '{"a": 1, "b": {"c": 2}}'),
        ("{}", "b", 2, '{"b": 2}'),
        ('{\n "b": [1],\n "a": 3}', "b", {"c": 2}, '{\n "b": {\n  "c": 2\n },\n "a": 3}'),
        ('\t{"\\u0061": "caf\u00e9", "b": null}', "a", True, '\t{"\\u0061": true, "b": null}'),
    ],
)
def test_only_one_value_changes(text: str, path: str, new: Any, wanted: str) -> None:
    """By hand: numbers, escapes, white space and the order of keys are kept."""
    edits = [Edit(tuple(path.split(".")), new)]
    assert edit_json(text, edits) == wanted
    assert edit_value(json.loads(text), edits) == json.loads(wanted)


@pytest.mark.parametrize("path", ["a.b", "l.0", "t.x"])
def test_a_path_to_nothing(path: str) -> None:
    """Is the caller's mistake, except for a new member of the outermost object."""
    with pytest.raises(KeyError):
        edit_json('{"a": 1, "l": [2], "t": {}}', [Edit(tuple(path.split(".")), 1)])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
OBJECTS = st.dictionaries(st.text(), VALUES, min_size=1, max_size=6)


@given(value=OBJECTS, new=VALUES | st.just(REMOVED), data=st.data(), indent=st.sampled_from([0, 3]))
def test_the_text_encodes_the_value(
    value: dict[str, Any], new: Any, data: st.DataObject, indent: int
) -> None:
    """Python's own reader finds the change in it, and the members in their order."""
    path, inside = [], value
    while inside and isinstance(inside, dict) and (not path or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(sorted(inside))))
        inside = inside[path[-1]]
    edits = [Edit(tuple(path), new)]
    text = json.dumps(value, indent=indent or None, ensure_ascii=bool(indent))
    edited, wanted = json.loads(edit_json(text, edits)), edit_value(value, edits)
    assert edited == wanted
    assert list(edited) == list(wanted)
