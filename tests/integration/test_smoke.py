"""The quick conversion for other projects' CI passes, and fails where something is wrong."""

from pathlib import Path

import pytest

from streamconv import VerifyFailed, smoke
from streamconv.catalog.catalog import default_catalog
from streamconv.planning.rearrangement import Rearrangement

CATALOG = default_catalog()


def test_every_family_comes_through(tmp_path: Path) -> None:
    converted = [family.name for family in CATALOG.families.values() if not family.refused]
    assert [done.family for done in smoke.run_smoke(tmp_path)] == converted


def test_it_notices_gate_and_up_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas are not those of the package: a wrong conversion does not pass."""
    reads = Rearrangement.reads
    monkeypatch.setattr(Rearrangement, "reads", lambda self, unit: reads(self, unit)[::-1])
    with pytest.raises(VerifyFailed, match="gate_up_proj has other bytes"):
        list(smoke.run_smoke(tmp_path))
