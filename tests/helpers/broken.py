"""Ways to break a sound checkpoint, or to ask for what cannot be done with it.

A row is one of them, with the words that the error has to have: the file or tensor, and both facts.
The rows stand in `broken_experts.py`, `broken_folders.py` and `broken_requests.py`; single files,
bad and odd, in `corpus.py`.
"""

# Changes made by a lambda are calls in a list, whose values nobody needs.
# mypy: disable-error-code="func-returns-value"
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from folders import (
    INDEX,
    SHARDS,
    Tensors,
    fused_tensors,
    qwen_tensors,
    read_shard,
    shard_bytes,
    tensor,
    two_shards,
    write_checkpoint,
    write_shard,
)

from streamconv.errors import StreamconvError, UsageError

FIRST, SECOND = SHARDS
PARTIAL = "dst.streamconv-partial"
SIZE = len(shard_bytes(two_shards(qwen_tensors())[SECOND]))
"""Bytes of the second shard of a sound checkpoint."""
EXPERTS_0, EXPERTS_1 = (f"model.layers.{layer}.mlp.experts." for layer in range(2))
CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}

Break = Callable[[Path], object]
"""Makes the source folder."""


@dataclass(frozen=True)
class Row:
    """One way to fail."""

    name: str
    error: type[StreamconvError]
    breaks: Break
    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `convert` where `to` is among them, of `merge` otherwise."""
    src: str = "src"
    dst: str = "dst"
    process: bool = False
    """Whether it is run as a process as well."""


def row(name: str, error: type[StreamconvError], breaks: Break, *words: str, **more: Any) -> Row:
    return Row(name, error, breaks, words, **more)


def sound(src: Path, tensors: Tensors | None = None, config: object = CONFIG) -> Path:
    """A checkpoint of two shards with an index, a config, and other files."""
    tensors = qwen_tensors() if tensors is None else tensors
    write_checkpoint(src, two_shards(tensors), config)
    (src / "notes").mkdir()
    (src / "notes" / "readme.txt").write_text("travels along")
    return src


# What breaks a checkpoint. Each takes a change and gives a `Break`.


def tensors(change: Callable[[Tensors], object], config: object = CONFIG, **made: Any) -> Break:
    """Other tensors; the index fits them."""

    def build(src: Path) -> None:
        named = qwen_tensors(**made)
        change(named)
        sound(src, named, config)

    return build


def only(named: Tensors, config: object = CONFIG) -> Break:
    """Exactly these tensors."""
    return lambda src: sound(src, named, config)


def without(*prefixes: str, **made: Any) -> Break:
    """No tensor whose name begins so."""

    def change(named: Tensors) -> None:
        for name in [name for name in named if name.startswith(prefixes)]:
            del named[name]

    return tensors(change, **made)


def without_any(part: str) -> Break:
    """No tensor whose name has this in it."""
    return tensors(lambda named: [named.pop(name) for name in list(named) if part in name])


def with_every(part: str, dtype: str, *shape: int) -> Break:
    """All tensors whose names have this in them, in another shape."""
    return tensors(
        lambda t: t.update({name: tensor(name, dtype, *shape) for name in t if part in name})
    )


def with_tensor(name: str, dtype: str, *shape: int, **made: Any) -> Break:
    """One more tensor, or one that is another than it was."""
    return tensors(lambda named: named.update({name: tensor(name, dtype, *shape)}), **made)


def renumbered(old: str, new: str) -> Break:
    """All names with `new` where they had `old`."""

    def change(named: Tensors) -> None:
        renamed = {name.replace(old, new): value for name, value in named.items()}
        named.clear()
        named.update(renamed)

    return tensors(change)


def shard(change: Callable[[bytes], bytes]) -> Break:
    """Other bytes in the second shard."""

    def build(src: Path) -> None:
        path = sound(src) / SECOND
        path.write_bytes(change(path.read_bytes()))

    return build


def index(change: Callable[[dict[str, Any]], object]) -> Break:
    """Another weight_map."""

    def build(src: Path) -> None:
        path = sound(src) / INDEX
        fields = json.loads(path.read_text())
        change(fields["weight_map"])
        path.write_text(json.dumps(fields))

    return build


def points_to(file: object) -> Break:
    """An index that has one tensor in `file`."""
    return index(lambda weights: weights.update({"model.norm.weight": file}))


def text(name: str, content: str | bytes) -> Break:
    """A file with this content."""

    def build(src: Path) -> None:
        path = sound(src) / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return build


def twice_in(one: str, other: str, weight_map: Mapping[str, str] | None = None) -> Break:
    """The same tensors in two files; an index has them in the one, but for `weight_map`."""
    everything = qwen_tensors()
    index: Any = {"weight_map": {**dict.fromkeys(everything, one), **(weight_map or {})}}
    return lambda src: write_checkpoint(
        src, {one: everything, other: everything}, index=index if weight_map else False
    )


def also(change: Callable[[Path], object]) -> Break:
    """A sound checkpoint, and then something done to its folder."""
    return lambda src: change(sound(src))


def in_place_of_second(change: Callable[[Path], object]) -> Break:
    """Something else where the second shard was."""

    def build(src: Path) -> None:
        (sound(src) / SECOND).unlink()
        change(src / SECOND)

    return build


def moved_out(path: Path, folder: str = "elsewhere") -> None:
    """Move something to a folder next to the source, and put a link in its place."""
    elsewhere = path.parent.parent / folder
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    path.symlink_to(f"../{folder}/{path.name}")


def exchange_shards(src: Path) -> None:
    first = (src / FIRST).read_bytes()
    (src / FIRST).write_bytes((src / SECOND).read_bytes())
    (src / SECOND).write_bytes(first)


def index_called(name: str, src: Path) -> None:
    """An index of another name, and no JSON in it."""
    (src / INDEX).unlink(missing_ok=True)
    (src / name).write_text("{")


def bare(shards: Mapping[str, Tensors], **more: Any) -> Break:
    """These shards, and what `write_checkpoint` makes of them."""
    return lambda src: write_checkpoint(src, shards, **more)


def socket_at(path: Path) -> None:
    """Bind a socket from its own folder, as its whole path is longer than the system takes."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def filled(folder: Path) -> None:
    folder.mkdir()
    (folder / "precious").write_text("keep this")


