"""What the Hugging Face hub refuses, in words that say what to do about it.

The hub answers a private repository like a missing one: with 401 to those who show no token, with
404 to those whose token has no access. A gated repository is listed for everybody, and its files
are refused with 401 or 403. Each message says if a token was shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamconv.errors import BadCheckpoint, UsageError, quoted

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@contextmanager
def explain_refusals(repo: str, revision: str, file: str = "") -> Iterator[None]:
    """Replace errors of huggingface_hub by errors that say what was refused.

    Args:
        repo: The repository.
        revision: The branch, tag or commit that is read.
        file: The file that is read; empty for the listing.

    Raises:
        UsageError: `repo` cannot be the name of a repository.
        BadCheckpoint: The hub refuses, or does not have, the repository or a file of it.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UsageError(
            f"cannot read {quoted(repo)}: it is not a valid name of a repository: "
            f"{quoted(str(error))}",
            "write hf://org/name or hf://org/name@revision",
        ) from error
    except HfHubHTTPError as error:
        explain = _explain_with_token if get_token() else _explain_without_token
        name = quoted(repo)
        subject = f"{quoted(file)} of {name}" if file else name
        raise (
            _explain_whatever_token(error, name, revision, file)
            or explain(error, name)
            or BadCheckpoint(
                f"cannot read {subject}: the hub answers {error.response.status_code}",
                "try again later",
            )
        ) from error


def _explain_whatever_token(
    error: "HfHubHTTPError", name: str, revision: str, file: str
) -> BadCheckpoint | None:
    """Return the error for a refusal that no token would change; None for any other."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, RevisionNotFoundError):
        return BadCheckpoint(
            f"cannot read {name}: it has no revision {quoted(revision)}",
            "check the branch, tag or commit after the @",
        )
    if isinstance(error, DisabledRepoError):
        return BadCheckpoint(f"cannot read {name}: the hub has disabled it")
    if isinstance(error, EntryNotFoundError) and file:
        return BadCheckpoint(
            f"cannot read {quoted(file)} of {name}: the hub no longer has it at {quoted(revision)}",
            "read another revision: hf://org/name@revision",
        )
    return None


def _explain_with_token(error: "HfHubHTTPError", name: str) -> BadCheckpoint | None:
    """Return the error for a refusal despite a token; None if the reason is unknown."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return BadCheckpoint(
            f"cannot read {name}: it is gated, and the token that is set has no access to it",
            f"ask for access at {constants.ENDPOINT}/{name} "
            "with the account that `hf auth whoami` shows",
        )
    if isinstance(error, RepositoryNotFoundError):
        return BadCheckpoint(
            f"cannot read {name}: {constants.ENDPOINT} has no such repository, or it is private "
            "and the token that is set has no access to it",
            "check the name, and with `hf auth whoami` the account",
        )
    if error.response.status_code == 401:
        return BadCheckpoint(
            f"cannot read {name}: the hub does not accept the token that is set",
            "log in again with `hf auth login`, or set HF_TOKEN to a valid token",
        )
    if error.response.status_code == 403:
        return BadCheckpoint(
            f"cannot read {name}: the token that is set does not have the right to read it",
            "give the token that right in the settings of its account, or set HF_TOKEN to another",
        )
    return None


def _explain_without_token(error: "HfHubHTTPError", name: str) -> BadCheckpoint | None:
    """Return the error for a refusal without a token; None if the reason is unknown."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return BadCheckpoint(
            f"cannot read {name}: it is gated, and no token is set",
            f"ask for access at {constants.ENDPOINT}/{name}, "
            "then log in with `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, RepositoryNotFoundError):
        return BadCheckpoint(
            f"cannot read {name}: {constants.ENDPOINT} has no such repository, or it is private "
            "and no token is set",
            "check the name; for a private repository log in with `hf auth login` or set HF_TOKEN",
        )
    if error.response.status_code == 401:
        return BadCheckpoint(
            f"cannot read {name}: the hub asks for a token, and no token is set",
            "log in with `hf auth login` or set HF_TOKEN",
        )
    if error.response.status_code == 403:
        return BadCheckpoint(
            f"cannot read {name}: the hub forbids it, and no token is set",
            "log in with `hf auth login` or set HF_TOKEN",
        )
    return None
