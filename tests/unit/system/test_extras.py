"""A missing package ends in one line with the command that installs it."""

import sys

import pytest

from streamconv.errors import PlanRefused
from streamconv.system.extras import require_extra


def test_packages_that_are_there() -> None:
    """Nothing is imported to find out."""
    before = {*sys.modules}
    require_extra("do it", "all", ("json", "wsgiref"))
    assert {name.partition(".")[0] for name in {*sys.modules} - before} == set()


@pytest.mark.parametrize(
    ("packages", "says"),
    [
        (("json", "no_such_package"), "no_such_package is"),
        (("no_such_package", "nor_this"), "no_such_package and nor_this are"),
    ],
)
def test_packages_that_are_missing(packages: tuple[str, ...], says: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        require_extra("check it", "torch", packages)
    assert caught.value.message == f"cannot check it: {says} not installed"
    assert caught.value.hint == "run `pip install 'streamconv[torch]'`"
    assert caught.value.exit_code == 4
