"""What all tests have in common."""

import compileall
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from damage import converter, write_source
from hypothesis import settings
from import_graph import ROOT

settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")  # a busy machine is no defect


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: if PYTHONDONTWRITEBYTECODE is set, each process that a test starts
    would compile all that it imports."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT, quiet=2)
    # Thousands of conversions would wait for the disk. Processes that tests start still do.
    os.fsync = os.fstat


def pytest_collection_finish() -> None:
    """Let neither the search for garbage nor the threads of torch take the time of the tests."""
    gc.collect()
    gc.freeze()  # ten thousand tests, and all imported modules
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # those of several processes would wait for each other's cores


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the person who runs the tests must not change what a command line means."""
    for variable in [name for name in os.environ if name.startswith("STREAMCONV_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """The command line takes signals for the rest of its process, which is that of all tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where the system has such a thing: a disk takes its time for an
    fsync."""
    there = Path("/dev/shm")
    if not os.access(there, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with TemporaryDirectory(prefix="streamconv-tests-", dir=there) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["H = 2I", "H = I"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose gate and up together, or whose down, are square: no shape tells more."""
    return write_source(tmp_path_factory.mktemp("source") / "src", request.param)


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns `source` in a layout, the same folder for each test: copy it to change it."""
    return converter(source, tmp_path_factory.mktemp("converted"))
