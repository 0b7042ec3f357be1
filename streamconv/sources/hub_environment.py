"""The environment variables about the hub, and the files that they name."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from streamconv.errors import UsageError, quoted
from streamconv.system.environment_files import check_files_of, opens_at_once, status_of

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables with a token. If one is set, no file is read for it."""
_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.r?[0-9]+")


def check_environment() -> None:
    """Check the environment variables about the hub, before the first request.

    Raises UsageError if the address, token, proxy or a file that is read cannot be used.
    """
    _check_ssl_files()
    try:
        import httpx2
        from huggingface_hub import constants, get_session
    except ValueError as error:  # huggingface_hub reads the environment when it is imported
        raise UsageError(
            f"cannot use the environment's settings of huggingface_hub: {quoted(str(error))}",
            "check HF_ENDPOINT and the other variables whose names begin with HF_",
        ) from error
    try:
        url = httpx2.URL(constants.ENDPOINT)
        is_address = url.scheme in ("http", "https") and bool(url.host)
    except (httpx2.InvalidURL, ValueError):
        is_address = False
    if not is_address or not (constants.ENDPOINT.isascii() and constants.ENDPOINT.isprintable()):
        raise UsageError(
            f"cannot use HF_ENDPOINT: {quoted(constants.ENDPOINT)} is not the URL of a hub",
            "set it to an address such as https://huggingface.co, or unset it",
        )
    _check_token()
    try:
        get_session()
    except (ImportError, ValueError, httpx2.InvalidURL, OSError) as error:
        raise UsageError(
            f"cannot use the proxy or certificates of the environment: {quoted(str(error))}",
            "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, and install what the "
            "proxy needs",
        ) from error


def _check_ssl_files() -> None:
    """Check the files that OpenSSL opens: its settings when it is loaded, then certificates."""
    check_files_of("OPENSSL_CONF", "SSL_CERT_FILE", "SSLKEYLOGFILE")
    for path in filter(None, os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        status = status_of(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise UsageError(
                f"cannot use SSL_CERT_DIR: {quoted(path)} is not a folder",
                "set it to a folder of certificates, or unset it",
            )
        for certificate in _certificates(Path(path)):
            if not opens_at_once(certificate):
                raise UsageError(
                    f"cannot use SSL_CERT_DIR: {quoted(certificate)} is not a regular file",
                    "remove it, or set SSL_CERT_DIR to another folder",
                )


def _certificates(folder: Path) -> Iterator[str]:
    """Yield the paths that OpenSSL may open in a folder of certificates: it goes by their names."""
    with suppress(OSError, ValueError):
        yield from (str(path) for path in folder.iterdir() if _CERTIFICATE.fullmatch(path.name))


def _check_token() -> None:
    """Check the files that huggingface_hub reads whenever it makes a request, and the token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import OIDCError

    for path in _hub_files():
        if not opens_at_once(path):
            raise UsageError(
                f"cannot use the settings of huggingface_hub: {quoted(path)} is not a regular file",
                "remove it, or set HF_HOME and HF_TOKEN_PATH to other paths",
            )
    try:
        token = get_token() or ""
    except (OIDCError, OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the token of huggingface_hub: {quoted(str(error))}",
            "log in again with `hf auth login`, or set HF_TOKEN",
        ) from error
    if not (token.isascii() and token.isprintable()):
        raise UsageError(
            "cannot use the token that is set: it has characters that no token has",
            "set HF_TOKEN to the token alone, or log in again with `hf auth login`",
        )


def _hub_files() -> Iterator[str]:
    """Yield the paths that huggingface_hub reads: the token, all tokens, names of programs."""
    from huggingface_hub import constants

    if not any(os.environ.get(name, "").strip() for name in TOKENS):
        yield constants.HF_TOKEN_PATH
        yield constants.HF_STORED_TOKENS_PATH
    if not constants.HF_HUB_DISABLE_TELEMETRY:
        yield constants.AGENT_HARNESSES_PATH
