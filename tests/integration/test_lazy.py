"""An open checkpoint is what a conversion writes, tensor by tensor and slice by slice."""

import copy
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import quantized, qwen3_moe
from file_calls import ON_LINUX, PAGE
from folders import Tensors, qwen_tensors, tensor, two_shards, write_checkpoint
from hub_server import Hub, taken_for_the_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

import streamconv
from streamconv.errors import SourceChanged, StreamconvError
from streamconv.lazy import part_reader, reading
from streamconv.system import maps

EXPERTS, INTERMEDIATE, HIDDEN = 12, 6, 8
CONFIG = {"model_type": "qwen3_moe", "num_experts": EXPERTS}
LAYOUTS = ("per-expert", "fused", "fused-transposed", "fused-interleaved", "fused-flat", "stacked")
EXPERT_BYTES = 2 * INTERMEDIATE * HIDDEN * 2
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


def tensors() -> Tensors:
    found = qwen_tensors(2, EXPERTS, HIDDEN, INTERMEDIATE)
    found["model.empty"] = tensor("model.empty", "F32", 0, 3)
    found["model.counter"] = tensor("model.counter", "I64")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("lazy") / "source", two_shards(tensors()), CONFIG
    )


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint in every layout, each in one file."""
    target = tmp_path_factory.mktemp("converted")
    for layout in LAYOUTS:
        streamconv.convert(folder, target / layout, to=layout, copy=True)
    return {layout: target / layout for layout in LAYOUTS}


def equal(one: Any, other: Any) -> bool:
    """Same dtype, shape and bits."""
    if isinstance(one, torch.Tensor):
        bits = [torch.empty(x.shape, dtype=x.dtype).copy_(x).view(-1) for x in (one, other)]
        bits = [each.view(torch.uint8) for each in bits]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    same = one.dtype == other.dtype and one.shape == other.shape
    return bool(same and one.tobytes() == other.tobytes())


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_that_of_the_conversion(
    converted: dict[str, Path], source: str, layout: str
) -> None:
    """Names, order, metadata, dtypes, shapes and values, as `safe_open` has them."""
    with (
        streamconv.open(converted[source], layout) as lazy,
        safe_open(converted[layout] / "model.safetensors", "pt") as expected,
    ):
        assert lazy.keys() == expected.keys() == list(lazy) == [name for name, _ in lazy.items()]
        assert lazy.offset_keys() == expected.offset_keys()
        assert lazy.metadata() == expected.metadata()
        assert lazy.bytes_read == 0
        for name in expected.keys():  # noqa: SIM118 - not a mapping
            there = expected.get_slice(name)
            assert lazy[name].get_shape() == there.get_shape()
            assert lazy[name].get_dtype() == there.get_dtype()
            assert equal(lazy.get_tensor(name), expected.get_tensor(name))
            assert lazy[name].dtype == expected.get_tensor(name).dtype
        together, expected_together = lazy.get_tensors(), expected.get_tensors()
        assert list(together) == list(expected_together)
        assert all(equal(together[name], expected_together[name]) for name in together)
        read = lazy.bytes_read // 2
        assert read == sum(lazy[name].nbytes for name in lazy)
        for name, content in lazy.stream():
            assert equal(content, expected.get_tensor(name))
        assert lazy.bytes_read == 3 * read


@settings(deadline=None, max_examples=100)
@given(
    source=st.sampled_from(LAYOUTS),
    layout=st.sampled_from(LAYOUTS),
    picked=st.data(),
)
def test_every_slice_is_that_of_the_conversion(
    converted: dict[str, Path], source: str, layout: str, picked: st.DataObject
) -> None:
    """With steps, numbers from the end, lists and masks; and with the same errors."""
    number = st.integers(-3, 14)
    part = (
        number
        | st.builds(slice, st.none() | number, st.none() | number, st.none() | st.integers(1, 3))
        | st.sampled_from([None, ..., [1, 0]])
    )
    with (
        streamconv.open(converted[source], layout) as lazy,
        safe_open(converted[layout] / "model.safetensors", "pt") as expected,
    ):
        for name in picked.draw(st.lists(st.sampled_from(lazy.keys()), min_size=1)):
            index = picked.draw(st.lists(part, max_size=3).map(tuple))
            try:
                there = expected.get_slice(name)[index]
            except Exception as error:
                with pytest.raises(type(error)) as caught:
                    lazy.get_slice(name)[index]
                assert str(caught.value) == str(error)
            else:
                assert equal(lazy.get_slice(name)[index], there)


def test_only_the_bytes_that_are_asked_for(folder: Path) -> None:
    """Of experts and of rows exactly; of columns no more than their projections."""
    with streamconv.open(folder, to="fused") as lazy:
        gate_up = lazy[GATE_UP]
        assert (gate_up.shape, lazy.bytes_read) == ((EXPERTS, 2 * INTERMEDIATE, HIDDEN), 0)
        for index, nbytes in (
            (slice(3, 6), 3 * EXPERT_BYTES),
            (5, EXPERT_BYTES),
            ((slice(2, 4), slice(0, 2)), 2 * 2 * HIDDEN * 2),
            ((7, slice(5, 8)), 3 * HIDDEN * 2),
            (slice(2, 2), 0),
        ):
            before = lazy.bytes_read
            gate_up[index]
            assert lazy.bytes_read - before == nbytes
        before = lazy.bytes_read
        gate_up[2:4, :2, 3:5]
        assert lazy.bytes_read - before <= 2 * EXPERT_BYTES // 2


def test_what_lies_as_it_is_asked_for_is_a_view(converted: dict[str, Path]) -> None:
    """Of a map of the file: all slices are of one memory, and writing to them stays here."""
    path = converted["fused"] / "model.safetensors"
    before = path.read_bytes()
    with streamconv.open(converted["fused"], to="fused") as lazy:
        whole, part = lazy[GATE_UP][:], lazy[GATE_UP][3:5]
        assert part.data_ptr() - whole.data_ptr() == 3 * EXPERT_BYTES
        part.zero_()
        assert not whole[3:5].any()
        assert lazy[GATE_UP][4].data_ptr() == whole[4].data_ptr()
    assert not whole[3:5].any()
    assert path.read_bytes() == before


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize("integer", [int, np.int64, np.uint8])
def test_integers_of_numpy(
    converted: dict[str, Path], framework: str, integer: Callable[[int], Any]
) -> None:
    """Are indices, bounds of slices, and bounds of a box, as those of Python are."""
    one, two, three = map(integer, (1, 2, 3))
    index = (slice(one, three), two)
    with (
        streamconv.open(converted["stacked"], "fused", framework=framework) as lazy,
        safe_open(converted["fused"] / "model.safetensors", "pt") as expected,
    ):
        there = expected.get_slice(GATE_UP)[index]
        if framework == "np":
            there = there.view(torch.int16).numpy().view(np.uint16)
        assert equal(lazy[GATE_UP][index], there)
        box = [(one, three), (two, three), (integer(0), integer(HIDDEN))]
        assert equal(lazy[GATE_UP].read_box(box)[:, 0], there)
        for wrong in ([(1.0, 2)], [1, 2], None, [("0", "1")], [(0, 1, 2)]):
            with pytest.raises(TypeError, match="a range for each dimension"):
                lazy[GATE_UP].read_box(wrong)  # type: ignore[arg-type]
        with pytest.raises(IndexError, match="out of bounds"):
            lazy[GATE_UP].read_box([(one, integer(100)), *box[1:]])


@ON_LINUX
@pytest.mark.parametrize("layout", ["fused", "stacked"])
def test_what_maps_can_join_is_a_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Experts of whole pages: their tensors and slices are in maps of the files, and stay private.

    A share of the rows of gate and up is, too. Experts in another shard begin elsewhere in a page.
    """
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    folder = write_checkpoint(
        tmp_path / "source", two_shards(qwen_tensors(2, EXPERTS, 128, 64)), CONFIG
    )
    streamconv.convert(folder, tmp_path / "out", to=layout)
    with (
        streamconv.open(folder, to=layout) as lazy,
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as expected,
    ):
        name = next(name for name in lazy if "layers.1.mlp.experts.gate" in name)
        there = expected.get_tensor(name)
        whole, part, share = lazy.get_tensor(name), lazy[name][3:5], lazy[name].shard(1, 1, of=2)
        rows = there.unflatten(1, (-1, 64))[:, :, 32:].flatten(1, 2)
        assert equal(whole, there)
        assert equal(part, there[3:5])
        assert equal(share, rows if layout == "fused" else there[:, 32:])
        assert all(map(_is_in_a_file, (whole, part, share)))
        part.zero_()
        assert equal(lazy.get_tensor(name), there)
    assert equal(whole, there)


