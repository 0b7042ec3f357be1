"""What a file's header would say of an emitted tensor, and where the config comes from."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_tensors import WITH_MEMORY, Make, freed

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError
from streamconv.relaying.headers import checkpoint_of, read_config, tensor_info


@pytest.mark.parametrize(
    ("tensor", "dtype", "shape", "nbytes"),
    [
        (torch.zeros(2, 3), "F32", (2, 3), 24),
        (torch.zeros(3, 2).T, "F32", (2, 3), 24),
        (torch.zeros((), dtype=torch.bfloat16), "BF16", (), 2),
        (torch.zeros(0, 5, dtype=torch.int8), "I8", (0, 5), 0),
        (torch.zeros(4, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "F4", (4, 16), 32),
    ],
)
def test_what_a_header_would_say(
    tensor: torch.Tensor, dtype: str, shape: tuple[int, ...], nbytes: int
) -> None:
    """Two numbers of four bits are one element of torch, and two of safetensors."""
    assert tensor_info("a", tensor) == TensorInfo("a", dtype, shape, "", 0, nbytes)


@pytest.mark.parametrize(
    ("name", "tensor", "error", "message"),
    [
        (3, torch.zeros(1), UsageError, "a pair of int and Tensor"),
        ("a", [1.0], UsageError, "a pair of str and list"),
        (
            "a",
            torch.zeros(2, 2).to_sparse(),
            PlanRefused,
            "relay a: its layout is torch.sparse_coo",
        ),
    ],
)
def test_what_is_no_name_and_tensor(
    name: object, tensor: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tensor_info(name, tensor)


def test_a_tensor_of_several_processes_has_to_be_gathered() -> None:
    class Distributed(torch.Tensor):
        def full_tensor(self) -> None: ...

    with pytest.raises(PlanRefused, match="each process has only a part of it") as caught:
        tensor_info("a", torch.zeros(1).as_subclass(Distributed))
    assert "full_tensor()" in caught.value.hint


def test_a_config_is_content_a_file_a_folder_or_an_object(tmp_path: Path) -> None:
    content = {"model_type": "qwen3_moe"}
    (tmp_path / "config.json").write_text(json.dumps(content))

    class OfTransformers:
        def to_dict(self) -> dict[str, str]:
            return content

    for given in (content, tmp_path, str(tmp_path / "config.json"), OfTransformers()):
        assert read_config(given) == content


def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(BadCheckpoint, match=r"cannot read .*list.json: not a JSON object"):
        read_config(tmp_path / "list.json")
    with pytest.raises(UsageError, match="cannot take a int as the config"):
        read_config(5)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.json", "missing.json: No such file or directory"),
        ("file/config.json", "file/config.json: Not a directory"),
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("fifo", "it is not a regular file"),
        ('{"model_type": "qwen3_moe"}', "No such file or directory"),
    ],
)
def test_a_path_of_no_config(path: str, said: str, tmp_path: Path) -> None:
    """Is refused in words whatever is there, and nobody waits for what may never come."""
    (tmp_path / "file").write_text("{}")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=r"^cannot read the config ") as caught:
        read_config(tmp_path / path)
    assert said in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("content", [{"num_experts": 10**5000}, {"a": [-(10**5000)]}])
def test_content_that_python_does_not_print(content: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^cannot take the config: it is no content"):
        read_config(content)


def test_content_without_an_end() -> None:
    content: dict[str, object] = {}
    content["itself"] = [content]
    with pytest.raises(UsageError, match=r"^cannot take the config: .* Circular reference"):
        read_config(content)


def test_content_may_have_objects_of_python() -> None:
    """As that of transformers, which may have a dtype of torch."""
    content = {"model_type": "qwen3_moe", "dtype": torch.bfloat16, ("a", 1): {1, 2}}
    assert read_config(content) is content


def test_the_checkpoint_that_some_tensors_would_make() -> None:
    """Without a form of their names it has no record, so that its form is detected."""
    infos = [tensor_info(name, torch.zeros(2)) for name in ("b", "a")]
    made = checkpoint_of(infos, {"x": 1})
    assert (list(made.tensors), made.total_bytes, made.record) == (["b", "a"], 16, None)
    named = checkpoint_of(infos, {}, "hub").record
    assert named is not None
    assert named.names == "hub"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_no_shape() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(PlanRefused, match="relay a: its layout is nested"):
        tensor_info("a", nested)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (freed, "its memory was freed"),
        (lambda plain: freed(plain, 8), "its memory was freed"),
        (lambda _: torch.nn.UninitializedParameter(), "it is a parameter without a shape"),
    ],
)
def test_a_tensor_without_elements(make: Make, said: str) -> None:
    """Is refused before anybody reads memory that is no longer its own."""
    with pytest.raises(PlanRefused, match=f"^cannot relay w: {said}"):
        tensor_info("w", make(torch.zeros(3, 2)))


@pytest.mark.parametrize(
    "make",
    [
        *WITH_MEMORY.values(),
        lambda _: torch.zeros(0, 5),
        lambda _: torch._efficientzerotensor((3,)),
    ],
)
def test_a_tensor_with_elements(make: Make) -> None:
    made = make(torch.zeros(3, 2))
    assert tensor_info("w", made).shape == made.shape
