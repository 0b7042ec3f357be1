"""A console has the size that the environment says, if that is one."""

import pytest

from streamconv.report.terminal import console_environment, new_console


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "x", "1.5", "\N{SUPERSCRIPT TWO}", "\u0663", "1" * 9, "9" * 5000]
)
def test_a_size_that_is_none_is_ignored(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, and no lines of any length."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, text)
    assert {"COLUMNS", "LINES"} & console_environment().keys() == set()
    size = new_console().size
    assert 1 < size.width < 10_000
    assert 1 < size.height < 10_000


def test_a_size_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("LINES", "7")
    assert new_console().size == (150, 7)
