"""The options of the public functions: what `help` says of them, and the check of their names.

A TypedDict names the options for type checkers only. `takes` does the rest: it puts their meanings
into the docstring, and refuses an option that does not exist.
"""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar, cast

from streamconv.options import LazyOptions, Options, Reading

Function = TypeVar("Function", bound=Callable[..., Any])

PLACEHOLDER = "{options}"
"""The line of a docstring that the options replace, whatever its indentation."""

_READING = """\
source_layout: Layout or form of `src`, if `src` does not record its own.
preset: Training framework whose DCP conventions apply to reading and writing: `mindspeed`.
hf_prefix: Prefix of tensor names outside of a DCP, for which its keys have `dcp_prefix`.
    Default: empty, which is every name.
dcp_prefix: Prefix of keys in a DCP. Default: that of `preset`, else empty.
family: TOML file with families, layouts and namings to use in addition to the built-in
    ones.
template: Hub checkpoint that a DCP was trained from. It supplies config.json and the other
    files, and its tensors are compared with those of the DCP.
fill_from_template: True to take the tensors that the DCP lacks from `template`.
add_unlisted: True to convert the tensors of files that the index of `src` leaves out, too.
rename: List of texts `OLD=NEW`: OLD becomes NEW wherever it is in a tensor name of `src`,
    one rename after the other, before anything is detected. A `*` in both is the same text.
"""

_TENSORS = """\
layers: Layers to convert: `0:2` for 0 and 1, `:2`, `3`. Tensors outside of layers are
    always converted. Default: all layers.
dtype: `bf16`, `fp16` or `fp32` to cast floating-point tensors, except for routers, their
    biases and norms. Default: no cast.
cast_all: True to let `dtype` cast routers, their biases and norms, too.
dequantize: `bf16`, `fp16` or `fp32` to dequantize quantized weights to this dtype and drop
    their scales. Default: quantized weights and their scales are kept.
only: Names of the weights to dequantize, with `*` for any text, or number formats such as
    `int4`. Default: all.
skip: Names of weights, or number formats, that stay quantized. Default: none.
pass_through: True to copy experts that cannot be converted, instead of raising PlanRefused.
"""

_CONVERSION = """\
max_shard_size: Size limit of an output file, in bytes or as text: `4GB` is 4*10^9 bytes,
    `4GiB` is 4*2^30. A larger tensor gets a file of its own. Default: `4GB`.
max_memory: Memory limit of the whole process, in bytes or as text. Lowers the number of
    workers to stay below the limit; raises PlanRefused if one worker needs more. Default:
    what the host or its cgroup has free.
jobs: Number of workers, at least 1. Default: 2, but 8 if `src` is read over a network.
part: `K/N` to write only the K-th of N parts. After all parts, `finish` commits the output.
    Default: everything in one process.
max_rate: Read limit in bytes a second, or text such as `200MB/s`. All ranks of a torchrun
    share it; each `part` has its own. Default: none.
format: Output format, `safetensors` or `dcp` (torch.distributed.checkpoint). Default:
    `safetensors`, but `dcp` with a `preset` unless the target is the hub's layout.
keep_config: True to copy config.json as it is. Default: what the conversion makes untrue is
    changed in it.
copy: True to copy a checkpoint that is already what was asked for, instead of raising
    PlanRefused.
sha256: True to record the SHA-256 of each output file in the manifest. Reads each file
    again.
"""

_HELP: dict[type, str] = {
    Reading: _READING,
    LazyOptions: _READING + _TENSORS,
    Options: _READING + _TENSORS + _CONVERSION,
}


def takes(options: type | None = None) -> Callable[[Function], Function]:
    """Check and document the keyword arguments of a public function.

    Args:
        options: The TypedDict of the function's `**options`; None if it has none.

    Returns:
        A decorator. The decorated function raises TypeError for a keyword argument that it does not
        have, and names the most similar one. PLACEHOLDER in its docstring becomes the options.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        known += options.__annotations__ if options else ()

        @functools.wraps(function)
        def checked(*args: Any, **named: Any) -> Any:
            for name in named.keys() - known:
                raise TypeError(_unexpected(function.__name__, name, known))
            return function(*args, **named)

        if options and function.__doc__:
            line = re.search(rf"^( *){re.escape(PLACEHOLDER)}\n", function.__doc__, re.MULTILINE)
            assert line is not None
            text = textwrap.indent(_HELP[options], line[1])
            checked.__doc__ = function.__doc__.replace(line[0], text)
        return cast(Function, checked)

    return decorate


def _unexpected(function: str, name: str, known: list[str]) -> str:
    """Return the message for an unknown keyword argument, as Python writes it."""
    import difflib

    similar = difflib.get_close_matches(name, known, n=1)
    message = f"{function}() got an unexpected keyword argument {name!r}"
    return f"{message}; did you mean {similar[0]!r}?" if similar else message


def meanings(options: type) -> list[tuple[str, str]]:
    """Return the name of each option of a TypedDict, and what `help` says of it."""
    items = re.split(r"\n(?=\S)", _HELP[options].strip())
    return [(name, " ".join(text.split())) for name, _, text in (i.partition(": ") for i in items)]
