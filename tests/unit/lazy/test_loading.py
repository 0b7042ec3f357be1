"""A module is filled from a checkpoint, or left as it is with an error that names all faults."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from folders import Tensors, tensor
from memory_source import MemorySource
from odd_tensors import WITH_MEMORY, WITHOUT_MEMORY, Make
from torch._subclasses.fake_tensor import FakeTensorMode

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint, UsageError
from streamconv.lazy.arrays import arrays_of
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.loading import check_module, load_module
from streamconv.lazy.reading import SliceReader
from streamconv.planning.build import build_outputs
from streamconv.sources.wrappers.base import SourceWrapper

TENSORS = {"0.weight": tensor("a", "F32", 3, 2), "0.bias": tensor("b", "F32", 3)}


def lazy(tensors: Tensors) -> LazyCheckpoint:
    memory = MemorySource(tensors)
    source, arrays = SourceWrapper(memory), arrays_of("pt")
    outputs = build_outputs(memory.checkpoint, default_catalog(), None, {"pass_through": True})
    reader = SliceReader(lambda: source, source, arrays)
    return LazyCheckpoint(memory.checkpoint, outputs, reader, arrays, is_torch=True)


def linear(device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3, device=device, dtype=dtype))


def bits(value: torch.Tensor) -> bytes:
    return bytes(value.detach().contiguous().view(torch.uint8).reshape(-1).tolist())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_is_filled(device: str) -> None:
    """In place, or with new parameters that need gradients as the old ones did."""
    module = linear(device)
    module.get_parameter("0.bias").requires_grad = False
    before = dict(module.named_parameters())
    loaded = load_module(module, lazy(TENSORS), strict=True)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ((), ())
    for name, parameter in module.named_parameters():
        assert bits(parameter) == TENSORS[name][2]
        assert (parameter is before[name]) == (device == "cpu")
        assert parameter.requires_grad == (name == "0.weight")


@pytest.mark.parametrize(
    "mode", [lambda: torch.device("meta"), torch.inference_mode, torch.no_grad]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_is_filled_under_a_mode_of_torch(device: str, mode: Callable[[], Any]) -> None:
    """As one where tensors are made on another device: what is read is on the CPU nevertheless."""
    module, source = linear(device), lazy(TENSORS)
    with mode():
        load_module(module, source, strict=True)
        read = source["0.weight"][...]
    assert read.device.type == "cpu"
    for name, parameter in module.named_parameters():
        assert bits(parameter) == TENSORS[name][2]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fake_tensors_have_no_content(device: str) -> None:
    module, source = linear(device), lazy(TENSORS)
    with FakeTensorMode(), pytest.raises(UsageError, match="under a FakeTensorMode"):
        load_module(module, source, strict=True)
    for index in (..., 0, slice(0, 2)):
        with FakeTensorMode(), pytest.raises(UsageError, match="under a FakeTensorMode"):
            source["0.weight"][index]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_dtype_of_the_module_stays(device: str) -> None:
    module = linear(device, torch.float64)
    load_module(module, lazy(TENSORS), strict=True)
    wanted = torch.frombuffer(bytearray(TENSORS["0.bias"][2]), dtype=torch.float32).double()
    assert torch.equal(module.get_parameter("0.bias"), wanted)


def test_a_tied_parameter_is_one_again() -> None:
    """If it was on meta; the checkpoint need not have both of its names."""
    module = torch.nn.ModuleDict({"0": linear("meta")[0], "1": linear("meta")[0]})  # type: ignore[index]
    module["1"].weight, module["1"].bias = module["0"].weight, module["0"].bias
    loaded = load_module(module, lazy(TENSORS), strict=True)
    assert module["1"].weight is module["0"].weight
    assert not module["1"].weight.is_meta
    assert loaded.missing_keys == ()


def test_names_that_only_one_side_has() -> None:
    """Are listed, or refused all at once; then nothing of the module is changed."""
    tensors = {"0.weight": TENSORS["0.weight"], "more": tensor("c", "F32", 1)}
    module = linear()
    before = bits(module.get_parameter("0.weight"))
    with pytest.raises(BadCheckpoint) as caught:
        load_module(module, lazy(tensors), strict=True)
    assert caught.value.message == (
        'cannot load the checkpoint into Sequential: Missing key(s) in state_dict: "0.bias". '
        'Unexpected key(s) in state_dict: "more".'
    )
    assert bits(module.get_parameter("0.weight")) == before
    loaded = load_module(module, lazy(tensors), strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (("0.bias",), ("more",))
    assert repr(loaded) == "<Loaded: 1 missing and 1 unexpected keys>"
    assert bits(module.get_parameter("0.weight")) == TENSORS["0.weight"][2]


def test_another_shape_is_refused() -> None:
    """Whether or not names have to agree."""
    tensors = {**TENSORS, "0.bias": tensor("b", "F32", 4)}
    for strict in (True, False):
        with pytest.raises(BadCheckpoint, match=r"size mismatch for 0.bias: .* shape \[4\] from"):
            load_module(linear(), lazy(tensors), strict=strict)


def test_a_buffer_on_meta_that_no_checkpoint_has() -> None:
    module = linear("meta")
    module.register_buffer("table", torch.zeros(2, device="meta"), persistent=False)
    with pytest.raises(UsageError, match="cannot fill the buffer table: it is on meta"):
        load_module(module, lazy(TENSORS), strict=True)


def test_something_that_is_no_module() -> None:
    check_module(linear())
    with pytest.raises(TypeError, match="module"):
        check_module({})


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_codes_are_one_element(device: str) -> None:
    """Of a tensor of four bits, torch has half as many elements as the checkpoint says."""
    module = torch.nn.Module()
    codes = torch.zeros(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).to(device)
    module.register_buffer("codes", codes)
    source = lazy({"codes": tensor("codes", "F4", 2, 6)})
    load_module(module, source, strict=True)
    assert bits(module.get_buffer("codes")) == tensor("codes", "F4", 2, 6)[2]
    for buffer in (codes.new_empty(2, 6), torch.zeros(2, 6)):
        module.register_buffer("codes", buffer)
        with pytest.raises((BadCheckpoint, UsageError), match="cannot"):
            load_module(module, source, strict=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        (torch.nn.UninitializedParameter, "a parameter without a shape"),
        (lambda: torch.zeros(3, 2).to_sparse(), "a tensor of the layout sparse_coo"),
        (lambda: torch.zeros(3, 2).to_sparse_csr(), "a tensor of the layout sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.zeros(3, 2)]), "a nested tensor"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3, 2), 1.0, 0, torch.qint8), "a quantized"),
        (lambda: torch._efficientzerotensor((3, 2)), "a tensor of zeros without memory"),
        (lambda: torch.zeros(3, 1).expand(3, 2), "a tensor of which several elements share memory"),
        (lambda: FakeTensorMode().from_tensor(torch.zeros(3, 2)), "a fake tensor"),
        (lambda: torch.empty(3, 2, dtype=torch.bits8), "bits8, and torch makes none of float32"),
        *(
            (lambda make=make: make(torch.zeros(3, 2)), kind)
            for make, kind in WITHOUT_MEMORY.values()
        ),
    ],
)
def test_what_has_no_elements_to_fill(weight: Callable[[], torch.Tensor], kind: str) -> None:
    """Is refused before anything is filled."""
    module = linear()
    del module[0].weight  # type: ignore[index]
    if isinstance(made := weight(), torch.nn.Parameter):
        module[0].weight = made  # type: ignore[index]
    else:
        module[0].register_buffer("weight", made)  # type: ignore[index]
    before = bits(module.get_parameter("0.bias"))
    with pytest.raises(UsageError, match=f"cannot fill 0.weight: it is {kind}"):
        load_module(module, lazy(TENSORS), strict=True)
    assert bits(module.get_parameter("0.bias")) == before


@pytest.mark.parametrize("make", WITH_MEMORY.values(), ids=[*WITH_MEMORY])
def test_what_has_elements_is_filled(make: Make) -> None:
    """In place, with the numbers of the checkpoint."""
    module = torch.nn.Module()
    weight = make(torch.zeros(3, 2))
    module.register_buffer("weight", weight)
    load_module(module, lazy({"weight": TENSORS["0.weight"]}), strict=True)
    assert module.get_buffer("weight") is weight
    wanted = torch.frombuffer(bytearray(TENSORS["0.weight"][2]), dtype=torch.float32)
    assert torch.equal(weight.detach(), wanted.reshape(3, 2).to(weight.dtype))


def test_numbers_that_would_lose_a_part() -> None:
    """Of complex ones the imaginary part; torch only warns."""
    module = torch.nn.Module()
    module.register_buffer("a", torch.ones(2))
    with pytest.raises(UsageError, match=r"it is float32, and does not hold .*, complex64"):
        load_module(module, lazy({"a": ("C64", (2,), bytes(16))}), strict=True)
    assert module.get_buffer("a").tolist() == [1, 1]


def test_autograd_knows_that_a_parameter_has_changed() -> None:
    """A gradient would be computed from the new values, silently."""
    module = linear()
    weight = module.get_parameter("0.weight")
    squares = (weight * weight).sum()
    load_module(module, lazy(TENSORS), strict=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("hook", ["copies", "renames", "views"])
def test_a_state_dict_that_hooks_have_changed(hook: str, device: str) -> None:
    """What is a copy, or on meta without its name, would leave the module as it was."""
    module = linear(device)
    before = dict(module.named_parameters())

    def change(_: object, state: dict[str, torch.Tensor], *__: object) -> None:
        for name in [*state]:
            tensor = state.pop(name)
            new = name.replace("0.", "own.") if hook == "renames" else name
            state[new] = {"copies": torch.clone, "views": torch.detach}.get(hook, lambda t: t)(
                tensor
            )

    module.register_state_dict_post_hook(change)
    tensors = {n.replace("0.", "own.") if hook == "renames" else n: t for n, t in TENSORS.items()}
    if device == "cpu" and hook != "copies":
        load_module(module, lazy(tensors), strict=True)
        assert bits(module.get_parameter("0.weight")) == TENSORS["0.weight"][2]
        return
    said = "on meta under another name" if hook == "renames" else "a copy of its tensor"
    with pytest.raises(
        UsageError, match=rf"^cannot fill .*\.weight: what the state_dict .* {said}"
    ):
        load_module(module, lazy(tensors), strict=True)
    assert dict(module.named_parameters()) == before


def test_a_conjugate_view() -> None:
    """Its memory holds other numbers than its elements."""
    module = torch.nn.Module()
    module.register_buffer("a", torch.zeros(2, dtype=torch.complex64).conj())
    load_module(module, lazy({"a": ("C64", (2,), bytes(16))}), strict=True)
    module.register_buffer("a", torch.zeros(2, dtype=torch.complex64).conj().imag)
    source = lazy({"a": ("F32", (2,), torch.tensor([1.5, -2]).numpy().tobytes())})
    load_module(module, source, strict=True)
    assert module.get_buffer("a").tolist() == [1.5, -2]
