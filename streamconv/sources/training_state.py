"""Finds the model in the state dict of a DCP, and what streamconv recorded there.

The state dict may have an entry for the model, as in Megatron and MindSpeed-MM, or the tensors of
the model may lie next to those of the training run:

    {                                           {
      "model": {                                  "layers.0.mlp.gate.weight": tensor,
        "layers.0.mlp.gate.weight": tensor,       "lm_head.weight": tensor,
        "lm_head.weight": tensor,                 "optimizer": {"exp_avg": tensor, ...},
      },                                          "iteration": 7,
      "optimizer": {"exp_avg": tensor, ...},    }
      "iteration": 7,
    }

With an entry `model`, the tensors below it are the model. Without one, all tensors are, except
those below an entry of `RUN_STATE`. The rest is listed and not converted. All of it may be in one
outer entry, such as the `app` of torch's own tutorial: `{"app": {"model": ..., "optimizer": ...}}`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.manifest import recorded_layouts
from streamconv.checkpoint.types import OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import METADATA_FILE
from streamconv.formats.dcp_metadata_reader import Metadata
from streamconv.formats.dcp_tensors import StoredTensor
from streamconv.formats.strict_json import parse_json

MODEL = "model"
"""The entry of a training run's state dict that holds the model."""
RUN_STATE = ("optimizer", "optim", "lr_scheduler", "scheduler", "rng_state", "args")
"""Entries that belong to the training run if the model has no entry of its own."""


@dataclass(frozen=True, slots=True)
class StreamconvMetadata:
    """What streamconv records in a DCP that it writes; all of it empty in any other DCP."""

    record: Record | None = None
    prefixes: Prefixes = field(default_factory=Prefixes)
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


def read_streamconv_metadata(metadata: Metadata) -> StreamconvMetadata:
    """Return what streamconv recorded. Raises BadCheckpoint if that is malformed."""
    if metadata.own is None:
        return StreamconvMetadata()
    fields = parse_json(metadata.own.encode("utf-8", "surrogatepass"), METADATA_FILE)
    try:
        keys = fields["keys"]
        prefixes = Prefixes(str(keys["hf_prefix"]), str(keys["dcp_prefix"]))
        record = recorded_layouts(fields["manifest"], METADATA_FILE)
        if "digest" in fields and not metadata.has_digest:
            raise BadCheckpoint(
                f"cannot read {METADATA_FILE}: it says that it has a digest of its bytes, and has "
                "none: it has changed since it was written",
                "restore the file, or convert again",
            )
        if metadata.has_digest and "digest" not in fields:
            raise BadCheckpoint(
                f"cannot read {METADATA_FILE}: it has a digest of its bytes, and does not say that "
                "it has one: it has changed since it was written",
                "restore the file, or convert again",
            )
        return StreamconvMetadata(
            record, prefixes, dict(fields["config"]), dict(fields["manifest"])
        )
    except (KeyError, TypeError, ValueError):
        raise BadCheckpoint(
            f"cannot read {METADATA_FILE}: the layouts recorded in it are not as streamconv "
            "writes them"
        ) from None


def model_tensors(metadata: Metadata, prefixes: Prefixes) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of the model, each with its name outside of the DCP.

    Raises BadCheckpoint if there are none, if a key lacks the prefix, or if two get one name.
    """
    entry = _model_entry(metadata)
    keys: dict[str, str] = {}
    for stored in metadata.tensors:
        if not _is_of_model(stored.path, entry):
            continue
        key = ".".join(stored.path[len(entry) :])
        name = prefixes.undo(key)
        if prefixes.apply(name) != key:
            raise BadCheckpoint(
                f"cannot read {METADATA_FILE}: key {quoted(key)} does not begin with "
                f"{quoted(prefixes.dcp)}, as all keys would",
                "set --dcp-prefix to what the keys begin with, or to '' for nothing",
            )
        if name in keys:
            raise BadCheckpoint(
                f"cannot read {METADATA_FILE}: the keys {quoted(keys[name])} and {quoted(key)} "
                f"both become {quoted(name)}"
            )
        keys[name] = key
        yield name, stored
    if not keys:
        raise BadCheckpoint(f"cannot read {METADATA_FILE}: no tensor in it belongs to a model")


def skipped_entries(metadata: Metadata) -> Iterator[OtherFile]:
    """Yield the entries of the state dict that belong to the training run, as skipped files."""
    entry = _model_entry(metadata)
    counts: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in metadata.tensors:
        if not _is_of_model(tensor.path, entry):
            name = _entry_name(tensor.path, entry)
            counts[name] += 1
            nbytes[name] += sum(chunk.nbytes for chunk in tensor.chunks)
    for value in metadata.others:
        name = _entry_name(value.path, entry)
        counts[name] += 1
        nbytes[name] += value.nbytes
    for name, count in counts.items():
        reason = (
            "1 value of the training run, not of the model"
            if count == 1
            else f"{count:,} values of the training run, not of the model"
        )
        yield OtherFile(name, nbytes[name], reason, is_entry=True)


def _model_entry(metadata: Metadata) -> tuple[str, ...]:
    """Return the path of the model's entry; empty if the model has no entry of its own.

    It is `model`. It is `X.model` if all tensors are in `X`, and `X` looks like the state dict of a
    training run: it has an entry of RUN_STATE next to the model, or it has nothing but a model
    whose names contain dots, as in a flat state dict.
    """
    paths = [tensor.path for tensor in metadata.tensors]
    if any(len(path) > 1 and path[0] == MODEL for path in paths):
        return (MODEL,)
    outer = {path[0] for path in paths}
    in_model = [path for path in paths if path[1:2] == (MODEL,) and len(path) > 2]
    if len(outer) != 1 or not in_model:
        return ()
    paths += [value.path for value in metadata.others]
    next_to_it = {path[1] for path in paths if len(path) > 1}
    is_run = not next_to_it.isdisjoint(RUN_STATE) or next_to_it == {MODEL}
    is_flat = any("." in path[2] for path in in_model)
    return (*outer, MODEL) if is_run and (is_flat or len(next_to_it) > 1) else ()


def _entry_name(path: tuple[str, ...], entry: tuple[str, ...]) -> str:
    """Return the name of the entry that a value of the training run is in."""
    return ".".join(path[: max(len(entry), 1)])


def _is_of_model(path: tuple[str, ...], entry: tuple[str, ...]) -> bool:
    """Return True if the tensor at `path` of the state dict belongs to the model.

    `entry` is the path of the model's own entry, if it has one.
    """
    if entry:
        return path[: len(entry)] == entry
    return len(path) == 1 or path[0] not in RUN_STATE
