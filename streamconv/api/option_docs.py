"""The texts of `help` on the options of public functions, and the check of all arguments.

A TypedDict has the types of the options. `takes` puts their meanings into the docstring of a
function, and checks each call of the function.
"""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar, cast

from streamconv.api.argument_checks import check_names, checked_value
from streamconv.api.run_options import RunOptions
from streamconv.options import LazyOptions, Options, Reading

Function = TypeVar("Function", bound=Callable[..., Any])

_PLACEHOLDER = re.compile(r"^(?P<indent> *)(?P<before>.*)\{(?P<name>\w+)\}$", re.MULTILINE)
"""A word in braces at the end of a docstring's line. The text of that name replaces it."""

_READING = """\
source_layout: Layout or form of `src`, if `src` does not record its own.
preset: Training framework whose DCP conventions apply to reading and writing: `mindspeed`.
hf_prefix: Prefix of tensor names outside of a DCP. In its keys, `dcp_prefix` takes its
    place. Default: empty, which every name begins with.
dcp_prefix: Prefix of keys in a DCP. Default: that of `preset`, else empty.
family: TOML file with families, layouts and namings to use in addition to the built-in
    ones.
template: Hub checkpoint that a DCP was trained from. It supplies config.json and the other
    files, and its tensors are compared with those of the DCP.
fill_from_template: True to take the tensors that the DCP lacks from `template`.
add_unlisted: True to convert the tensors of files that the index of `src` leaves out, too.
rename: List of texts `OLD=NEW`: OLD becomes NEW wherever it is in a tensor name of `src`,
    one rename after the other, before anything is detected. A `*` means the same text
    in both.
"""

_TENSORS = """\
layers: Layers to convert: `0:2` for 0 and 1, `:2`, `3`. Tensors outside of layers are
    always converted. Default: all layers.
dtype: `bf16`, `fp16` or `fp32` to cast floating-point tensors, except for routers, their
    biases and norms, and tensors that transformers keeps in fp32. Default: no cast.
cast_all: True to let `dtype` cast these exceptions, too.
dequantize: `bf16`, `fp16` or `fp32` to dequantize quantized weights to this dtype and drop
    their scales. Default: quantized weights and their scales are kept.
quantize: `fp8-block`, `fp8-channel`, `int4-g32` or `mxfp4` to quantize the experts and the
    linear layers of transformer blocks to this format. Default: nothing is quantized.
scale: `ue8m0` to give `quantize="fp8-block"` scales that are powers of two. Default: `f32`.
only: Names of the weights to quantize or dequantize, with `*` for any text. To dequantize,
    also number formats such as `int4`. Default: all.
skip: Names of weights, or number formats, that stay as they are. Default: none.
pass_through: True to copy experts that cannot be converted, instead of raising PlanRefused.
"""

_CONVERSION = """\
max_shard_size: Size limit of an output file, in bytes or as text: `4GB` is 4*10^9 bytes,
    `4GiB` is 4*2^30. A larger tensor gets a file of its own. Default: `4GB`.
max_memory: Memory limit of the whole process, in bytes or as text. Lowers the number of
    workers to stay below the limit; raises PlanRefused if one worker needs more. Default:
    the free memory of the host or its cgroup.
jobs: Number of workers, at least 1. Default: the number of cores, at most 8, and as many as
    fit into a 64th of the host's memory, but at least 2. If `src` is read over a network:
    8, but 4 below 100 MB, and up to 16 for a gigabyte and more if they fit; the link
    decides how many of them have a request in flight.
part: `K/N` to write only the K-th of N parts. After all parts, `finish` commits the output.
    Default: everything in one process.
max_rate: Read limit in bytes a second, or text such as `200MB/s`. All ranks of a torchrun
    share it; each `part` has its own. Default: none.
format: Output format, `safetensors` or `dcp` (torch.distributed.checkpoint). Default:
    `safetensors`, but `dcp` with a `preset` unless the target is the hub's layout.
keep_config: True to copy config.json as it is. Default: the keys that the conversion makes
    untrue are changed.
copy: True to copy a checkpoint that already is what was asked for, instead of raising
    PlanRefused.
sha256: True to record the SHA-256 of each output file in the manifest. Reads each file
    again.
"""

_RUN = """\
overwrite: True to replace `dst` after its replacement is complete, if `dst` holds nothing
    but a checkpoint. Default: raise OutputExists.
resume: True to resume an earlier run of this conversion, if there was one. An error has a
    note if the run that it ended can be resumed.
verify: True to verify the result against `src` before it is moved to `dst`.
on_event: Called with each event of the run, in the calling thread. Default: none.
"""

_HELP: dict[type, str] = {
    Reading: _READING,
    LazyOptions: _READING + _TENSORS,
    Options: _READING + _TENSORS + _CONVERSION,
    RunOptions: _READING + _TENSORS + _CONVERSION + _RUN,
}

_SHARED = {
    "source": "Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.",
    "target": "Folder to write. It appears complete or not at all.",
    "result": "The plan, the path of the output, time and memory, and the verification if any.",
    "reading_errors": """\
UsageError: An option makes no sense.
BadCheckpoint: The checkpoint is malformed, incomplete or contradicts itself.
PlanRefused: The conversion is impossible.
IOFailed: Reading failed.""",
    "errors": """\
UsageError: An option makes no sense.
BadCheckpoint: `src` is malformed, incomplete or contradicts itself, or changed meanwhile.
PlanRefused: This conversion is not possible, would change nothing, or needs more memory
    than is allowed.
VerifyFailed: The result is not the conversion of `src`; `dst` is as it was.
OutputExists: `dst` is not empty, or another run is writing it.
NoSpace: The disk or a quota is full.
IOFailed: Reading or writing failed.
Interrupted: SIGINT or SIGTERM ended the run.""",
}
"""Texts of docstrings that several functions have."""


def takes(options: type | None = None) -> Callable[[Function], Function]:
    """Check and document the arguments of a public function.

    Args:
        options: The TypedDict of the function's `**options`; None if it has none.

    Returns:
        A decorator. The decorated function raises TypeError for a keyword argument that it does not
        have, or an argument of a wrong type, and UsageError for empty text. In its docstring,
        `{options}` and the other shared texts are filled in.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        own = {
            p.name: p.annotation for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD
        }
        known = own | (options.__annotations__ if options else {})
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def checked(*args: Any, **named: Any) -> Any:
            check_names(name, named, list(known))
            values = [
                checked_value(name, argument, value, known[argument])
                for argument, value in zip(own, args, strict=False)
            ]
            for argument, value in named.items():
                named[argument] = checked_value(name, argument, value, known[argument])
            return function(*values, *args[len(values) :], **named)

        texts = _SHARED | ({"options": _HELP[options].rstrip()} if options else {})
        checked.__doc__ = _filled_in(function.__doc__ or "", texts)
        return cast(Function, checked)

    return decorate


def _filled_in(docstring: str, texts: dict[str, str]) -> str:
    """Return a docstring with each placeholder replaced by its text, indented alike."""

    def text(placeholder: re.Match[str]) -> str:
        filled = placeholder["before"] + texts[placeholder["name"]]
        return textwrap.indent(filled, placeholder["indent"])

    return _PLACEHOLDER.sub(text, docstring)


def meanings(options: type) -> list[tuple[str, str]]:
    """Return the name of each option of a TypedDict, and what `help` says of it."""
    items = re.split(r"\n(?=\S)", _HELP[options].strip())
    return [(name, " ".join(text.split())) for name, _, text in (i.partition(": ") for i in items)]
