"""A result shows where it is, what was done, and whose part it is."""

from dataclasses import replace
from pathlib import Path

from shard_plans import plan_of

from streamconv.execution.result import Result
from streamconv.planning.partition import Partition


def test_its_text(tmp_path: Path) -> None:
    whole = Result(plan_of([8], tmp_path), Path("/out\n"), seconds=3.0, peak_memory=2_000_000)
    assert repr(whole) == "<Result at /out\\n: 8 B in 3.0 s, peak memory 2.00 MB>"
    part = replace(whole, part=Partition(2, 3), closed=False)
    assert repr(part) == "<Result at /out\\n: part 2 of 3, 8 B in 3.0 s, peak memory 2.00 MB>"
