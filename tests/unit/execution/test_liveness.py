"""Whether another rank lives: by gloo's connection, and by its beats."""

import threading
import time
from collections.abc import Iterator

import pytest
from torch._C._distributed_c10d import HashStore

from streamconv.execution.liveness import Connection, Heartbeat

# --- the connection ----------------------------------------------------------------------------


@pytest.fixture
def ring() -> Iterator[list[Connection]]:
    """Three ranks, each about to connect to the next."""
    store = HashStore()
    ring = [Connection(lambda: store, rank, 3, (rank + 1) % 3) for rank in range(3)]
    yield ring
    for connection in ring:
        connection.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "connection"]


def opened(ring: list[Connection]) -> None:
    for connection in ring:
        connection.open()
    for connection in ring:
        assert connection.settled.wait(20)


def test_a_connection_breaks_with_the_other_end(ring: list[Connection]) -> None:
    """At once, and only that to it."""
    opened(ring)
    time.sleep(0.1)
    assert not any(connection.broken.is_set() for connection in ring)
    ring[1].close()
    assert ring[0].broken.wait(5)
    assert not ring[2].broken.is_set()


def test_a_connection_is_closed_alone(ring: list[Connection]) -> None:
    """Whatever the others do; once more does nothing, and neither does it where none was opened."""
    ring[0].close()
    opened(ring)
    begin = time.monotonic()
    ring[2].close()
    ring[2].close()
    assert time.monotonic() - begin < 20
    assert not ring[0].broken.is_set()


@pytest.mark.parametrize("lacking", ["interface", "gloo"])
def test_without_a_way_to_the_others(
    ring: list[Connection], monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """There is no connection to break, and nobody waits for one."""
    if lacking == "interface":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    else:
        monkeypatch.delattr("torch._C._distributed_c10d.ProcessGroupGloo")
    opened(ring)
    ring[1].close()
    assert not ring[0].broken.wait(0.2)


# --- beats -------------------------------------------------------------------------------------


def seen(watch: Heartbeat, now: float, beats: int, **facts: bool) -> str | None:
    return watch.failure_reason(
        now, beats, **{"left": False, "broken": False, "ending": False, **facts}
    )


def test_who_beats_lives() -> None:
    """And who has not come yet, or has left, is not dead."""
    watch = Heartbeat()
    assert seen(watch, 1000, 0) is None
    for now in range(1000, 2000, 29):
        assert seen(watch, now, now) is None
    for now in range(2000, 3000, 100):
        assert seen(watch, now, 1, left=True, broken=True) is None


def test_who_is_silent_is_dead() -> None:
    """After half a minute, or after seconds if this process has been signaled."""
    watch = Heartbeat()
    assert seen(watch, 100, 7) is None
    assert seen(watch, 102, 7, ending=True) is None
    assert seen(watch, 103, 7, ending=True) == "it has been silent for 3 s"
    assert seen(watch, 130, 7) is None
    assert seen(watch, 131, 7) == "it has been silent for 31 s"


def test_who_is_silent_when_its_connection_breaks_is_dead_soon() -> None:
    """A second later: what it had been silent before does not count."""
    watch = Heartbeat()
    assert seen(watch, 100, 7) is None
    assert seen(watch, 120, 7, broken=True) is None
    assert seen(watch, 120.9, 7, broken=True) is None
    assert seen(watch, 121.1, 7, broken=True) == (
        "its connection is broken, and it has been silent for 1 s"
    )


def test_who_beats_after_its_connection_is_broken_lives() -> None:
    """A network has broken it; from then on only the beats count."""
    watch = Heartbeat()
    assert seen(watch, 100, 7, broken=True) is None
    assert seen(watch, 100.5, 8, broken=True) is None
    assert seen(watch, 130, 8, broken=True) is None
    assert seen(watch, 131, 8, broken=True) == "it has been silent for 30 s"
