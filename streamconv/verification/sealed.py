"""Seals off transformers at work: no network, no kernels, no packages that a config asks for.

A second defense, after `config_values.py` has limited what a config may say. What gets past it is
refused here, in this process, until the work is done.
"""

import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any
from unittest.mock import patch

SPARE_BYTES = 4 * 2**30
"""Address space that a model without weights may take. One of 10**12 parameters takes 1 GiB."""
MAX_SECONDS = 300
"""Seconds in which a model is built, or the headers are loaded into it."""

_OWN = frozenset(
    {
        *("torch", "functorch", "torchgen", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"),
        *("transformers", "huggingface_hub", "tokenizers", "safetensors", "accelerate", "hf_xet"),
        *("numpy", "packaging", "regex", "yaml", "filelock", "tqdm", "typing_extensions", "fsspec"),
        *("httpx", "httpcore", "certifi", "idna", "h11", "anyio", "sniffio", "psutil"),
        "streamconv",
    }
)
"""Packages that transformers and torch need themselves."""


class Refused(ImportError):
    """A checkpoint asks for something that is not allowed to it."""


@contextmanager
def sealed(max_parameters: int) -> Iterator[None]:
    """Refuse network, kernels, other packages, gigabytes and endless work within the context.

    torch says that it has no accelerator, so that the result is the same on every host.

    Args:
        max_parameters: How many parameters a model may have.
    """
    with ExitStack() as stack:
        stack.enter_context(_no_network())
        stack.enter_context(_no_kernels())
        stack.enter_context(_no_other_packages())
        stack.enter_context(_no_accelerator())
        stack.enter_context(_bounded_memory())
        stack.enter_context(_bounded_time())
        stack.enter_context(_bounded_model(max_parameters))
        yield


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise Refused("loading this checkpoint would fetch something, which is refused")


@contextmanager
def _no_network() -> Iterator[None]:
    from huggingface_hub import constants

    with ExitStack() as stack:
        for name in ("connect", "connect_ex", "sendto", "bind"):
            stack.enter_context(patch.object(socket.socket, name, _refuse, create=True))
        for name in ("getaddrinfo", "create_connection", "gethostbyname"):
            stack.enter_context(patch.object(socket, name, _refuse))
        stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
        yield


@contextmanager
def _no_kernels() -> Iterator[None]:
    """Refuse kernels even if they are in a cache and would be imported from there by path."""
    from transformers.integrations import hub_kernels

    modules: list[ModuleType] = [hub_kernels]
    modules += [module for name, module in sys.modules.items() if name.split(".")[0] == "kernels"]
    with ExitStack() as stack:
        for module in modules:
            for name in list(vars(module)):
                if name in ("get_kernel", "get_kernel_hub", "get_local_kernel", "load_kernel"):
                    stack.enter_context(patch.object(module, name, _refuse))
        yield


@contextmanager
def _no_accelerator() -> Iterator[None]:
    """Let torch report none, as transformers fetches kernels for those that it finds.

    A torch that was built for CUDA names that as its accelerator even on a host without a GPU.
    """
    import torch

    with ExitStack() as stack:
        none = patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        stack.enter_context(none)
        for kind in (torch.cuda, torch.xpu):
            stack.enter_context(patch.object(kind, "is_available", lambda: False))
        yield


@contextmanager
def _no_other_packages() -> Iterator[None]:
    finder = _Refusing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Refusing:
    """An import finder that finds nothing, and refuses what may not be imported.

    A module of transformers may import anything at its top: that follows from the model's
    class. What its functions import follows from values.
    """

    def __init__(self) -> None:
        self._admitted = {*_OWN, *sys.stdlib_module_names, *(n.split(".")[0] for n in sys.modules)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None to leave it to the other finders. Raises Refused."""
        package = fullname.partition(".")[0]
        if package in self._admitted:
            return None
        importer = _importer(sys._getframe(1))
        if importer is None:
            return None
        if importer.f_code.co_name == "<module>":
            by = str(importer.f_globals.get("__name__")).partition(".")[0]
            if by in self._admitted:
                self._admitted.add(package)
                return None
        raise Refused(f"the package {package} would be imported for this checkpoint", name=package)

    def invalidate_caches(self) -> None:
        """Do nothing: there are none."""


def _importer(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the code that imports; None if it only asks if a module exists."""
    while frame is not None:
        file = frame.f_code.co_filename
        module = frame.f_globals.get("__name__")
        if module == "importlib.util":
            return None
        if module != "importlib" and not file.startswith("<frozen importlib"):
            return frame
        frame = frame.f_back
    return None


@contextmanager
def _bounded_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits = [n for n in (soft, hard, now + SPARE_BYTES) if n != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _bounded_time() -> Iterator[None]:
    """Refuse work that does not end, such as matching a pattern of the config with a name.

    The system's alarm interrupts such a match. Only the main thread can set it, and if the process
    has one of its own, that one stays.
    """

    def on_alarm(*_: object) -> None:
        raise Refused(f"transformers takes more than {MAX_SECONDS} seconds for this checkpoint")

    is_free = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
    if threading.current_thread() is not threading.main_thread() or not is_free:
        yield
        return
    former = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS, 1)  # again, if a library drops the error
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@contextmanager
def _bounded_model(max_parameters: int) -> Iterator[None]:
    from torch.nn.modules.module import register_module_parameter_registration_hook

    end = time.monotonic() + MAX_SECONDS  # for threads, in which no alarm can be set
    count = 0

    def on_parameter(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > max_parameters:
            raise Refused(f"the model would have more than {max_parameters} parameters")
        if time.monotonic() > end:
            raise Refused(f"building the model takes more than {MAX_SECONDS} seconds")

    handle = register_module_parameter_registration_hook(on_parameter)
    try:
        yield
    finally:
        handle.remove()
