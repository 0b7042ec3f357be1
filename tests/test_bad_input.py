"""Bad input ends in one clear error with the right exit code, and leaves nothing behind.

A row is a way to break a sound checkpoint, or to ask for what cannot be done with it, and the
words that the error has to have: the file or tensor, and both facts. Every row is run through the
Python API and as a dry run of the command line, which has to refuse the same; some are run as a
process of their own. Below the rows: folders that look odd, are legal, and have to be accepted.
Single files, bad and odd, are in `corpus.py`.
"""

# Changes made by a lambda are calls in a list, whose values nobody needs.
# mypy: disable-error-code="func-returns-value"
import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors
from click.testing import CliRunner
from folders import (
    INDEX,
    SHARDS,
    Tensors,
    framed,
    fused_tensors,
    header_of,
    qwen_tensors,
    read_checkpoint,
    read_shard,
    shard_bytes,
    tensor,
    tree,
    two_shards,
    write_checkpoint,
    write_shard,
)

import streamconv
from streamconv.cli import cli
from streamconv.errors import (
    BadCheckpoint,
    IOFailed,
    NoSpace,
    OutputExists,
    PlanRefused,
    StreamconvError,
    UsageError,
)
from streamconv.execute import PieceWritten
from streamconv.files import PAGE, Files, system_files
from streamconv.sinks.folder import CheckpointFolder

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
    """A checkpoint of two shards with an index, a config, and files that travel along."""
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
    """Put something into another folder beside the source, and a link where it was."""
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
    """A socket; its name is longer than what the system takes, unless it is bound from beside."""
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