def _is_in_a_file(tensor: torch.Tensor) -> bool:
    """True if the middle of a tensor is in a map of a shard, as the system says."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(place, 16) for place in line.split()[0].split("-"))
        if begin <= middle < end:
            return line.endswith(".safetensors")
    return False


def test_numpy_has_integers_for_what_it_lacks(folder: Path, converted: dict[str, Path]) -> None:
    """And all else as `safe_open` has it; `get_dtype` tells what they are."""
    with (
        streamconv.open(folder, "stacked", framework="np") as lazy,
        safe_open(converted["stacked"] / "model.safetensors", "pt") as expected,
    ):
        for name in lazy:
            there = expected.get_tensor(name)
            if there.dtype == torch.bfloat16:
                assert (lazy[name].dtype, lazy[name].get_dtype()) == (np.dtype("uint16"), "BF16")
                there = there.view(torch.int16).numpy().view(np.uint16)
            assert equal(lazy.get_tensor(name), np.asarray(there))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("stored", ["per-expert", "fused"])
def test_a_share_of_a_rank(converted: dict[str, Path], stored: str, layout: str) -> None:
    """Of gate and of up both, wherever they are; all shares are the tensor."""
    with (
        streamconv.open(converted[stored], to=layout) as lazy,
        streamconv.open(converted["stacked"]) as plain,
    ):
        names = [name for name in lazy if "layers.1.mlp.experts.gate" in name]
        gate, up = (plain[f"model.layers.1.mlp.experts.{k}_proj"][:] for k in ("gate", "up"))
        whole = lazy[names[0]][:]
        axis = {"fused": 1, "stacked": 1, "fused-flat": 1}.get(layout, 2)
        for rank in range(3):
            share = lazy[names[0]].shard(axis, rank, 3)
            rows = slice(2 * rank, 2 * rank + 2)
            if layout == "fused":
                assert equal(share, torch.cat([gate[:, rows], up[:, rows]], 1))
            elif layout in ("fused-transposed", "fused-flat"):
                both = torch.cat([gate[:, rows].mT, up[:, rows].mT], 2)
                assert equal(share, both.reshape(share.shape))
            else:
                size = whole.shape[axis] // 3
                assert equal(share, whole.narrow(axis, rank * size, size))
        with pytest.raises(StreamconvError, match="shares count from 0 to 1"):
            lazy[names[0]].shard(axis, 2, 2)
        with pytest.raises(StreamconvError, match="cannot take share 0 of 5"):
            lazy[names[0]].shard(axis, 0, 5)


def test_what_is_not_there(folder: Path) -> None:
    """A name that no tensor has, in the words of either interface, and a framework."""
    with (
        streamconv.open(folder, to="fused") as lazy,
        safe_open(folder / "model-00001-of-00002.safetensors", "pt") as expected,
    ):
        assert "none" not in lazy
        assert GATE_UP in lazy
        with pytest.raises(KeyError):
            lazy["none"]
        for opened in (lazy, expected):
            for read in (opened.get_tensor, opened.get_slice):
                with pytest.raises(SafetensorError, match="does not contain tensor none"):
                    read("none")
    with pytest.raises(StreamconvError, match="framework"):
        streamconv.open(folder, framework="jax")


def test_a_closed_checkpoint(folder: Path) -> None:
    """What was read stays; what was not says so."""
    with streamconv.open(folder) as lazy:
        name = lazy.keys()[0]
        read, unread = lazy.get_tensor(name), lazy[name]
        expected = read.clone()
    assert equal(read, expected)
    with pytest.raises(StreamconvError, match="closed"):
        unread.read()


@pytest.mark.parametrize("layout", ["fused", None])
@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("is_read", [True, False])
def test_a_source_that_changes(
    tmp_path: Path, layout: str | None, replaced: bool, is_read: bool
) -> None:
    """Is refused at the next access, read or view, and also at the first one after opening."""
    folder = write_checkpoint(tmp_path / "source", two_shards(tensors()), CONFIG)
    with streamconv.open(folder, to=layout) as lazy:
        name = next(name for name in lazy if "layers.1.mlp.experts" in name)
        if is_read:
            lazy.get_tensor(name)
        path = folder / "model-00002-of-00002.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        if replaced:
            (folder / "new").write_bytes(content)
            (folder / "new").replace(path)
        else:
            path.write_bytes(content)
            os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged):
            lazy.get_tensor(name)


def test_threads_and_forks(folder: Path, converted: dict[str, Path]) -> None:
    """Any number of threads read, and so does a forked process."""
    with (
        streamconv.open(folder, to="fused-transposed") as lazy,
        safe_open(converted["fused-transposed"] / "model.safetensors", "pt") as expected,
    ):
        wanted = {name: expected.get_tensor(name) for name in lazy}

        def all_equal() -> bool:
            return all(equal(lazy.get_tensor(name), wanted[name]) for name in wanted)

        results: list[bool] = []
        threads = [threading.Thread(target=lambda: results.append(all_equal())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 4
        child = os.fork()
        if child == 0:
            os._exit(0 if all_equal() else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("options", [{"dtype": "fp32"}, {"layers": "1"}, {"rename": ["model.=m."]}])
def test_options_are_those_of_a_conversion(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Casts, layers and renames."""
    streamconv.convert(folder, tmp_path / "out", to="fused-transposed", **options)
    with (
        streamconv.open(folder, "fused-transposed", **options) as lazy,
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as expected,
    ):
        assert lazy.keys() == expected.keys()
        for name in lazy:
            assert equal(lazy.get_tensor(name), expected.get_tensor(name))
            if lazy[name].shape:
                assert equal(lazy[name][1:3], expected.get_slice(name)[1:3])


