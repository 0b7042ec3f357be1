"""Packages that only some work needs. They are extras of this package, so they may be missing."""

from importlib.util import find_spec

from streamconv.errors import PlanRefused

TORCH = ("torch", "transformers")
"""The packages of the extra `torch`."""


def require_extra(purpose: str, extra: str, packages: tuple[str, ...]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        purpose: What needs them, as in "cannot <purpose>: torch is not installed".
        extra: The extra that installs them.
        packages: Their names.

    Raises:
        PlanRefused: One of them is missing. The hint has the command that installs it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise PlanRefused(
            f"cannot {purpose}: {' and '.join(missing)} {verb} not installed",
            f"run `pip install 'streamconv[{extra}]'`",
        )
