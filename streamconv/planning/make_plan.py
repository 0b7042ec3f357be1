"""Makes the plan of a conversion from a detected source, a resolved target and the options."""

from collections.abc import Callable

from streamconv.catalog.checkpoint_files import CONFIG, QUANT_CONFIG
from streamconv.checkpoint.cast_memory import buffer_bytes, kept_scales_bytes
from streamconv.checkpoint.casting import AS_STORED, Casting, may_be_cast
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import INDEX, JOURNAL_PREFIX, MANIFEST, Checkpoint
from streamconv.detection.detect import Detected
from streamconv.errors import PlanRefused, quoted
from streamconv.planning.compared_regions import Regions, compared_regions
from streamconv.planning.config_change import AS_IT_IS, ConfigChange
from streamconv.planning.lossless import check_lossless
from streamconv.planning.memory import (
    COPY_STAGING_BYTES,
    REMOTE_STAGING_BYTES,
    STAGING_BYTES,
    Limits,
    fit_memory,
)
from streamconv.planning.piece_needs import needs_of_few
from streamconv.planning.plan import PIECE_BYTES, Plan
from streamconv.planning.safetensors_shards import Safetensors
from streamconv.planning.shards import Shard, ShardFormat
from streamconv.planning.steps import Steps, make_steps
from streamconv.planning.tables import Counts, tables_bytes
from streamconv.planning.target import Target


def make_plan(
    checkpoint: Checkpoint,
    source: Detected,
    target: Target,
    *,
    max_shard_bytes: int,
    limits: Limits | Callable[[], Limits],
    layers: range | None = None,
    shard_format: Callable[[Record], ShardFormat] = Safetensors,
    casting: Casting = AS_STORED,
    config: ConfigChange = AS_IT_IS,
    verify: bool = False,
    sha256: bool = False,
) -> Plan:
    """Plan the conversion of a checkpoint.

    Args:
        checkpoint: The source as it is stored.
        source: What was detected in it, with `casting` applied.
        target: The layouts and names that it gets.
        max_shard_bytes: Bytes of tensors in a shard, at most.
        limits: Limits of memory and workers, or a function that returns them. It is called when the
            plan is otherwise complete, so that the memory of the plan is part of the base.
        layers: Numbers of the layers to keep, along with everything in no layer; None for all.
        shard_format: Builds the file format of the output for its record.
        casting: The dtypes that were asked for.
        config: The changes of config.json.
        verify: True if the result is verified in the same process.
        sha256: True if every file of the result is read back.

    Raises:
        PlanRefused: There are no tensors, the conversion would lose something, a copied file has
            the name of one of the result, or the memory does not suffice for one worker.
        BadCheckpoint: config.json lacks a size that the conversion needs.
    """
    if not source.hub_names:
        raise PlanRefused(f"cannot convert {checkpoint.location}: it holds no tensors")
    steps = make_steps(source, target, layers)
    check_lossless(steps, source, target, layers)
    record = record_of(source, target, layers)
    file_format = shard_format(record)
    shards = tuple(file_format.shards(steps, max_shard_bytes))
    if not file_format.skip_reason:
        _check_files(checkpoint, shards)
    shard_pieces = [-(-shard.nbytes // PIECE_BYTES) for shard in shards]
    pieces = sum(shard_pieces)
    counts = Counts(
        inputs=steps.count_inputs(),
        outputs=len(steps),
        modules=sum(len(stack.modules) for stack in (*source.stacks, *source.groups)),
        shards=len(shards),
        chunks=file_format.count_chunks(steps),
        pieces=pieces,
        shard_pieces=max(shard_pieces),
        regions=compared_regions(source, target, steps) if verify else Regions(),
        source_metadata=checkpoint.metadata_bytes,
        kept=kept_scales_bytes(steps.inputs()) if casting.quantize else 0,
    )
    casts = _cast_bytes(steps) if may_be_cast(checkpoint, casting) else 0
    tables = tables_bytes(
        counts,
        file_format.name,
        casts=casting != AS_STORED or casts > 0,
        quantizes=casting.quantize is not None,
        verify=verify,
        hashed=sum(shard.nbytes for shard in shards) if sha256 else 0,
    )
    widest = max(range(len(steps)), key=steps.buffer_bytes)
    buffer, name = steps.buffer_bytes(widest), steps.name(widest)
    few = needs_of_few(shards, file_format)
    limits = limits if isinstance(limits, Limits) else limits()
    return Plan(
        checkpoint=checkpoint,
        source=source,
        target=target,
        steps=steps,
        format=file_format,
        shards=shards,
        record=record,
        max_shard_bytes=max_shard_bytes,
        memory=fit_memory(
            limits,
            buffer,
            name,
            casts,
            checkpoint.read_scratch_bytes,
            tables,
            staging=_staging_bytes(checkpoint, is_copy=not (buffer or casts)),
            casts_again=_cast_bytes(steps, again=True) if verify and casts else 0,
            pieces=few,
            largest_shard=max(shard.nbytes for shard in shards),
        ),
        casting=casting,
        config=config,
    )


def record_of(source: Detected, target: Target, layers: range | None) -> Record:
    """Return the record of layouts of an output.

    Args:
        source: The checkpoint that is converted.
        target: The layouts and names that it gets.
        layers: Numbers of the layers that are kept; None for all.
    """
    layouts = {
        pattern: LayoutNames.of(row, target.hub_layouts.get(pattern))
        for pattern, row in target.rows.items()
    }
    return Record(target.names.name, target.form, layouts, _layers_text(source, layers))


def _staging_bytes(checkpoint: Checkpoint, *, is_copy: bool) -> int:
    """Return the bytes of output that a worker writes at once."""
    if checkpoint.remote:
        return REMOTE_STAGING_BYTES
    return COPY_STAGING_BYTES if is_copy else STAGING_BYTES


def _cast_bytes(steps: Steps, *, again: bool = False) -> int:
    """Return the bytes that a worker needs for the casts of any step, made once or again."""
    return max(buffer_bytes(s.inputs, s.concurrent_inputs, again=again) for s in steps)


def _check_files(checkpoint: Checkpoint, shards: tuple[Shard, ...]) -> None:
    """Raise PlanRefused if a file to copy, or its folder, has the name of a file of the result.

    Files of exactly these names are not copied. The others have one of them on systems that ignore
    case, or are in a folder called as a config, which a reader opens as a file.
    """
    own = {name.casefold(): name for name in (*(each.name for each in shards), INDEX, MANIFEST)}
    folders = {**own, **{name.casefold(): name for name in (CONFIG, QUANT_CONFIG)}}
    for other in checkpoint.others:
        if other.skip_reason:
            continue
        top, slash, _ = other.name.partition("/")
        folded = top.casefold()
        taken, whose = (folders if slash else own).get(folded, ""), "the result"
        if folded.startswith(JOURNAL_PREFIX):
            taken, whose = folded, "the run"
        if taken:
            raise PlanRefused(
                f"cannot copy {quoted(other.name)} of {checkpoint.location}: {quoted(taken)} is "
                f"the name of a file of {whose}",
                "move it away, or give it another name; some systems ignore case",
            )


def _layers_text(source: Detected, layers: range | None) -> str | None:
    """Return the range of layers for the record; an open end becomes the number of layers."""
    if layers is None:
        return None
    count = max((each.layers for each in source.layer_lists), default=0)
    return f"{layers.start}:{max(min(layers.stop, count), layers.start + 1)}"
