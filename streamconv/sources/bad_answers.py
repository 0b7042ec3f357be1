"""Server answers that a retry would not fix, and mistakes in environment variables."""

from collections.abc import Iterator
from contextlib import contextmanager

from streamconv.errors import BadCheckpoint, UsageError, quoted
from streamconv.system.retry import TransientError


@contextmanager
def explain_bad_answers(subject: str) -> Iterator[None]:
    """Replace errors of httpx2 by errors that say what the server did.

    Args:
        subject: The thing that is read, for messages.

    Raises:
        TransientError: The network failed; another attempt may succeed.
        BadCheckpoint: The server redirects without end or to no address, or its answer is invalid.
    """
    import httpx2

    hint = "check the address of the server, and the proxy if there is one"
    try:
        yield
    except httpx2.TooManyRedirects as error:
        raise BadCheckpoint(
            f"cannot read {subject}: the server redirects from one address to another without end",
            hint,
        ) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise BadCheckpoint(
            f"cannot read {subject}: the server redirects to no address: {quoted(str(error))}",
            hint,
        ) from error
    except httpx2.TransportError as error:
        if "location header" in str(error):
            raise BadCheckpoint(
                f"cannot read {subject}: the server redirects to no address: {quoted(str(error))}",
                hint,
            ) from error
        raise TransientError(quoted(str(error)) or type(error).__name__) from error
    except (httpx2.RequestError, httpx2.StreamError, ValueError) as error:
        raise BadCheckpoint(
            f"cannot read {subject}: the server's answer makes no sense: {quoted(str(error))}",
            hint,
        ) from error


def check_environment() -> None:
    """Check the environment variables about the hub, before the first request.

    Raises UsageError if the address, token or proxy cannot be used.
    """
    try:
        import httpx2
        from huggingface_hub import constants, get_session, get_token
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
    try:
        token = get_token() or ""
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the token of huggingface_hub: {quoted(str(error))}",
            "log in again with `hf auth login`, or set HF_TOKEN",
        ) from error
    if not (token.isascii() and token.isprintable()):
        raise UsageError(
            "cannot use the token that is set: it has characters that no token has",
            "set HF_TOKEN to the token alone, or log in again with `hf auth login`",
        )
    try:
        get_session()
    except (ImportError, ValueError, httpx2.InvalidURL, OSError) as error:
        raise UsageError(
            f"cannot use the proxy or certificates of the environment: {quoted(str(error))}",
            "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, and install what the "
            "proxy needs",
        ) from error