# The tables are laid out by hand: a formatter makes one line of every word.
# fmt: off
EXPERTS = [
    row("expert missing in the middle", BadCheckpoint, without(f"{EXPERTS_1}1."),
        f"{EXPERTS_1}1.gate_proj.weight", "missing", "0 to 2", process=True),
    row("first expert missing", BadCheckpoint, without(f"{EXPERTS_1}0."),
        f"{EXPERTS_1}0.gate_proj.weight", "missing", "0 to 2"),
    row("last expert missing in one layer", BadCheckpoint, without(f"{EXPERTS_1}2."),
        "model.layers.1.mlp.experts", "2 experts", "model.layers.0.mlp.experts", "3 experts"),
    row("last expert missing everywhere", BadCheckpoint,
        without(f"{EXPERTS_0}2.", f"{EXPERTS_1}2."), "model.layers.*.mlp.experts", "2 experts",
        "config.json", "num_experts = 3", process=True),
    row("one number skipped", BadCheckpoint,
        renumbered("layers.0.mlp.experts.2.", "layers.0.mlp.experts.3."),
        f"{EXPERTS_0}2.gate_proj.weight", "missing", "0 to 3"),
    row("numbers with a leading zero", BadCheckpoint, renumbered("experts.1.", "experts.01."),
        f"{EXPERTS_0}01.gate_proj.weight", "0, 1, 2"),
    row("one number twice, once with a leading zero", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}01.up_proj.weight", "BF16", 6, 4),
        f"{EXPERTS_0}01.up_proj.weight", "0, 1, 2"),
    row("a number of more than nine digits", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}1000000000.up_proj.weight", "BF16", 6, 4),
        f"{EXPERTS_0}1000000000.up_proj.weight"),
    row("a number of more than 18 digits", PlanRefused,
        with_tensor(f"{EXPERTS_0}{10**18}.up_proj.weight", "BF16", 6, 4),
        f"{EXPERTS_0}{10**18}.up_proj.weight"),
    row("a number in digits of another script", PlanRefused,
        with_tensor(f"{EXPERTS_0}\N{ARABIC-INDIC DIGIT THREE}.up_proj.weight", "BF16", 6, 4),
        f"{EXPERTS_0}\N{ARABIC-INDIC DIGIT THREE}.up_proj.weight"),
    row("up of one expert missing", BadCheckpoint, without(f"{EXPERTS_0}2.up_proj"),
        f"{EXPERTS_0}2.up_proj.weight", "missing", "0 to 2"),
    row("down of the last expert missing", BadCheckpoint, without(f"{EXPERTS_1}2.down_proj"),
        f"{EXPERTS_1}2.down_proj.weight", "missing", "0 to 2"),
    row("no down anywhere", BadCheckpoint,
        without_any("down_proj"),
        "model.layers.0.mlp.experts", "gate_proj", "no experts.", "down_proj"),
    row("no gate anywhere", BadCheckpoint,
        without_any("gate_proj"),
        f"{EXPERTS_0}0.gate_proj.weight", "missing"),
    row("no down in a fused layer", BadCheckpoint,
        only(made({f"{EXPERTS_0}gate_up_proj": (3, 12, 4)})),
        "model.layers.0.mlp.experts", "experts.gate_up_proj", "no experts.down_proj"),
    row("one stacked projection missing", BadCheckpoint,
        only(made({f"{EXPERTS_0}gate_proj": (3, 6, 4), f"{EXPERTS_0}down_proj": (3, 4, 6)})),
        f"{EXPERTS_0}up_proj", "missing"),
    row("unequal shapes", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}1.gate_proj.weight", "BF16", 5, 4),
        f"{EXPERTS_0}1.gate_proj.weight", "[5, 4]", f"{EXPERTS_0}0.gate_proj.weight", "[6, 4]",
        process=True),
    row("a transposed expert", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}2.down_proj.weight", "BF16", 6, 4),
        f"{EXPERTS_0}2.down_proj.weight", "[6, 4]", "[4, 6]"),
    row("unequal dtypes", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}1.down_proj.weight", "F16", 4, 6),
        f"{EXPERTS_0}1.down_proj.weight", "F16", f"{EXPERTS_0}0.down_proj.weight", "BF16"),
    row("gate and up of unequal dtypes", BadCheckpoint,
        with_every(".up_proj.", "F32", 6, 4),
        f"{EXPERTS_0}0.up_proj.weight", "F32", "BF16"),
    row("down does not go with gate and up", BadCheckpoint,
        with_every(".down_proj.", "BF16", 4, 5),
        "model.layers.*.mlp.experts", "[6, 4]", "[4, 5]"),
    row("layers of unequal sizes", BadCheckpoint,
        tensors(lambda t: t.update(two_shards(qwen_tensors(intermediate=8))[SECOND])),
        "model.layers.1.mlp.experts", "intermediate 8", "model.layers.0.mlp.experts",
        "intermediate 6"),
    row("experts of three dimensions", BadCheckpoint,
        with_every(".experts.", "BF16", 6, 2, 2),
        "model.layers.*.mlp.experts", "[6, 2, 2]"),
    row("experts of no size", BadCheckpoint, tensors(lambda t: None, intermediate=0),
        "model.layers.*.mlp.experts", "[0, 4]"),
    row("count of the config", BadCheckpoint,
        only(qwen_tensors(), {"model_type": "qwen3_moe", "num_experts": 4}),
        "model.layers.*.mlp.experts", "3 experts", "num_experts = 4"),
    row("count in glm4v_moe's text_config", BadCheckpoint,
        only(qwen_tensors(prefix="model.language_model."), GLM),
        "model.language_model.layers.*.mlp.experts", "3 experts",
        "text_config.n_routed_experts = 4"),
    row("count in internvl_chat's llm_config", BadCheckpoint,
        only(qwen_tensors(prefix="language_model.model."), INTERNVL),
        "language_model.model.layers.*.mlp.experts", "3 experts", "llm_config.num_experts = 4"),
    row("count in the talker's config", BadCheckpoint,
        only(THINKER | qwen_tensors(prefix="talker.model.", experts=2),
            {**OMNI, "talker_config": {"text_config": {"num_experts": 3}}}),
        "talker.model.layers.*.mlp.experts", "2 experts",
        "talker_config.text_config.num_experts = 3"),
    row("count in the config of an unknown model", BadCheckpoint,
        only(qwen_tensors(), {"model_type": "novel", "text_config": {"num_local_experts": 8}}),
        "3 experts", "text_config.num_local_experts = 8"),
    row("count of fused experts", BadCheckpoint,
        only(FUSED, {"model_type": "qwen3_moe", "num_experts": 2}),
        "3 experts", "num_experts = 2", options={"to": "per-expert"}),
    row("transposed shapes of which nobody says how gate and up lie", PlanRefused,
        only(fused_tensors((3, 4, 12), (3, 6, 4)), ALONE), "model.layers.*.mlp.experts",
        "fused-transposed", "fused-interleaved", "[3, 4, 12]", "[3, 6, 4]", "--from",
        process=True),
    row("square gate and up", PlanRefused, only(fused_tensors((3, 8, 8), (3, 4, 8)), ALONE),
        "model.layers.*.mlp.experts", "fused-transposed", "fused-interleaved", "--from",
        options={"to": "per-expert"}),
    row("shapes that fit no layout", BadCheckpoint,
        only(fused_tensors((3, 12, 4), (3, 5, 6)), ALONE), "model.layers.*.mlp.experts",
        "[3, 12, 4]", "[3, 5, 6]"),
    row("fused and per-expert tensors in one layer", BadCheckpoint,
        tensors(lambda t: t.update(FUSED)),
        "model.layers.0.mlp.experts", "gate_up_proj", "gate_proj.weight"),
    row("two namings in one layer", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}0.w1.weight", "BF16", 6, 4), "model.layers.0.mlp.experts",
        "w1.weight", "gate_proj.weight"),
    row("one scale of a quantized expert", BadCheckpoint,
        with_tensor(f"{EXPERTS_0}0.gate_proj.weight_scale_inv", "F32", 1, 1),
        f"{EXPERTS_0}0.up_proj.weight_scale_inv", "missing", process=True),
    row("an unknown tensor of an expert", PlanRefused,
        with_tensor(f"{EXPERTS_0}0.gate_proj.weight_zeros", "F32", 1, 1),
        f"{EXPERTS_0}0.gate_proj.weight_zeros", "no layout", "--pass-through", process=True),
    row("unknown tensors of fused experts", PlanRefused,
        only(FUSED | made({f"{EXPERTS_0}down_proj_zeros": (3, 1, 1)})),
        f"{EXPERTS_0}down_proj_zeros", "no layout", options={"to": "per-expert"}),
    row("no experts", PlanRefused,
        without_any(".experts."), "src",
        "no expert stack", process=True),
    row("a name that the form would not give back", PlanRefused,
        only(THINKER | made({"lm.bias": (3,)}), OMNI),
        "lm.bias", "mindspeed", process=True),
    row("two names that the form makes one", PlanRefused,
        only(THINKER | made({"thinker.lm.bias": (3,), "lm.bias": (3,)}), OMNI),
        "lm.bias", "mindspeed"),
    row("a name twice under the thinker", PlanRefused,
        only(THINKER | made({"thinker.talker.bias": (3,), "talker.bias": (3,)}), OMNI),
        "talker.bias", "mindspeed"),
]
# fmt: on

HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body>no such page</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4999819336\n"

