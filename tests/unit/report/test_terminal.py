"""A console has the size that the environment says, and what libraries print has an end."""

import logging
import warnings

import pytest

from streamconv.report.terminal import LONGEST_LOG, console_environment, escaping, new_console


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


def test_what_a_server_makes_a_library_log_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A header of a megabyte is a warning of huggingface_hub."""
    text = "w" * 10**6
    with escaping(), warnings.catch_warnings():
        warnings.simplefilter("always")
        logger = logging.getLogger("library")
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.warning("%s", text)
        logger.removeHandler(handler)
        warnings.warn(text, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line[-6:] for line in lines] == ["www..."] * 2
    assert all(LONGEST_LOG <= len(line) < LONGEST_LOG + 20 for line in lines)
