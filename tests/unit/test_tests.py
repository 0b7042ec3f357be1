"""The tests have the rooms of the package, and need none of one another."""

import re
from pathlib import Path

from import_graph import ROOT

TESTS = Path(__file__).parents[1]


def test_no_test_imports_another() -> None:
    """What two of them need is in tests/helpers/."""
    found = {
        str(path.relative_to(TESTS)): re.findall(
            r"^\s*(?:from|import) ((?:test_|tests\b)\S*)", path.read_text(), re.M
        )
        for path in TESTS.rglob("*.py")
    }
    assert len(found) == sum(1 for _ in TESTS.rglob("*.py")) > 200
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_unit_tests_mirror_the_rooms() -> None:
    """Each of their folders is one of the package's."""
    unit = TESTS / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in folders if not (ROOT / folder).is_dir()] == []