# fmt: off
FILES = [
    row("shard missing", BadCheckpoint, also(lambda src: (src / SECOND).unlink()), SECOND,
        "missing", process=True),
    row("shard cut short by a byte", BadCheckpoint, shard(lambda raw: raw[:-1]), SECOND,
        "cut short", f"describes {SIZE} bytes", f"has {SIZE - 1}", process=True),
    row("one byte too many", BadCheckpoint, shard(lambda raw: raw + b"\0"), SECOND, "too long",
        f"describes {SIZE} bytes", f"has {SIZE + 1}"),
    row("shard cut inside its header", BadCheckpoint, shard(lambda raw: raw[:99]), SECOND, "99"),
    row("shard cut inside its first 8 bytes", BadCheckpoint, shard(lambda raw: raw[:7]), SECOND,
        "7"),
    row("empty shard", BadCheckpoint, shard(lambda raw: b""), SECOND, "0 bytes"),
    row("Git LFS pointer", BadCheckpoint, shard(lambda raw: POINTER), SECOND, "Git LFS pointer"),
    row("web page", BadCheckpoint, shard(lambda raw: HTML), SECOND, "web page"),
    row("pickle", BadCheckpoint, shard(lambda raw: b"PK\x03\x04" + raw), SECOND, "announce"),
    row("zeros, as after a crash", BadCheckpoint, shard(lambda raw: bytes(len(raw))), SECOND,
        "brace"),
    row("the shards exchanged", BadCheckpoint,
        also(exchange_shards),
        FIRST, SECOND, "the index says"),
    row("the index has a tensor that no shard has", BadCheckpoint,
        index(lambda weights: weights.update({"ghost.weight": FIRST})), "ghost.weight", FIRST,
        "does not have it", process=True),
    row("a shard has a tensor that the index has not", BadCheckpoint,
        index(lambda weights: weights.pop("model.norm.weight")), "model.norm.weight", FIRST,
        "does not list it"),
    row("the index has a tensor in the wrong shard", BadCheckpoint, points_to(SECOND),
        "model.norm.weight", FIRST, SECOND),
    row("a tensor in two shards, no index", BadCheckpoint,
        twice_in("a.safetensors", "b.safetensors"),
        "a.safetensors", "b.safetensors"),
    row("a tensor in two shards, one of them in the index", BadCheckpoint,
        twice_in("a.safetensors", "b.safetensors", {"model.norm.weight": "b.safetensors"}),
        "a.safetensors", "b.safetensors"),
    row("four shards of five, no index", BadCheckpoint,
        lambda src: write_checkpoint(
            src, {f"m-{k:05}-of-00005.safetensors": {f"t{k}": tensor("t", "U8", 3)}
                  for k in (1, 2, 4, 5)}, index=False),
        "number 3", "m-00001-of-00005.safetensors", "of 5", "4 are here", process=True),
    row("one shard of a billion, no index", BadCheckpoint,
        bare({"m-1-of-999999999.safetensors": qwen_tensors()}, index=False), "number 2",
        "999999999"),
    row("a single file beside an index of others", BadCheckpoint,
        also(lambda src: write_shard(src / "model.safetensors", qwen_tensors())),
        "model.safetensors", "readers differ", process=True),
    row("shards whose names differ in case alone", BadCheckpoint,
        bare({"A.safetensors": qwen_tensors(), "a.safetensors": {"x": tensor("x", "U8", 3)}}),
        "A.safetensors", "a.safetensors", "case"),
    row("two shards that are one file", BadCheckpoint,
        in_place_of_second(lambda path: path.hardlink_to(path.with_name(FIRST))), FIRST, SECOND,
        "two files"),
    row("index is not JSON", BadCheckpoint, text(INDEX, "{"), INDEX, "not JSON"),
    row("index is a Git LFS pointer", BadCheckpoint, text(INDEX, POINTER), INDEX, "not JSON"),
    row("index is a list", BadCheckpoint, text(INDEX, "[]"), INDEX, "not a JSON object"),
    row("index without weight_map", BadCheckpoint, text(INDEX, "{}"), INDEX, "weight_map"),
    row("weight_map null", BadCheckpoint, text(INDEX, '{"weight_map": null}'), INDEX, "weight_map"),
    row("weight_map a list", BadCheckpoint, text(INDEX, '{"weight_map": []}'), INDEX, "weight_map"),
    row("weight_map empty", BadCheckpoint, text(INDEX, '{"weight_map": {}}'), INDEX, "weight_map"),
    row("a name twice in the index", BadCheckpoint,
        text(INDEX, f'{{"weight_map": {{"x": "{FIRST}", "x": "{SECOND}"}}}}'), INDEX, "x",
        "twice"),
    row("two indexes", BadCheckpoint,
        also(lambda src: [index_called(f"{name}.safetensors.index.json", src) for name in "ab"]),
        "a.safetensors.index.json", "b.safetensors.index.json"),
    *(
        row(f"weight_map has {file!r}", BadCheckpoint, points_to(file), "model.norm.weight", *words)
        for file, words in (
            ("../x.safetensors", ("../x.safetensors",)),
            ("/etc/passwd", ("/etc/passwd",)),
            ("/etc/x.safetensors", ("/etc/x.safetensors",)),
            ("a/../../x.safetensors", ("a/../../x.safetensors",)),
            ("C:\\x.safetensors", ("C:\\x.safetensors",)),
            ("C:x.safetensors", ("C:x.safetensors",)),
            ("\\\\host\\share\\x.safetensors", ("\\\\host\\share",)),
            ("a\\b.safetensors", ("a\\b.safetensors",)),
            ("..\\x.safetensors", ("..\\x.safetensors",)),
            ("./x.safetensors", ("./x.safetensors",)),
            ("a//x.safetensors", ("a//x.safetensors",)),
            ("x\0.safetensors", ("x\\x00.safetensors",)),
            ("x\n\x1b[31m.safetensors", ("x\\n\\x1b[31m.safetensors",)),
            (f"{'x' * 300}.safetensors", ("xxxx",)),
            ("pytorch_model.bin", ("pytorch_model.bin",)),
            ("", (INDEX,)),
            (".", (INDEX,)),
            (7, ("7",)),
            (None, ("None",)),
            ([FIRST], (FIRST,)),
            ({}, ("{}",)),
        )
    ),
    row("config is not JSON", BadCheckpoint, text("config.json", "model"), "config.json", "JSON"),
    row("config is empty", BadCheckpoint, text("config.json", ""), "config.json", "not JSON"),
    row("config is a list", BadCheckpoint, text("config.json", "[1]"), "config.json",
        "JSON object"),
    row("config is not UTF-8", BadCheckpoint, text("config.json", b'{"model_type": "\xe9"}'),
        "config.json", "UTF-8", "byte 16"),
    row("config has a key twice", BadCheckpoint,
        text("config.json", '{"num_experts": 3, "num_experts": 4}'), "config.json", "num_experts",
        "twice", process=True),
    row("config has NaN", BadCheckpoint, text("config.json", '{"x": NaN}'), "config.json", "NaN"),
    row("config is nested without end", BadCheckpoint, text("config.json", "[" * 200_000),
        "config.json", "nested"),
    row("config is a FIFO", BadCheckpoint,
        also(lambda src: [(src / "config.json").unlink(), os.mkfifo(src / "config.json")]),
        "config.json", "not a regular file"),
    row("config is a link out of the folder", BadCheckpoint,
        also(lambda src: moved_out(src / "config.json")),
        "config.json", "outside of the checkpoint"),
    row("shard is a FIFO", BadCheckpoint, in_place_of_second(os.mkfifo), SECOND, "regular file"),
    row("shard is a socket", BadCheckpoint, in_place_of_second(socket_at), SECOND, "regular file"),
    row("shard is a folder", BadCheckpoint, in_place_of_second(Path.mkdir), SECOND, "regular file"),
    row("shard is a link out of the folder", BadCheckpoint,
        also(lambda src: moved_out(src / SECOND)), SECOND, "elsewhere",
        "outside of the checkpoint", process=True),
    row("shard is a link to a device", BadCheckpoint,
        in_place_of_second(lambda path: path.symlink_to("/dev/zero")), SECOND, "/dev/zero"),
    row("shard is a link to itself", BadCheckpoint,
        in_place_of_second(lambda path: path.symlink_to(SECOND)), SECOND, "cannot be opened"),
    row("shard is a link to nothing", BadCheckpoint,
        in_place_of_second(lambda path: path.symlink_to("nothing")), SECOND, "missing"),
    row("shard is below a link out of the folder", BadCheckpoint,
        lambda src: moved_out(write_checkpoint(src, {"x/model.safetensors": qwen_tensors()}) / "x"),
        "x/model.safetensors", "outside of the checkpoint"),
    row("another file is a link out of the folder", BadCheckpoint,
        also(lambda src: (src / "tokenizer.json").symlink_to("/etc/passwd")), "tokenizer.json",
        "/etc/passwd", "outside of the checkpoint"),
    row("another file is a FIFO", BadCheckpoint,
        also(lambda src: os.mkfifo(src / "notes" / "pipe")), "notes/pipe", "not a regular file"),
    row("a subfolder is a link", BadCheckpoint,
        also(lambda src: (src / "etc").symlink_to("/etc")), "etc", "link to a folder"),
    row("a link looks like one of the hub's cache and is none", BadCheckpoint,
        also(lambda src: moved_out(src / SECOND, "../blobs")),
        SECOND, "outside of the checkpoint", src="name/revision"),
    row("SRC is not there", BadCheckpoint, lambda src: None, "src", "does not exist", process=True),
    row("SRC is a file", BadCheckpoint, lambda src: src.write_text("x"), "src", "is a file"),
    row("SRC is empty", BadCheckpoint, Path.mkdir, "src", "no *.safetensors"),
    row("SRC has weights in another format", BadCheckpoint,
        lambda src: [src.mkdir(), (src / "pytorch_model.bin").write_bytes(b"PK\x03\x04")], "src",
        "no *.safetensors"),
    row("records of the shards differ", BadCheckpoint,
        recorded(record("fused"), record("stacked")), FIRST, SECOND, "different things"),
    row("record in one shard only", BadCheckpoint, recorded(record("per-expert"), None), FIRST,
        SECOND, "different things"),
    row("record of another layout than the names have", BadCheckpoint,
        recorded(record("fused"), record("fused")), "model.layers.*.mlp.experts",
        "fused by its record", "per-expert"),
    row("record of a later release", BadCheckpoint,
        recorded(record(version=2), record(version=2)), FIRST, "version 2", "reads 1"),
    row("record of a layout that there is not", BadCheckpoint,
        recorded(record("novel"), record("novel")), FIRST, "record of layouts"),
    row("record of names that the model type has not", BadCheckpoint,
        recorded(*[record("per-expert", names="mindspeed\x1b[31m")] * 2), "mindspeed\\x1b[31m",
        "qwen3_moe"),
    row("record is not JSON", BadCheckpoint, recorded("{", "{"), FIRST, "not JSON"),
    row("record is a list", BadCheckpoint, recorded("[]", "[]"), FIRST, "record of layouts"),
    row("manifest without a record", BadCheckpoint, text("streamconv.json", '{"version": 1}'),
        "streamconv.json", "record of layouts"),
    row("manifest and shards differ", BadCheckpoint,
        text("streamconv.json", f'{{"version": 1, "record": {record("per-expert")}}}'),
        "streamconv.json", FIRST, "different things"),
    row("control characters in the name of an expert", BadCheckpoint,
        without("a\nb\x1b[31m.layers.1.mlp.experts.0.", prefix="a\nb\x1b[31m."),
        "a\\nb\\x1b[31m.layers.1.mlp.experts.0.gate_proj.weight", "missing", process=True),
    row("control characters in a name that the index has", BadCheckpoint,
        index(lambda weights: weights.update({"gh\r\nost\x1b[2J": FIRST})), "gh\\r\\nost\\x1b[2J"),
    row("control characters in the name of the index", BadCheckpoint,
        also(lambda src: index_called("a\x1b[31m.safetensors.index.json", src)),
        "a\\x1b[31m.safetensors.index.json", "not JSON"),
    row("control characters in the name of a shard", BadCheckpoint,
        twice_in("a\x1b[31m.safetensors", "b\x1b[31m.safetensors"),
        "a\\x1b[31m.safetensors", "b\\x1b[31m.safetensors"),
    row("control characters in the name of another file", BadCheckpoint,
        also(lambda src: (src / "a\x1b[31m\n").symlink_to("/etc/passwd")), "a\\x1b[31m\\n"),
    row("control characters in a key that is there twice", BadCheckpoint,
        text("config.json", '{"\\u001b[31m": 3, "\\u001b[31m": 4}'), "\\x1b[31m", "twice"),
]
# fmt: on


