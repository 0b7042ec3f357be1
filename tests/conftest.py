"""What all tests have in common."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the person who runs the tests must not change what a command line means."""
    for variable in [name for name in os.environ if name.startswith("STREAMCONV_")]:
        monkeypatch.delenv(variable)
