"""What torchrun says, in environment variables, to the processes of one run.

    RANK, WORLD_SIZE                  this process and how many there are
    LOCAL_WORLD_SIZE                  how many of them share this host
    TORCHELASTIC_RUN_ID               the run, the same for all of them
    TORCHELASTIC_RESTART_COUNT        how often they were started again after a failure
    MASTER_ADDR                       the host that keeps their store

Source: `torch/distributed/elastic/agent/server/local_elastic_agent.py`.
"""

import os

from streamconv.errors import UsageError, quoted


def rank() -> int | None:
    """Return the number of this process in its run, or None if it runs alone.

    Other launchers set RANK too. Only torchrun, which keeps a store for the ranks, counts.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and world_size() > 1:
        return _number("RANK", None)
    return None


def world_size() -> int:
    """Return how many processes the run has."""
    return _number("WORLD_SIZE", "1")


def ranks_on_host() -> int:
    """Return how many processes of the run share this host."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(int(text), 1) if _is_number(text) else 1


def run_id() -> str:
    """Return the name of the run. Raises KeyError if torchrun did not start this process."""
    return os.environ["TORCHELASTIC_RUN_ID"]


def restart_count() -> int:
    """Return how often torchrun has started all ranks again after a failure."""
    return _number("TORCHELASTIC_RESTART_COUNT", "0")


def store_host() -> str:
    """Return the host that keeps the store of the ranks, in words if its address is unknown."""
    return os.environ.get("MASTER_ADDR", "rank 0's host")


def _number(variable: str, default: str | None) -> int:
    """Return the number in a variable. Raises UsageError if it is no number."""
    text = os.environ.get(variable, default)
    if text is None or not _is_number(text):
        found = "not set" if text is None else quoted(repr(text))
        raise UsageError(
            f"cannot join the ranks of torchrun: {variable} is {found}, not a number",
            "start the ranks with torchrun, or remove TORCHELASTIC_RUN_ID from the environment",
        )
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