def with_target(change: Callable[[Path], object], dst: str = "dst") -> Break:
    """A sound checkpoint, and something beside it that stands where the result would."""
    return lambda src: change(sound(src).parent / dst)


# fmt: off
PLACES = [
    row("DST is not empty", OutputExists, with_target(filled), "dst", "not empty", "--overwrite",
        process=True),
    row("DST is a file", OutputExists, with_target(Path.touch), "dst", "is a file"),
    row("DST is a file, to be overwritten", OutputExists, with_target(Path.touch), "dst",
        "is a file", options={"overwrite": True}),
    row("DST is a link", OutputExists, with_target(lambda dst: dst.symlink_to("x")), "dst", "link"),
    row("DST is a link to a folder, to be overwritten", OutputExists,
        with_target(lambda dst: [filled(dst.parent / "x"), dst.symlink_to("x")]), "dst", "link",
        options={"overwrite": True}),
    *(
        row(
            f"DST is {what}, {'to be overwritten' if overwrite else 'not to be'}",
            OutputExists,
            breaks,
            "in one another",
            dst=dst,
            options={"overwrite": overwrite},
        )
        for overwrite in (False, True)
        for what, dst, breaks in (
            ("SRC", "src", sound),
            ("SRC in other words", "src/../src/", sound),
            ("in SRC", "src/dst", sound),
            ("deep in SRC", "src/notes/a/b", sound),
            ("the folder that SRC is in", ".", sound),
            ("a link to SRC", "dst", with_target(lambda dst: dst.symlink_to("src"))),
            ("behind a link into SRC", "l/dst", with_target(lambda p: p.symlink_to("src"), "l")),
        )
    ),
    row("DST is what SRC is a link to, to be overwritten", OutputExists,
        lambda src: [sound(src.parent / "dst"), src.symlink_to("dst")], "in one another",
        options={"overwrite": True}),
    row("a partial folder is left over", OutputExists,
        with_target(filled, "dst.streamconv-partial"), "dst.streamconv-partial", "--overwrite",
        process=True),
    row("a folder that was being replaced is left over", OutputExists,
        with_target(lambda dst: [filled(dst), filled(dst.with_name("dst.streamconv-replaced"))]),
        "dst.streamconv-replaced", options={"overwrite": True}),
    row("DST is below a file", IOFailed, with_target(Path.touch, "file"), "file", dst="file/dst"),
    row("the name of DST is too long", IOFailed, sound, "too long", dst="x" * 300),
    row("the name of DST leaves no room for more", IOFailed, sound, "too long", dst="x" * 250),
]

