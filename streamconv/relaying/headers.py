"""Describes emitted tensors like a checkpoint of them, with its headers and config.json."""

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.strict_json import MAX_JSON_BYTES, check_json_size, parse_json_object
from streamconv.lazy.arrays import format_dtype, nbytes_of
from streamconv.system.file_reads import FileReads

if TYPE_CHECKING:
    import torch

LOCATION = "the emitted tensors"
"""The name of that checkpoint in messages."""
Config = Mapping[str, Any] | str | PathLike[str] | Any
"""Content of config.json, its path, the path of its folder, or a config of transformers."""


def read_config(config: Config) -> Mapping[str, Any]:
    """Return the content of config.json.

    Raises:
        UsageError: It is none of these, or the file cannot be read.
        BadCheckpoint: The file is not a JSON object.
    """
    if isinstance(config, Mapping):
        return _checked(config)
    if isinstance(config, str | PathLike):
        return _read_file(Path(config))
    content = config.to_dict() if hasattr(config, "to_dict") else None
    if not isinstance(content, Mapping):
        raise UsageError(
            f"cannot take a {type(config).__name__} as the config",
            "give a dict, the path of a config.json, or a config of transformers",
        )
    return _checked(content)


def _checked(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return content that a config.json could have, if objects of Python are left out.

    Raises UsageError if it has no end, or numbers that Python does not print.
    """
    try:
        json.dumps(dict(content), default=lambda _: None, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"cannot take the config: it is no content of a config.json: {quoted(str(error))}"
        ) from None
    return content


def _read_file(path: Path) -> Mapping[str, Any]:
    file, files = path, FileReads()
    try:
        file = path / CONFIG if files.is_folder(path) else path
        raw = files.read_file(file, MAX_JSON_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the config {quoted(str(file))}: {error.strerror}",
            "give a dict, the path of a config.json, or a config of transformers",
        ) from None
    check_json_size(len(raw), quoted(str(file)))
    return parse_json_object(raw, quoted(str(file)))


def tensor_info(name: object, tensor: "torch.Tensor") -> TensorInfo:
    """Return the entry that a tensor would have in the header of a file.

    Args:
        name: Its name, which may be anything.
        tensor: The tensor, which may be anything.

    Raises:
        UsageError: They are not a name and a plain tensor, or no file can hold the dtype.
        PlanRefused: The tensor is only a part of the named one, is not dense, or has no memory.
    """
    import torch

    from streamconv.lazy.tensor_memory import lacks_memory

    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise UsageError(
            f"cannot relay a pair of {type(name).__name__} and {type(tensor).__name__}",
            "emit pairs of a name and a tensor of torch",
        )
    if hasattr(tensor, "full_tensor"):
        raise PlanRefused(
            f"cannot relay {quoted(name)}: it is a {type(tensor).__name__}, and each process has "
            "only a part of it",
            "emit `tensor.full_tensor()`",
        )
    if torch.nn.parameter.is_lazy(tensor):
        raise PlanRefused(
            f"cannot relay {quoted(name)}: it is a parameter without a shape",
            "call its module before, which makes it",
        )
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else tensor.layout
        raise PlanRefused(f"cannot relay {quoted(name)}: its layout is {layout}, not dense")
    dtype, shape = format_dtype(tensor.dtype), tuple(tensor.shape)
    if lacks_memory(tensor):
        raise PlanRefused(
            f"cannot relay {quoted(name)}: its memory was freed",
            "emit it while its module is gathered",
        )
    if dtype == "F4" and shape:
        shape = (*shape[:-1], 2 * shape[-1])
    return TensorInfo(name, dtype, shape, "", 0, nbytes_of(dtype, shape))


def checkpoint_of(
    infos: Iterable[TensorInfo],
    config: Mapping[str, Any],
    names: str | None = None,
    stacks: Mapping[str, LayoutNames] | None = None,
) -> Checkpoint:
    """Return the checkpoint that would hold some tensors.

    Args:
        infos: The tensors.
        config: Content of config.json.
        names: The form whose names they have, if that is known.
        stacks: The layouts that are known already, by the pattern of each stack.
    """
    tensors = {info.name: info for info in infos}
    return Checkpoint(
        location=LOCATION,
        tensors=tensors,
        files=(),
        others=(),
        config=config,
        record=Record(names, None, stacks or {}) if names is not None else None,
        total_bytes=sum(info.nbytes for info in tensors.values()),
    )
