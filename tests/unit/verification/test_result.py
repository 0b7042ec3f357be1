"""A result says where something differs, and fails if it is required not to."""

import pytest

from streamconv.errors import VerifyFailed
from streamconv.verification.result import (
    KEPT_DIFFERENCES,
    Difference,
    FileHashed,
    OnEvent,
    Tally,
    Verification,
    VerifyProgress,
    VerifyStarted,
)


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


def test_all_differences_count_and_the_first_are_kept() -> None:
    tally = Tally(None)
    tally.add(Difference(f"w{number}", "differs") for number in range(KEPT_DIFFERENCES + 5))
    assert tally.difference_count == KEPT_DIFFERENCES + 5
    assert [each.subject for each in tally.differences] == [f"w{n}" for n in range(1000)]


def test_progress_is_passed_on() -> None:
    """Bytes are added up; digests and differences are no progress."""
    passed: list[VerifyStarted | VerifyProgress] = []
    on_event: OnEvent = passed.append
    tally = Tally(on_event)
    progress = [VerifyStarted(12), VerifyProgress(5, "a"), VerifyProgress(7, "b")]
    tally.add([*progress, FileHashed("a", "0f"), Difference("a", "differs")])
    assert (passed, tally.checked_bytes, tally.sha256) == (progress, 12, {"a": "0f"})
