"""A module is filled from a checkpoint, or left as it is with an error that names all faults."""

from collections.abc import Callable

import pytest
import torch
from folders import Tensors, tensor
from memory_source import MemorySource
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
        (lambda: torch.empty(3, 2, dtype=torch.uint4, device="meta"), "uint4, and torch makes"),
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


def test_a_conjugate_view() -> None:
    """Its memory holds other numbers than its elements."""
    module = torch.nn.Module()
    module.register_buffer("a", torch.zeros(2, dtype=torch.complex64).conj())
    load_module(module, lazy({"a": ("C64", (2,), bytes(16))}), strict=True)
    module.register_buffer("a", torch.zeros(2, dtype=torch.complex64).conj().imag)
    source = lazy({"a": ("F32", (2,), torch.tensor([1.5, -2]).numpy().tobytes())})
    load_module(module, source, strict=True)
    assert module.get_buffer("a").tolist() == [1.5, -2]
