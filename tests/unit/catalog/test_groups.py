"""A group has the same axes on both sides, and a size or a list of texts for each in a name."""

from typing import Any

import pytest

from streamconv.catalog.groups import read_group
from streamconv.errors import UsageError

ROW = {"where": "a.", "hub_name": "{q}.w : c", "form_name": "w : (q c)", "q": ["x", "y"]}


def test_a_group_of_one_part() -> None:
    group = read_group(ROW)
    assert group.label == "{q}.w"
    assert group.hub_layout.naming.tokens == {"q": ("x", "y")}
    assert str(group.form_layout.layout.templates["0"]) == "w : (q c)"
    assert group.required_config == ""


def test_parts_are_numbered_and_sizes_may_be_in_the_config() -> None:
    parts = [{"hub_name": f"{n}.w : h c", "form_name": "w : (h c)"} for n in "ab"]
    group = read_group({"where": "", "parts": parts, "sizes": {"h": ["heads", "t.heads"], "c": 4}})
    assert [*group.hub_layout.layout.templates] == ["0", "1"]
    assert group.label == "a.w, b.w"
    assert group.sizes == (("h", ("heads", "t.heads")), ("c", 4))
    assert group.required_config == "heads or t.heads"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form_name": "w : (q d)"}, "does not settle every axis"),
        ({"q": {}}, "does not settle every axis"),
        ({"parts": [{"hub_name": "w : c"}]}, "it has no names in both forms"),
        (
            {a: [*map(str, range(99))] for a in "qrstu"}
            | {"hub_name": "{q}.{r}.{s}.{t}.{u} : c", "form_name": "w : (q r s t u c)"},
            "over 1,000 names",
        ),
    ],
)
def test_a_row_that_is_not_a_group(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_group({**ROW, **changes})
