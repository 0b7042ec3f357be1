"""Find the tensors next to experts whose names the family does not have."""

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from streamconv.catalog.companions import possible_weights
from streamconv.catalog.families import Family
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.stacks import Stack

_EXPERT = re.compile(r"\.experts\.\d")
"""A part of the names of single experts."""


def unknown_next_to_experts(
    family: Family | None,
    model_type: str,
    hub_names: Mapping[str, TensorInfo],
    stacks: Iterable[Stack],
) -> tuple[str, ...]:
    """Return the names of tensors next to experts that the model type does not have.

    They are the names in the checkpoint. The result is empty if no row lists the names of the model
    type.

    Args:
        family: The family, if it is known.
        model_type: The `model_type` of config.json.
        hub_names: Every tensor by its hub name.
        stacks: The expert stacks. Only those of the family are searched.
    """
    known = family.names_next_to_experts(model_type) if family else ()
    own = tuple(stack for stack in stacks if family and stack.pattern in family.stacks)
    if not known or not own:
        return ()
    return tuple(
        hub_names[prefix + name].name
        for prefix, name in _next_to_experts(hub_names, own)
        if not _is_known(name, known)
    )


def _next_to_experts(
    hub_names: Mapping[str, TensorInfo], stacks: tuple[Stack, ...]
) -> Iterator[tuple[str, str]]:
    """Yield, for each tensor next to experts, the prefix of its module and the rest of its name."""
    prefixes = {module.prefix for stack in stacks for module in stack.modules}
    experts = {
        info.name
        for stack in stacks
        for module in stack.modules
        for infos in module.tensors.values()
        for each in infos
        for info in ((each,) if each.cast is None else each.stored)
    }
    for hub_name, tensor in hub_names.items():
        if tensor.name in experts or _EXPERT.search(hub_name):
            continue
        prefix = hub_name
        while "." in prefix:
            prefix = prefix.rpartition(".")[0]
            if f"{prefix}." in prefixes:
                yield f"{prefix}.", hub_name[len(prefix) + 1 :]
                break


def _is_known(name: str, known: tuple[str, ...]) -> bool:
    """Return True if a name fits one of the patterns, or the name of its weight does.

    A bias has to fit by its own name: biases of routers have another name in each form.
    """
    names = [name] if name.endswith("bias") else [name, *possible_weights(name)]
    return any(
        fnmatchcase(each, glob) or fnmatchcase(each, f"{glob}.*")
        for each in names
        for glob in known
    )