def record(layout: str = "fused", version: int = 1, names: str = "hub") -> str:
    """What a shard's metadata says of its layouts."""
    stack = {"layout": layout, "naming": "qwen"}
    stacks = {"model.layers.*.mlp.": stack}
    fields = {"version": version, "form": None, "names": names, "stacks": stacks, "layers": None}
    return json.dumps(fields)


def recorded(first: str | None, second: str | None) -> Break:
    """Metadata that says this in the one shard and that in the other."""

    def build(src: Path) -> None:
        sound(src)
        for file, said in ((FIRST, first), (SECOND, second)):
            if said is not None:
                write_shard(src / file, read_shard(src / file)[0], {"streamconv": said})

    return build


def gpt_oss(src: Path) -> None:
    """Experts in MXFP4, as gpt-oss is published: sound, and not converted."""
    named = {"model.norm.weight": tensor("model.norm.weight", "BF16", 4)}
    for layer in range(2):
        for weight, rows in (("gate_up_proj", 12), ("down_proj", 4)):
            name = f"model.layers.{layer}.mlp.experts.{weight}"
            named[f"{name}_blocks"] = tensor(name, "U8", 3, rows, 1, 16)
            named[f"{name}_scales"] = tensor(name, "U8", 3, rows, 1)
            named[f"{name}_bias"] = tensor(name, "BF16", 3, rows)
    sound(src, named, {"model_type": "gpt_oss"})


def made(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Tensors of these shapes."""
    return {name: tensor(name, "BF16", *shape) for name, shape in shapes.items()}


OMNI = {"model_type": "qwen3_omni_moe"}
GLM = {"model_type": "glm4v_moe", "text_config": {"n_routed_experts": 4}}
INTERNVL = {"model_type": "internvl_chat", "llm_config": {"num_experts": 4}}
ALONE: dict[str, Any] = {}
"""The config of a model type that nobody knows."""
THINKER = qwen_tensors(prefix="thinker.model.")
FUSED = fused_tensors((3, 12, 4), (3, 4, 6))


def with_target(change: Callable[[Path], object], dst: str = "dst") -> Break:
    """A sound checkpoint, and something at the path of the result."""
    return lambda src: change(sound(src).parent / dst)


FLAGS = {"source_layout": "--from"}
"""Where an option's name is not that of its keyword argument."""


def rows(chosen: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", chosen, ids=[bad.name for bad in chosen])


def arguments(bad: Row, folder: Path) -> list[str]:
    """The row as a command line."""
    verb = "convert" if "to" in bad.options else "merge"
    words = [verb, str(folder / bad.src), str(folder / bad.dst)]
    for name, value in bad.options.items():
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        words += [flag] * value if isinstance(value, bool) else [flag, value]
    return words


def check_error(error: BaseException | None, bad: Row) -> None:
    """The right class, every word, and nothing that a terminal would obey."""
    if error is not None and not isinstance(error, StreamconvError):
        raise error
    assert error is not None, "it succeeded"
    said = f"{error.message}\n{error.hint}"
    assert isinstance(error, bad.error), said
    assert [word for word in bad.words if word not in said] == [], said
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert len(error.message) < 700
    paths = re.findall(r"/[^\s:,;]+", error.message)
    assert len(paths) == len({*paths}), f"a path twice: {error.message}"
    assert error.hint or not isinstance(error, UsageError), error.message
