"""The type of events has every event that a run or a verification emits, and errors end both."""

import threading
import typing
from collections import Counter
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.api import events
from streamconv.api.events import OnEvent
from streamconv.execution import events as of_runs
from streamconv.verification.result import ProgressEvent


def test_every_event_is_one_of_the_type() -> None:
    """Those of a run, and those of a verification; no other class."""
    ours = {*typing.get_args(of_runs.Event), *typing.get_args(ProgressEvent)}
    assert {*typing.get_args(events.Event)} == ours


def test_every_event_is_public() -> None:
    classes = {each.__name__ for each in typing.get_args(events.Event)}
    assert classes | {"Event", "OnEvent"} == {*events.__all__}
    assert classes | {"Event"} <= {*streamconv.__all__}
    assert all(getattr(streamconv, name) is getattr(events, name) for name in classes)


# --- an error of a callback -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("converted")
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    write_checkpoint(place / "src", two_shards(qwen_tensors()), config)
    streamconv.merge(place / "src", place / "dst")
    return place


def run(name: str, place: Path, folder: Path, on_event: OnEvent) -> None:
    """Run a function into a new folder, with all that has events."""
    src, dst = place / "src", folder / "dst"
    if name == "merge":
        streamconv.merge(src, dst, verify=True, sha256=True, jobs=3, on_event=on_event)
    elif name == "finish":
        for part in ("1/2", "2/2"):
            streamconv.merge(src, dst, max_shard_size=300, part=part)
        streamconv.finish(dst, verify=True, on_event=on_event)
    elif name == "verify":
        streamconv.verify(src, place / "dst", sha256=True, jobs=3, on_event=on_event)
    else:
        streamconv.verify(place / "dst", sha256=True, jobs=3, on_event=on_event)


class Enough(BaseException):
    """An error that is none of Exception, as KeyboardInterrupt."""


@pytest.mark.parametrize("name", ["merge", "finish", "verify", "verify alone"])
def test_no_thread_is_left_after_an_error_of_a_callback(
    name: str, converted: Path, tmp_path: Path
) -> None:
    """At the first and the last event of each kind; whoever keeps the error keeps no thread."""
    all_events: list[streamconv.Event] = []
    run(name, converted, tmp_path / "all", all_events.append)
    counts = Counter(map(type, all_events))
    places = [(kind, at) for kind, count in counts.items() for at in {1, count}]
    before = {*threading.enumerate()}
    kept = []
    for number, (kind, at) in enumerate(places):
        seen = Counter[type]()

        def stop(event: streamconv.Event, seen: Counter[type] = seen) -> None:
            seen[type(event)] += 1
            if (type(event), seen[type(event)]) == (kind, at):  # noqa: B023 - within the loop
                raise Enough

        with pytest.raises(Enough) as caught:
            run(name, converted, tmp_path / str(number), stop)
        kept.append(caught.value)
        assert {*threading.enumerate()} <= before, kind
    assert streamconv.VerifyProgress in counts
