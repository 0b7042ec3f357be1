"""Where an array is taken, a lazy tensor is its values, or an error: never something else."""

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import tensor, write_checkpoint
from safetensors.torch import load_file

import streamconv

TENSORS = {
    "matrix": tensor("matrix", "F32", 3, 2),
    "numbers": tensor("numbers", "I64", 3),
    "one": ("F16", (), b"\0\x3c"),
    "brain": ("BF16", (2, 2), b"\x80\x3f" * 4),
    "eight": tensor("eight", "F8_E4M3", 2, 2),
    "four": tensor("four", "F4", 2, 4),
    "empty": ("F32", (0, 3), b""),
}
OF_NUMPY = ("matrix", "numbers", "one", "empty")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(place, {"model.safetensors": TENSORS}, {}, index=False)


@pytest.fixture(params=["pt", "np"])
def opened(folder: Path, request: pytest.FixtureRequest) -> Any:
    with streamconv.open(folder, framework=request.param) as model:
        yield model


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    """As safetensors reads them."""
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", OF_NUMPY)
def test_numpy_takes_the_values(opened: Any, expected: Any, name: str) -> None:
    wanted = expected[name].numpy()
    made = np.asarray(opened[name])
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    assert np.array_equal(made, wanted)
    assert np.array_equal(np.array(opened[name], np.complex128), wanted.astype(np.complex128))
    assert np.array_equal(np.stack([opened[name]] * 2), np.stack([wanted] * 2))
    assert np.array_equal(np.add(opened[name], wanted), wanted + wanted)
    assert np.all(wanted == opened[name])


@pytest.mark.parametrize("name", ["brain", "eight", "four"])
def test_numpy_has_no_such_dtype(opened: Any, name: str) -> None:
    """Its bits, as numbers, would be other values."""
    for take in (np.asarray, np.float64, np.sum, lambda lazy: np.ones(2) + lazy):
        with pytest.raises(TypeError, match=rf"^cannot make an array of {name}: numpy has no "):
            take(opened[name])


def test_without_a_copy(opened: Any) -> None:
    with pytest.raises(ValueError, match=r"^cannot make an array of matrix without a copy"):
        opened["matrix"].__array__(copy=False)


@pytest.mark.parametrize("name", [*OF_NUMPY, "brain"])
@pytest.mark.parametrize("take", [torch.as_tensor, torch.tensor, torch.from_dlpack])
def test_torch_takes_the_values(
    folder: Path, expected: Any, take: Callable[[Any], torch.Tensor], name: str
) -> None:
    with streamconv.open(folder) as opened:
        made = take(opened[name])
    assert made.dtype == expected[name].dtype
    assert torch.equal(made, expected[name])


def test_torch_takes_no_bits_for_values(folder: Path) -> None:
    with streamconv.open(folder, framework="np") as opened:
        assert torch.equal(torch.as_tensor(opened["one"]), torch.tensor(1.0).half())
        with pytest.raises(TypeError, match="numpy has no BF16"):
            torch.as_tensor(opened["brain"])


def bits(array: Any) -> bytes:
    if isinstance(array, torch.Tensor):
        array = array.reshape(-1).view(torch.uint8).numpy()
    return bytes(array.tobytes())


@pytest.mark.parametrize("name", [*TENSORS])
def test_rows(opened: Any, name: str) -> None:
    """One after the other; without a dimension there are none, not even no rows."""
    lazy = opened[name]
    if name == "one":
        for take in (len, iter, reversed, list, bytes):
            with pytest.raises(TypeError):
                take(lazy)
        return
    assert len(lazy) == lazy.shape[0]
    assert len([*lazy]) == len(lazy)
    assert b"".join(map(bits, lazy)) == bits(lazy.read())


@pytest.mark.parametrize("name", [*TENSORS])
@pytest.mark.parametrize(
    "use",
    [
        bool,
        float,
        int,
        operator.index,
        "{:.3f}".format,
        lambda lazy: lazy == 1,
        lambda lazy: lazy != 1.5,
        lambda lazy: lazy == torch.ones(1),
        lambda lazy: torch.ones(1) == lazy,
        lambda lazy: lazy == np.ones(1),
        lambda lazy: lazy < 1,
        lambda lazy: lazy + 1,
        torch.sum,
    ],
)
def test_nothing_is_said_of_values_that_were_not_read(opened: Any, name: str, use: Any) -> None:
    """Each of these was true, false or an array of one object, whatever the values are."""
    with pytest.raises(TypeError):
        use(opened[name])


def test_it_is_a_member_and_a_key(opened: Any) -> None:
    """As any object is."""
    one, other = opened["matrix"], opened["one"]
    assert one == one
    assert one != other
    assert one != "matrix"
    assert one is not None
    assert other in [one, other, None]
    assert {one: 1, other: 2}[other] == 2
