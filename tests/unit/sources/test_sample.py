"""A sample tells other weights below the same headers, and reads little of large files."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch
from dcp_folders import write_dcp
from folders import qwen_tensors, tensor, two_shards, write_checkpoint, write_sparse
from hub_server import Hub, taken_for_the_hub
from xxhash import xxh3_128_hexdigest

from streamconv.sources.base import Read, Source
from streamconv.sources.open import open_source
from streamconv.sources.sample import SAMPLE_BYTES, SAMPLES, sampled_digest


def sample(folder: Path | str) -> str:
    with closing(open_source(str(folder))) as source:
        return sampled_digest(source)


def as_safetensors(folder: Path, seed: int) -> None:
    write_checkpoint(folder, two_shards(qwen_tensors(seed=seed)))


def as_dcp(folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn((6, 500), generator=generator, dtype=torch.bfloat16)
    write_dcp(folder, {"w": (wide, [[2, 4], [250]]), "v": (wide[0].clone(), [[]])}, files=2)


@pytest.mark.parametrize("write", [as_safetensors, as_dcp])
def test_other_weights_have_another_digest(
    write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    """And a copy has the same, wherever it is."""
    for name, seed in (("one", 1), ("copy", 1), ("other", 2)):
        write(tmp_path / name, seed)
    assert sample(tmp_path / "one") == sample(tmp_path / "copy") != ""
    assert sample(tmp_path / "one") != sample(tmp_path / "other")


def test_all_of_a_small_checkpoint_is_digested(tmp_path: Path) -> None:
    """Of half a megabyte or less."""
    shapes = [("a", 3, 100), ("b", 2), ("c", 70, 90), ("d", 512), ("e", 0), ("f", 512), ("g", 1)]
    tensors = {name: tensor(name, "BF16", *shape) for name, *shape in shapes}
    write_checkpoint(tmp_path / "it", {"model.safetensors": tensors})
    whole = b"".join(data for _, _, data in tensors.values())
    assert SAMPLE_BYTES < len(whole) < SAMPLES * SAMPLE_BYTES
    assert sample(tmp_path / "it") == xxh3_128_hexdigest(whole)


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, source: Source) -> None:
        self.checkpoint = source.checkpoint
        self.reads: list[Read] = []
        self.read_other, self.close = source.read_other, source.close
        self.check_unchanged = source.check_unchanged

    def read(self, reads: list[Read]) -> None:  # type: ignore[override]
        self.reads += reads


def test_little_is_read_of_a_large_one(tmp_path: Path) -> None:
    """Evenly: of 60 layers, each has its share."""
    folder = write_sparse(tmp_path / "large", 60, 64, 2048, 1024)
    with closing(open_source(str(folder))) as source:
        counted = Counted(source)
        sampled_digest(counted)  # type: ignore[arg-type]
    assert SAMPLES <= len(counted.reads) <= SAMPLES + 1
    assert sum(len(read.buffer) for read in counted.reads) <= (SAMPLES + 1) * SAMPLE_BYTES
    layers = {name.split(".")[2] for read in counted.reads if "layers" in (name := read.info.name)}
    assert len(layers) == 60


def test_a_server_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit has the same weights for ever."""
    as_safetensors(tmp_path / "it", 1)
    hub = Hub({"org/name": tmp_path / "it"})
    with ExitStack() as stack:
        stack.enter_context(taken_for_the_hub(hub, tmp_path, monkeypatch))
        with closing(open_source("hf://org/name")) as source:
            assert sampled_digest(source) == ""
