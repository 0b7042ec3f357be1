"""Server answers that a retry would not fix."""

from collections.abc import Iterator
from contextlib import contextmanager

from streamconv.errors import BadCheckpoint, quoted
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
