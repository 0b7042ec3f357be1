"""The type of events has every event that a run or a verification emits."""

import typing

import streamconv
from streamconv.api import events
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
