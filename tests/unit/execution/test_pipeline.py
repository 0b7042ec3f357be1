"""One pipeline for every share of a conversion: what is written, verified, and committed."""

from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

from streamconv.errors import VerifyFailed
from streamconv.execution.events import Completed
from streamconv.execution.pipeline import Share, run_share
from streamconv.execution.request import ConversionRequest
from streamconv.options import Options
from streamconv.planning.partition import Partition
from streamconv.system.cancellation import CancelToken


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors(experts=2)), config)


def request(src: Path, dst: Path, *, verify: bool = False) -> ConversionRequest:
    options: Options = {"max_shard_size": 300, "jobs": 1}
    return ConversionRequest(str(src), dst, "fused", False, False, verify, options)


def test_a_share_that_another_process_commits(src: Path, tmp_path: Path) -> None:
    """Nothing is at the target, and the result says so."""
    dst = tmp_path / "dst"
    share = Share(Partition(1, 2), commits=False)
    result = run_share(request(src, dst), share, None, CancelToken())
    assert (result.closed, result.part, result.path) == (False, Partition(1, 2), dst)
    assert not dst.exists()


def test_what_fails_to_verify_is_not_committed(src: Path, tmp_path: Path) -> None:
    """A bit changes between the last write and the verification."""

    def on_event(event: object) -> None:
        if isinstance(event, Completed):
            shard = next(event.folder.glob("*.safetensors"))
            raw = bytearray(shard.read_bytes())
            raw[-1] ^= 1
            shard.write_bytes(raw)

    with pytest.raises(VerifyFailed) as caught:
        run_share(request(src, tmp_path / "dst", verify=True), Share(), on_event, CancelToken())
    assert f"{tmp_path / 'dst'} is as it was" in caught.value.hint
    assert not (tmp_path / "dst").exists()
