"""Each refusal of the hub has a message of its own, which is true in its case."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint
from hub_server import COMMIT, Fault, Hub, taken_for_the_hub

from streamconv.errors import BadCheckpoint, UsageError
from streamconv.sources.open import open_source

REPO = "org/name"
PRIVATE = {"X-Error-Code": "RepoNotFound"}
GATED = {"X-Error-Code": "GatedRepo"}
INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}
DISABLED = {"X-Error-Message": "Access to this resource is disabled."}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "source", two_shards(qwen_tensors()), {})
    with taken_for_the_hub(Hub({REPO: folder}), tmp_path, monkeypatch) as hub:
        yield hub


def refused(hub: Hub, location: str) -> tuple[str, str]:
    """Return message and hint, with HUB for the hub's address."""
    with pytest.raises(BadCheckpoint) as caught:
        open_source(location)
    return caught.value.message.replace(hub.url, "HUB"), caught.value.hint.replace(hub.url, "HUB")


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        pytest.param(
            Fault(404, PRIVATE),
            "cannot read org/name: HUB has no such repository, or it is private and the token "
            "that is set has no access to it",
            "check the name, and with `hf auth whoami` the account",
            id="private or missing",
        ),
        pytest.param(
            Fault(403, GATED),
            "cannot read org/name: it is gated, and the token that is set has no access to it",
            "ask for access at HUB/org/name with the account that `hf auth whoami` shows",
            id="gated",
        ),
        pytest.param(
            Fault(403),
            "cannot read org/name: the token that is set does not have the right to read it",
            "give the token that right in the settings of its account, or set HF_TOKEN to another",
            id="forbidden",
        ),
        pytest.param(
            Fault(401, INVALID),
            "cannot read org/name: the hub does not accept the token that is set",
            "log in again with `hf auth login`, or set HF_TOKEN to a valid token",
            id="not accepted",
        ),
    ],
)
def test_a_refusal_with_a_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, answer: Fault, message: str, hint: str
) -> None:
    """The token is not shown in what is said."""
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.fault = lambda method, path, span: answer
    assert refused(hub, f"hf://{REPO}") == (message, hint)


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        pytest.param(
            Fault(401, PRIVATE),
            "cannot read org/name: HUB has no such repository, or it is private and no token is "
            "set",
            "check the name; for a private repository log in with `hf auth login` or set HF_TOKEN",
            id="private or missing",
        ),
        pytest.param(
            Fault(401, GATED),
            "cannot read org/name: it is gated, and no token is set",
            "ask for access at HUB/org/name, then log in with `hf auth login` or set HF_TOKEN",
            id="gated",
        ),
        pytest.param(
            Fault(403),
            "cannot read org/name: the hub forbids it, and no token is set",
            "log in with `hf auth login` or set HF_TOKEN",
            id="forbidden",
        ),
        pytest.param(
            Fault(401, INVALID),
            "cannot read org/name: the hub asks for a token, and no token is set",
            "log in with `hf auth login` or set HF_TOKEN",
            id="a token is needed",
        ),
    ],
)
def test_a_refusal_without_a_token(hub: Hub, answer: Fault, message: str, hint: str) -> None:
    hub.fault = lambda method, path, span: answer
    assert refused(hub, f"hf://{REPO}") == (message, hint)


@pytest.mark.parametrize("token", ["", "hf_other"])
@pytest.mark.parametrize(
    ("revision", "answer", "message", "hint"),
    [
        pytest.param(
            "@v9",
            None,
            "cannot read org/name: it has no revision v9",
            "check the branch, tag or commit after the @",
            id="no revision",
        ),
        pytest.param(
            "",
            Fault(403, DISABLED),
            "cannot read org/name: the hub has disabled it",
            "",
            id="disabled",
        ),
        pytest.param(
            "",
            Fault(418),
            "cannot read org/name: the hub answers 418",
            "try again later",
            id="something else",
        ),
        pytest.param(
            "",
            Fault(404, {"X-Error-Code": "EntryNotFound"}),
            "cannot read org/name: the hub answers 404",
            "try again later",
            id="no listing",
        ),
    ],
)
def test_a_refusal_that_no_token_changes(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    revision: str,
    answer: Fault | None,
    message: str,
    hint: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fault = lambda method, path, span: answer
    assert refused(hub, f"hf://{REPO}{revision}") == (message, hint)


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    """As the hub's own listing says it."""
    message, _ = refused(hub, "hf://org/other")
    assert message == (
        "cannot read org/other: HUB has no such repository, or it is private and no token is set"
    )


@pytest.mark.parametrize(
    ("token", "said"), [("", "no token is set"), ("hf_other", "has no access")]
)
def test_a_gated_repository_that_anyone_may_list(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    """As on the hub, which refuses its files alone."""
    monkeypatch.setenv("HF_TOKEN", token)
    gated = Fault(403 if token else 401, GATED)
    hub.fault = lambda method, path, span: gated if "/resolve/" in path else None
    message, hint = refused(hub, f"hf://{REPO}")
    assert message.startswith("cannot read org/name: it is gated")
    assert said in message
    assert "HUB/org/name" in hint


def test_a_file_that_is_gone(hub: Hub) -> None:
    gone = Fault(404, {"X-Error-Code": "EntryNotFound"})
    hub.fault = lambda method, path, span: gone if "/resolve/" in path else None
    message, hint = refused(hub, f"hf://{REPO}")
    assert re.fullmatch(
        rf"cannot read \S+ of org/name: the hub no longer has it at {COMMIT}", message
    )
    assert hint == "read another revision: hf://org/name@revision"


def test_a_name_that_no_repository_can_have(hub: Hub) -> None:
    with pytest.raises(UsageError, match="not a valid name of a repository") as caught:
        open_source("hf://org/na--me..x")
    assert caught.value.hint == "write hf://org/name or hf://org/name@revision"
