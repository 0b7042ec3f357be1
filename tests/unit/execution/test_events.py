"""The event before the first byte says how much is left to write."""

from pathlib import Path

from shard_plans import plan_of

from streamconv.execution.events import Prepared


def test_what_is_left(tmp_path: Path) -> None:
    prepared = Prepared(plan_of([8, 5, 3], tmp_path), frozenset({1}), (0, 2))
    assert prepared.left_bytes == 11
    assert repr(prepared) == "<Prepared: 1 of 3 shards are finished, 2 to write>"