REQUESTS = [
    row("an unknown layout", UsageError, sound, "fuzed", "fused", options={"to": "fuzed"}),
    row("an unknown layout to merge to", UsageError, sound, "fuzed", options={"layout": "fuzed"}),
    row("an unknown layout of the source", UsageError, sound, "fuzed", "per-expert",
        options={"source_layout": "fuzed"}),
    row("a layout that the source has not", PlanRefused, sound, "src", "stacked",
        options={"source_layout": "stacked"}),
    row("a form that the family has not", PlanRefused, sound, "qwen3_moe", "mindspeed",
        "hub, transformers", options={"to": "mindspeed"}, process=True),
    row("a form of the source that the family has not", PlanRefused, sound, "qwen3_moe",
        "mindspeed", options={"source_layout": "mindspeed"}),
    row("a form of no family", PlanRefused, only(qwen_tensors(), {"model_type": "no\x1b[31mvel"}),
        "no\\x1b[31mvel", "transformers", options={"to": "transformers"}),
    row("too little memory", PlanRefused, sound, "1.00 MB", "--max-memory",
        options={"max_memory": "1MB"}, process=True),
    row("no memory", UsageError, sound, "0GB", options={"max_memory": "0GB"}),
    row("no size", UsageError, sound, "big", "4GB", options={"max_shard_size": "big"}),
    row("shards of nothing", UsageError, sound, "0", options={"max_shard_size": "0"}),
    row("layers backwards", UsageError, sound, "3:1", "0:2", options={"layers": "3:1"}),
    row("layers in words", UsageError, sound, "all", "0:2", options={"layers": "all"}),
    row("a folder with the name of a shard to be written", PlanRefused,
        also(lambda src: filled(src / "model-00005-of-00005.safetensors")),
        "model-00005-of-00005.safetensors/precious", options={"max_shard_size": "300"}),
    row("layers that are not there", StreamconvError, without("model.embed", "model.norm"), "7:9",
        options={"layers": "7:9"}),
    row("sub-byte experts that would have to be transposed", PlanRefused,
        only(qwen_tensors(dtype="F4")), f"{EXPERTS_0}0.gate_proj.weight", "4 bits",
        options={"to": "fused-transposed"}),
]
# fmt: on

ROWS = [*EXPERTS, *FILES, *PLACES, *REQUESTS]
FLAGS = {"source_layout": "--from"}
"""Where an option's name is not that of its keyword argument."""


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("STREAMCONV_")]:
        monkeypatch.delenv(variable)


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


