"""Mistakes in the environment are found before a request, and no file is waited for."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import close_session

from streamconv.errors import UsageError
from streamconv.sources.hub_environment import check_environment


@pytest.fixture(autouse=True)
def _sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without mistakes, and without a client of earlier tests."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("hf_x")
    for name, path in FILES.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / path))
    close_session()


FILES = {
    "HF_TOKEN_PATH": "token",
    "HF_STORED_TOKENS_PATH": "stored_tokens",
    "AGENT_HARNESSES_PATH": ".agent_harnesses.json",
}
"""The files that huggingface_hub reads, by its name for each."""


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # the path of a socket is short


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


KINDS = (fifo, bound_socket, endless)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("variable", ["OPENSSL_CONF", "SSL_CERT_FILE", "SSLKEYLOGFILE"])
def test_a_variable_that_names_no_file(
    variable: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x")
    monkeypatch.setenv(variable, str(tmp_path / "x"))
    with pytest.raises(UsageError) as caught:
        check_environment()
    assert caught.value.message == f"cannot use {variable}: {tmp_path}/x is not a regular file"


@pytest.mark.parametrize("make", KINDS)
def test_a_variable_that_names_no_folder(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a list may be missing, as for OpenSSL."""
    make(tmp_path / "x")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/missing:{tmp_path}/x")
    with pytest.raises(UsageError) as caught:
        check_environment()
    assert caught.value.message == f"cannot use SSL_CERT_DIR: {tmp_path}/x is not a folder"
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/missing:{tmp_path}")
    check_environment()
    make(tmp_path / "0123abcd.0")
    with pytest.raises(UsageError, match=r"SSL_CERT_DIR: .*/0123abcd\.0 is not a regular file"):
        check_environment()


@pytest.mark.parametrize("path", ["", "/" + "x" * 5000, "/dev/fd/none"])
def test_a_path_that_is_not_there_is_not_looked_into(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one is none, and not the working directory."""
    fifo(tmp_path / "0123abcd.0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_DIR", path)
    monkeypatch.setenv("SSLKEYLOGFILE", "")
    check_environment()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_hub_s_library(
    name: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILES[name]
    make(path)
    with pytest.raises(UsageError) as caught:
        check_environment()
    said = f"cannot use the settings of huggingface_hub: {path} is not a regular file"
    assert caught.value.message == said
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    check_environment()  # then none of them is read


def test_the_null_device_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", os.devnull)
    check_environment()


def test_a_token_that_no_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_OIDC_RESOURCE", "org/name")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL", raising=False)
    with pytest.raises(UsageError, match="cannot read the token of huggingface_hub: HF_OIDC_RES"):
        check_environment()


@pytest.mark.parametrize("address", ["huggingface.co", "https://", "ftp://hub", "https://h\u00fcb"])
def test_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.raises(UsageError, match=r"cannot use HF_ENDPOINT: .* is not the URL of a hub"):
        check_environment()


@pytest.mark.parametrize("token", ["hf_\u00fc", "hf_x\n"])
def test_a_token_that_is_none(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused without being shown."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(UsageError, match="it has characters that no token has") as caught:
        check_environment()
    assert "hf_" not in caught.value.message


def test_a_sound_environment() -> None:
    check_environment()
