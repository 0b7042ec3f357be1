"""The options of a verification: what counts if nothing is asked for."""

import dataclasses

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.verification.options import VerifyOptions


def test_everything_is_compared_by_default() -> None:
    """All bytes, with no layout given and no event."""
    options = VerifyOptions(jobs=1, catalog=default_catalog())
    assert options.sample.share == 1
    assert (options.sha256, options.target_layout, options.on_event) == (False, None, None)
    assert options.reading == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.jobs = 2  # type: ignore[misc]


def test_two_verifications_share_nothing_that_changes() -> None:
    """To cancel one leaves the other alone; the same holds for what is read."""
    one, other = (VerifyOptions(jobs=1, catalog=default_catalog()) for _ in range(2))
    assert one.cancel is not other.cancel
    assert one.reading is not other.reading
