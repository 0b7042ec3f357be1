"""Notes to read before a result is loaded: what no change of config.json can express."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.errors import quoted
from streamconv.formats.json_edit import Edit
from streamconv.planning.config_edits import quantization_paths
from streamconv.planning.expert_notes import ending_in_a_block
from streamconv.quantization.number_format import cache_words
from streamconv.quantization.quantized_config import SECTION, exceptions_key, quantized_section


def layer_and_list_notes(
    checkpoint: Checkpoint,
    source: Detected,
    casting: Casting,
    layers: range | None,
    edits: Iterable[Edit],
) -> Iterator[str]:
    """Yield a note for each untrue statement that no change of config.json corrects."""
    if layers is not None and layers.start > 0:
        first = layers.start
        yield f"the result does not load: its layers begin with {first}, loaders count from 0"
    is_partial = (
        casting.dequantize
        and not casting.quantize
        and any(map(is_quantized, source.hub_names.values()))
    )
    if not is_partial:
        return
    edited = {edit.path for edit in edits}
    for path in quantization_paths(checkpoint.config):
        if path in edited:
            continue
        yield (
            f"some weights stay quantized, and {quoted('.'.join(path))} stays in config.json: add "
            "the modules that are dequantized to its list of exceptions before you load the result"
        )
    for other in checkpoint.others:
        if other.name in config_keys().quantization_files:
            yield f"{quoted(other.name)} stays as it is: it counts all weights as quantized"


def cache_notes(infos: Iterable[TensorInfo]) -> Iterator[str]:
    """Yield a note on scales of a KV cache that nothing describes any more."""
    names = [info.name for info in infos if info.name.rpartition(".")[2] in cache_words()]
    if names:
        yield (
            f"{summarize_names(names)} stay, scales of a quantized KV cache that config.json no "
            "longer describes: loaders pass over them"
        )


def quantized_notes(
    checkpoint: Checkpoint,
    source: Detected,
    casting: Casting,
    written: Sequence[TensorInfo],
    left_out: Mapping[str, str],
) -> Iterator[str]:
    """Yield notes on weights that stay, a missing config.json, and blocks that are not whole."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        yield f"not quantized: {summarize_names(names)}: {reason}"
    if casting.quantize is None:
        return
    row = encoding_row(casting.quantize, casting.scale)
    if not checkpoint.config:
        section = quantized_section(row, written)
        listed = len(section.pop(str(exceptions_key(section))))
        yield (
            f"no {CONFIG} is written that could say what is quantized: loaders need one with the "
            f"{SECTION} {json.dumps(section)}, and in it the list of {listed} modules that are not "
            "quantized; convert with a --template that has a config.json to get all of it"
        )
    names = list(ending_in_a_block(written, source))
    if names:
        yield (
            f"{summarize_names(names)} end inside a block: without a GPU, transformers takes all "
            "blocks of a matrix for equal, and on a GPU it merges gate and up as if theirs were "
            "whole, so it decodes other values, or none; choose another format, or leave these "
            "weights out with --except"
        )