@rows(ROWS)
def test_is_refused(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    run = streamconv.convert if "to" in bad.options else streamconv.merge
    with pytest.raises(StreamconvError) as caught:
        run(f"{tmp_path}/{bad.src}", f"{tmp_path}/{bad.dst}", **bad.options)
    assert tree(tmp_path) == before
    check_error(caught.value, bad)


@rows(ROWS)
def test_is_refused_by_a_dry_run_alike(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    result = CliRunner().invoke(
        cli, [*arguments(bad, tmp_path), "--dry-run"], standalone_mode=False
    )
    assert tree(tmp_path) == before
    check_error(result.exception, bad)


@rows([bad for bad in ROWS if bad.process])
def test_is_refused_by_a_process(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *arguments(bad, tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert tree(tmp_path) == before
    assert done.returncode == bad.error.exit_code, done.stderr
    assert done.stdout == ""
    assert [word for word in bad.words if word not in done.stderr] == []
    assert done.stderr.startswith("streamconv: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    assert done.stderr.count("\n") <= 2


def test_every_exit_code_of_bad_input_is_seen_from_outside() -> None:
    """The sample that is run as processes has all classes of errors that it can have."""
    seen = {bad.error for bad in ROWS if bad.process}
    assert seen == {BadCheckpoint, PlanRefused, OutputExists}


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may read everything, so that opening is made to fail as it does for others."""
    sound(tmp_path / "src")
    open_read = Files.open_read

    def refuse(self: Files, path: Path) -> int:
        if path.name == SECOND:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_read(self, path)

    monkeypatch.setattr(Files, "open_read", refuse)
    with pytest.raises(IOFailed, match=rf"{SECOND}.*Permission denied"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst")


def test_an_absurd_expert_number_costs_no_memory(tmp_path: Path) -> None:
    """One name of a few bytes must not make a list of a billion experts."""
    bad = row(
        "",
        BadCheckpoint,
        with_tensor(f"{EXPERTS_1}999999999.gate_proj.weight", "BF16", 6, 4),
        "model.layers.1.mlp.experts",
        "missing",
    )
    bad.breaks(tmp_path / "src")
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (3 * 2**30,) * 2); "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited} from streamconv.cli import main; main()"),
            *arguments(bad, tmp_path),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == BadCheckpoint.exit_code, done.stderr
    assert "missing" in done.stderr


# The disk.


@pytest.mark.parametrize("overwrite", [False, True])
def test_too_little_disk_is_told_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    sound(tmp_path / "src")
    if overwrite:
        filled(tmp_path / "dst")
    before = tree(tmp_path)
    monkeypatch.setattr("streamconv.sinks.place.free_disk", lambda folder: 5000)
    with pytest.raises(NoSpace, match=r"5\.\d\d kB needed, 5\.00 kB free"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=overwrite)
    assert tree(tmp_path) == before
    monkeypatch.setattr("streamconv.sinks.place.free_disk", lambda folder: 6000)
    streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=overwrite)


@pytest.mark.parametrize("seen", [True, False])
def test_files_may_be_only_so_large(tmp_path: Path, seen: bool) -> None:
    """The limit of the process is seen beforehand; where it is not, it is told when it is met."""
    sound(tmp_path / "src")
    before = tree(tmp_path)
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (2000,) * 2); "
    if not seen:
        limited += "import streamconv.sinks.place as p; p.file_size_limit = lambda: None; "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited} from streamconv.cli import main; main()"),
            *("merge", str(tmp_path / "src"), str(tmp_path / "dst")),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == NoSpace.exit_code, done.stderr
    assert ("largest file" if seen else "model.safetensors: File too large") in done.stderr
    assert "2.00 kB" in done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


def test_a_full_disk_is_told_alike_by_every_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker that opens a shard must not stumble over what the first one left of it."""

    def create(self: Files, path: Path, size: int) -> int:
        path.open("xb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sound(tmp_path / "src")
    monkeypatch.setattr(type(system_files()), "create", create)
    sink = CheckpointFolder(tmp_path / "dst")
    sink.prepare(streamconv.plan(tmp_path / "src"))
    for offset in (0, 4096):
        with pytest.raises(NoSpace, match=r"model\.safetensors: No space"):
            sink.write(0, offset, memoryview(bytes(PAGE)))
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


# What changes between the plan and the end.


def while_running(
    tmp_path: Path, change: Callable[[Path], object], left: Sequence[str] = ()
) -> StreamconvError:
    """The error of a merge in which `change` is done to the source once it is planned."""
    sound(tmp_path / "src")
    changes = [change]

    def on_event(event: object) -> None:
        while changes:
            changes.pop()(tmp_path / "src")

    with pytest.raises(StreamconvError) as caught:
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert not changes
    assert sorted(path.name for path in tmp_path.iterdir()) == [*left, "src"]
    return caught.value


def test_a_shard_becomes_shorter_meanwhile(tmp_path: Path) -> None:
    error = while_running(tmp_path, lambda src: os.truncate(src / SECOND, 900))
    assert isinstance(error, BadCheckpoint)
    assert SECOND in error.message
    assert "900" in error.message


def test_a_shard_goes_away_meanwhile(tmp_path: Path) -> None:
    error = while_running(tmp_path, lambda src: (src / SECOND).unlink())
    assert isinstance(error, IOFailed)
    assert SECOND in error.message


def test_another_file_goes_away_meanwhile(tmp_path: Path) -> None:
    """What is finished by then stays: the file may come back."""
    left = [PARTIAL]
    error = while_running(tmp_path, lambda src: (src / "notes" / "readme.txt").unlink(), left)
    assert isinstance(error, IOFailed)
    assert "notes/readme.txt" in error.message


def test_a_shard_is_replaced_by_one_of_the_same_size_meanwhile(tmp_path: Path) -> None:
    """Bytes read where the old header said would be those of other tensors."""

    def exchange(src: Path) -> None:
        raw = (src / SECOND).read_bytes()
        for old, new in ((b"experts.0.", b"experts.9."), (b"experts.1.", b"experts.0.")):
            raw = raw.replace(old, new)
        (src / SECOND).write_bytes(raw.replace(b"experts.9.", b"experts.1."))

    error = while_running(tmp_path, exchange)
    assert isinstance(error, BadCheckpoint)
    assert SECOND in error.message
    assert "changed" in error.message


def test_a_listener_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    sound(tmp_path / "src")
    before = tree(tmp_path)
    seen: list[object] = []

    def on_event(event: object) -> None:
        seen.append(event)
        if len(seen) == 2:
            assert (tmp_path / "dst.streamconv-partial").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert tree(tmp_path) == before


def test_the_place_is_taken_meanwhile(tmp_path: Path) -> None:
    sound(tmp_path / "src")

    def on_event(event: object) -> None:
        if isinstance(event, PieceWritten) and not (tmp_path / "dst").exists():
            filled(tmp_path / "dst")

    with pytest.raises(StreamconvError) as caught:
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert "dst" in caught.value.message
    assert tree(tmp_path / "dst") == {"precious": b"keep this"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", PARTIAL, "src"]


@pytest.mark.parametrize("failing", ["dst", "dst.streamconv-partial"])
def test_what_was_there_is_put_back_where_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Neither the first rename of a replacement nor the second may cost what was there."""
    sound(tmp_path / "src")
    filled(tmp_path / "dst")
    before = tree(tmp_path)
    rename = Files.rename

    def fail(self: Files, source: Path, target: Path) -> None:
        if source.name == failing:
            raise PermissionError(1, "Operation not permitted")
        rename(self, source, target)

    monkeypatch.setattr(Files, "rename", fail)
    with pytest.raises(IOFailed, match="not permitted"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=True)
    after = tree(tmp_path)
    assert {name: what for name, what in after.items() if PARTIAL not in name} == before
    monkeypatch.undo()
    streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=True, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_a_worker_count_of_nothing(tmp_path: Path) -> None:
    sound(tmp_path / "src")
    with pytest.raises(UsageError, match="0 workers"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", jobs=0)


# What is legal and looks odd.


def padded(src: Path) -> None:
    src.mkdir()
    write_shard(src / "model.safetensors", qwen_tensors(), padding=1000)


def unaligned(src: Path) -> None:
    """Wide elements after an odd number of bytes, in a file whose header has an odd length."""
    named = {"odd": tensor("odd", "U8", 7), **qwen_tensors(dtype="F32")}
    src.mkdir()
    path = src / "model.safetensors"
    write_shard(path, named)
    if int.from_bytes(path.read_bytes()[:8], "little") % 2 == 0:
        write_shard(path, named, padding=1)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 2 == 1


def reversed_header(src: Path) -> None:
    """A header in another order than the bytes that it describes."""
    named = qwen_tensors()
    fields = header_of(named, {"format": "pt", "note": "a\nb"})
    content = json.dumps(dict(reversed(fields.items()))).encode()
    src.mkdir()
    data = b"".join(data for _, _, data in named.values())
    (src / "model.safetensors").write_bytes(framed(content, data))


def hub_cache(src: Path) -> None:
    """Links from snapshots/<revision>/ to blobs/<digest>, as the hub's library downloads."""
    repository = src.parent / "models--org--name"
    sound(src)
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    for path in [path for path in src.rglob("*") if path.is_file()]:
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    snapshot = repository / "snapshots" / "0123abc"
    src.rename(snapshot)
    for path in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        blob = repository / "blobs" / path.readlink().name
        path.unlink()
        path.symlink_to(os.path.relpath(blob, path.parent))
    src.symlink_to(snapshot)


def extra(**named: tuple[Any, ...]) -> Break:
    """Tensors beside the experts, by name, as dtype and sizes."""
    return only({**qwen_tensors(), **{name: tensor(name, *what) for name, what in named.items()}})


def large_index(src: Path) -> None:
    """An index of 13.5 MB, as that of a model with 140,000 tensors."""
    sound(src)
    index = json.loads((src / INDEX).read_text())
    (src / INDEX).write_text(json.dumps({**index, "metadata": {"note": "x" * 13_500_000}}))


ODD: dict[str, Break] = {
    "header padded with spaces": padded,
    "header in another order": reversed_header,
    "unaligned": unaligned,
    "no metadata, one shard, no index": bare({"model.safetensors": qwen_tensors()}, index=False),
    "one shard with an index": bare({"model.safetensors": qwen_tensors()}),
    "one shard with another name": bare({"weights.safetensors": qwen_tensors()}, index=False),
    "several shards, no index": bare(two_shards(qwen_tensors()), index=False),
    "weird names of shards": bare(
        {
            "\N{SNOWMAN} a b.safetensors": two_shards(qwen_tensors())[FIRST],
            "sub/.hidden-[1].safetensors": two_shards(qwen_tensors())[SECOND],
        }
    ),
    "index with another name": lambda src: [
        write_checkpoint(src, two_shards(qwen_tensors())),
        (src / INDEX).rename(src / "x.safetensors.index.json"),
    ],
    "a wrong total in the index": lambda src: [
        sound(src),
        (src / INDEX).write_text(
            json.dumps({"metadata": {"total_size": "x"}, **json.loads((src / INDEX).read_text())})
        ),
    ],
    "an empty shard beside the others": bare(
        {**two_shards(qwen_tensors()), "empty.safetensors": {}}, index=False
    ),
    "an index of 13.5 MB": large_index,
    "shards numbered from 0": bare(
        {
            f"m-{number}-of-00002.safetensors": tensors
            for number, tensors in enumerate(two_shards(qwen_tensors()).values())
        },
        index=False,
    ),
    "a shard that is not in the index": lambda src: [
        sound(src),
        (src / "stale.safetensors").write_bytes(b"not even a header"),
    ],
    "tensors of no size": extra(none=("F32", 0), **{"none.2d": ("BF16", 4, 0, 3)}),
    "tensors without dimensions": extra(scalar=("F32",), **{"a.byte": ("U8",)}),
    "odd lengths": extra(seven=("U8", 7), five=("BF16", 5), thirteen=("I8", 13)),
    "names in Unicode": extra(**{"\N{SNOWMAN}.w\N{COMBINING ACUTE ACCENT}": ("F16", 3)}),
    "an empty name": extra(**{"": ("F16", 3)}),
    "names that look like paths": extra(**{"../../etc/passwd": ("U8", 3), "/": ("U8", 1)}),
    "names with control characters": extra(**{"a\nb\x1b[31m\0": ("U8", 3)}),
    "names with quotes and braces": extra(**{'"\\{e}%s*': ("U8", 3)}),
    "names of nothing but dots": extra(**{".": ("U8", 1), "...": ("U8", 2), "1.2.": ("U8", 3)}),
    "numbers beyond all layers": extra(
        **{f"model.layers.{10**30}.x": ("U8", 1), "model.layers.\N{SUPERSCRIPT TWO}.x": ("U8", 2)}
    ),
    "a rare dtype": extra(
        f4=("F4", 2, 3), f8=("F8_E8M0", 5), b=("BOOL", 3), c=("C64", 2), u=("U64", 1)
    ),
    "experts of half bytes": only(qwen_tensors(dtype="F4")),
    "experts of bytes": only(qwen_tensors(dtype="F8_E4M3")),
    "down of another dtype": tensors(
        lambda t: t.update(
            {name: tensor(name, "F32", 4, 6) for name in t if name.endswith("down_proj.weight")}
        )
    ),
    "one expert": only(qwen_tensors(experts=1), {"model_type": "qwen3_moe"}),
    "experts of one element": only(qwen_tensors(hidden=1, intermediate=1)),
    "experts at the top": only(
        {
            name.removeprefix("model.layers.0.mlp."): value
            for name, value in qwen_tensors(layers=1).items()
        }
    ),
    "a config that says nothing": only(qwen_tensors(), {"model_type": ["x"], "num_experts": "3"}),
    "no config": only(qwen_tensors(), None),
    "a model type that is markup": only(qwen_tensors(), {"model_type": "[/b]"}),
    "names that are markup": only(qwen_tensors(prefix="[/b][red].:smile:.")),
    "the hub's cache": hub_cache,
    "SRC is a link": lambda src: [sound(src.parent / "x"), src.symlink_to("x")],
    "a link inside the folder": also(lambda src: (src / "link.txt").symlink_to("notes/readme.txt")),
    "another file whose name is not UTF-8": also(lambda src: (src / "caf\udce9.txt").touch()),
    "another file whose name is markup": also(
        lambda src: [
            (src / "pytorch_model[red].bin").touch(),
            (src / "original[").mkdir(),
            (src / "original[" / "b].txt").touch(),
        ]
    ),
}


def odd(test: Any) -> Any:
    return pytest.mark.parametrize("build", ODD.values(), ids=ODD)(test)


def held(src: Path) -> Tensors:
    """The tensors of a source, in shards in subfolders as well."""
    found: Tensors = {}
    names = [path for path in src.rglob("*.safetensors") if path.is_file()]
    for path in names:
        if path.name != "stale.safetensors":
            found.update(read_shard(path)[0])
    return found


@odd
def test_odd_and_legal_comes_back(build: Break, tmp_path: Path) -> None:
    src, merged, again = (tmp_path / name for name in ("src", "merged", "again"))
    build(src)
    before = tree(tmp_path)
    streamconv.merge(src, merged)
    streamconv.split(merged, again)
    tensors = held(src)
    assert read_checkpoint(again) == tensors
    alone = {name: value for name, value in tensors.items() if "experts." not in name}
    found = read_checkpoint(merged)
    assert {name: found[name] for name in alone} == alone
    after = tree(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"merged", "again"}


@odd
def test_odd_and_legal_is_written_as_others_read_it(build: Break, tmp_path: Path) -> None:
    """What comes out is read by the format's own library."""
    build(tmp_path / "src")
    streamconv.merge(tmp_path / "src", tmp_path / "dst", max_shard_size=700)
    found: dict[str, bytes] = {}
    for path in (tmp_path / "dst").glob("*.safetensors"):
        if path.is_file():
            for name, fields in safetensors.deserialize(path.read_bytes()):
                assert name not in found
                found[name] = bytes(fields["data"])
    expected = {
        name: data
        for name, (_, _, data) in held(tmp_path / "src").items()
        if "experts." not in name
    }
    assert {name: found[name] for name in expected} == expected
    assert sum(map(len, found.values())) == sum(
        len(data) for _, _, data in held(tmp_path / "src").values()
    )


@odd
@pytest.mark.parametrize("verb", ["inspect", "merge", "merge --layers"])
def test_odd_and_legal_is_shown(build: Break, verb: str, tmp_path: Path) -> None:
    """Tables are printed for it, without a character that a terminal would obey."""
    build(tmp_path / "src")
    words = [verb.split(maxsplit=1)[0], str(tmp_path / "src")]
    words += [str(tmp_path / "dst"), "--dry-run", "-v"] if words[0] == "merge" else []
    words += ["--layers", "0:1"] if "--layers" in verb else []
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert [line for line in result.output.splitlines() if not line.isprintable()] == []
    for shown in ("[/b]", "[red]"):
        if build is ODD["a model type that is markup"] and shown == "[/b]":
            assert shown in result.output
        if build is ODD["names that are markup"]:
            assert shown in result.output
    if build is ODD["another file whose name is markup"] and verb != "inspect":
        assert "pytorch_model[red].bin" in result.output


@odd
def test_odd_and_legal_is_valid_json(build: Break, tmp_path: Path) -> None:
    build(tmp_path / "src")
    words = ["merge", str(tmp_path / "src"), str(tmp_path / "dst"), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    plan = json.loads(result.stdout)
    assert plan["data_bytes"] == sum(len(d) for _, _, d in held(tmp_path / "src").values())