@pytest.mark.parametrize("kind", ["dcp", "mindspeed", "file", "template"])
def test_other_kinds_of_sources(
    folder: Path, converted: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """A DCP, a training run completed by its template, and a folder of one file."""
    source, options = converted["stacked"], dict[str, Any]()
    if kind != "file":
        source = tmp_path / "dcp"
        options = {"preset": "mindspeed"} if kind != "dcp" else {}
        streamconv.convert(folder, source, to="fused-flat", format="dcp", **options)
    if kind == "template":
        options["template"] = folder
    with (
        streamconv.open(source, "fused-transposed", **options) as lazy,
        safe_open(converted["fused-transposed"] / "model.safetensors", "pt") as expected,
    ):
        assert lazy.keys() == expected.keys()
        for name in lazy:
            assert equal(lazy.get_tensor(name), expected.get_tensor(name))
            if lazy[name].shape:
                assert equal(lazy[name][1:3], expected.get_slice(name)[1:3])


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the bytes of a slice are transferred, and each tensor is that of the local folder."""
    many = qwen_tensors(2, EXPERTS, 128, 96)
    folder = write_checkpoint(tmp_path / "source", two_shards(many), CONFIG)
    with (
        taken_for_the_hub(Hub({"org/moe": folder}), tmp_path, monkeypatch) as hub,
        streamconv.open("hf://org/moe", "fused-transposed") as lazy,
        streamconv.open(folder, "fused-transposed") as local,
    ):
        headers = hub.sent
        part = lazy[GATE_UP][3:7]
        assert equal(part, local[GATE_UP][3:7])
        assert lazy.bytes_read == part.nbytes
        assert part.nbytes <= hub.sent - headers <= 1.01 * part.nbytes
        for name in lazy:
            assert equal(lazy.get_tensor(name), local.get_tensor(name))


def test_scales_are_applied(tmp_path: Path) -> None:
    """A checkpoint of FP8 blocks that is opened in bf16, sliced where no block begins."""
    source = tmp_path / "fp8"
    quantized(qwen3_moe(tmp_path / "hub", hidden=48, intermediate=24), source)
    streamconv.convert(
        source, tmp_path / "out", to="fused", dequantize="bf16", max_shard_size="1GB"
    )
    with (
        streamconv.open(source, "fused", dequantize="bf16") as lazy,
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as expected,
    ):
        assert lazy.keys() == expected.keys()
        for name in lazy:
            assert equal(lazy.get_tensor(name), expected.get_tensor(name))
            for index in ((slice(1, 3),), (slice(1, 5), slice(3, 9)), (2,)):
                if len(index) <= len(lazy[name].shape):
                    assert equal(lazy[name][index], expected.get_slice(name)[index])


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_memory_that_is_used_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    """Is that of arrays that were dropped, never of one that somebody has."""
    monkeypatch.setattr(reading, "POOLED_BYTES", 1)
    monkeypatch.setattr(part_reader, "SHARE_BYTES", EXPERT_BYTES)
    with streamconv.open(folder, "fused-transposed", framework=framework) as lazy:
        kept = {name: lazy.get_tensor(name) for name in lazy}
        copies = {name: copy.deepcopy(array) for name, array in kept.items()}
        for _ in range(3):
            for name in lazy:
                assert equal(lazy.get_tensor(name), copies[name])
    for name, array in kept.items():
        assert equal(array, copies[name])


def test_a_checkpoint_is_closed_while_threads_take_their_shares(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read then is read to its end."""
    monkeypatch.setattr(part_reader, "SHARE_BYTES", EXPERT_BYTES)
    monkeypatch.setattr(part_reader, "default_workers", lambda: 2)
    lazy = streamconv.open(folder, "fused-transposed")
    expected = lazy.get_tensor(GATE_UP)
    submit = part_reader.ThreadPoolExecutor.submit
    closing = threading.Thread(target=lazy.close)

    def close_and_submit(*args: Any) -> Any:
        closing.start()
        closing.join(0.5)
        return submit(*args)

    monkeypatch.setattr(part_reader.ThreadPoolExecutor, "submit", close_and_submit)
    assert equal(lazy.get_tensor(GATE_UP), expected)
    closing.join(20)
    with pytest.raises(streamconv.UsageError, match="the checkpoint is closed"):
        lazy.get_tensor(GATE_UP)
