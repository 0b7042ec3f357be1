"""Renames lead to a form and back, in order and in reverse."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import HUB_NAMES, Form
from streamconv.catalog.renames import Rename, read_rename
from streamconv.errors import UsageError

CATALOG = default_catalog()


def test_renames_are_done_in_order_and_undone_in_reverse() -> None:
    """One after the other, on what the last one made; dots and other signs mean themselves."""
    form = Form(
        "f",
        (),
        (Rename("a.*", "y.*", unless=("y.y",)), Rename("y.*.b*", "x.*+*"), Rename("c", "d")),
    )
    assert form.apply("a.1.b2") == "x.1+2"
    assert form.undo("x.1+2") == "a.1.b2"
    assert form.apply("a.1") == "y.1"
    assert form.undo("y.1") == "a.1"
    assert form.undo("y.y1") == "y.y1"
    assert (form.apply("c"), form.undo("d"), form.apply("cc")) == ("d", "c", "cc")
    assert form.apply("aX1.b2") == "aX1.b2"
    assert HUB_NAMES.apply("a.1") == HUB_NAMES.undo("a.1") == "a.1"


def test_each_star_is_the_same_text_on_both_sides() -> None:
    rename = Rename("a.*.b.*", "*.c.*")
    assert rename.apply("a.1.b.2") == "1.c.2"
    assert rename.undo("1.c.2") == "a.1.b.2"
    assert rename.apply("b.1") is None
    assert rename.undo("1.2") is None


def test_a_rename_that_could_not_be_undone_is_refused() -> None:
    with pytest.raises(UsageError, match="could not be undone"):
        read_rename({"hub_name": "*.a.*", "form_name": "b.*"})
    assert read_rename({"hub_name": "a", "form_name": "b", "unless": ["c"]}).unless == ("c",)


def test_many_stars_take_no_time() -> None:
    """A regular expression would try every place of every star: longer than anybody waits."""
    many = Rename("*a" * 12 + "*b", "*c" * 12 + "*d")
    assert many.apply("a" * 3000) is None
    assert many.apply("a" * 3000 + "b") == "a" * 2988 + "c" * 12 + "d"
    assert many.undo("c" * 3000) is None


def test_the_first_star_is_as_long_as_possible() -> None:
    assert Rename("*.a.*", "*-*").apply("x.a.y.a.z") == "x.a.y-z"
    assert Rename("a.*.a", "*").apply("a.a") is None
    assert Rename("a**b", "*-*").apply("axb") == "x-"
