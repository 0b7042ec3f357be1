"""The quick conversion for other projects' CI passes, and fails where something is wrong."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamconv import VerifyFailed, smoke
from streamconv.catalog.catalog import default_catalog
from streamconv.cli import cli
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


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each family, JSON, or nothing but the exit code."""
    some = [smoke.FamilyPassed(name, "hub", 9, 4) for name in ("first", "second")]
    monkeypatch.setattr(smoke, "run_smoke", lambda folder: iter(some))
    shown = CliRunner().invoke(cli, ["smoke"], standalone_mode=False)
    assert shown.stdout.splitlines()[0].split() == (
        ["first", "hub:", "9", "->", "4", "tensors,", "correct", "->", "hub:", "identical"]
    )
    assert shown.stdout.splitlines()[-1].startswith("ok, 2 families, ")
    assert shown.stderr.startswith("converting ")
    as_json = CliRunner().invoke(cli, ["smoke", "--json"], standalone_mode=False)
    fields = json.loads(as_json.stdout)
    assert (fields["kind"], fields["ok"], as_json.stderr) == ("smoke", True, "")
    assert fields["families"][1] == {
        "family": "second",
        "form": "hub",
        "tensors": 9,
        "merged_tensors": 4,
    }
    quiet = CliRunner().invoke(cli, ["smoke", "-q"], standalone_mode=False)
    assert (quiet.stdout, quiet.stderr) == ("", "")
