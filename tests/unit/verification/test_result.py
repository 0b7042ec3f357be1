"""A result says where something differs, and fails if it is required not to."""

import pytest

from streamconv.errors import VerifyFailed
from streamconv.verification.result import Difference, Verification


def verification(*differences: Difference, source: str | None = "src") -> Verification:
    return Verification("dst", source, 7, differences, len(differences), (), {}, 1.0, 1)


@pytest.mark.parametrize(
    ("difference", "where"),
    [
        (Difference("w", "differs"), "w"),
        (Difference("w", "differs", 0), "w, expert 0"),
        (Difference("w", "differs", 3, "up_proj"), "w, expert 3, up_proj"),
    ],
)
def test_where_it_is(difference: Difference, where: str) -> None:
    assert difference.where == where


def test_a_sound_one_passes() -> None:
    assert verification().ok
    verification().require()


def test_a_different_one_fails_with_the_first_difference() -> None:
    found = verification(Difference("a\n", "is missing"), Difference("b", "is missing"))
    assert not found.ok
    with pytest.raises(VerifyFailed) as caught:
        found.require("do this")
    said = "dst is not the conversion of src: 2 differences, the first: a\\n is missing"
    assert (caught.value.message, caught.value.hint) == (said, "do this")
    with pytest.raises(VerifyFailed, match=r"^dst differs from its manifest: 1 diff.* a is"):
        verification(Difference("a", "is missing"), source=None).require()
