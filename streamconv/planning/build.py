"""Turn the options of a user into a plan."""

from contextlib import suppress
from dataclasses import dataclass

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import SAME
from streamconv.catalog.layouts import PER_EXPERT
from streamconv.checkpoint.casting import Casting, parse_casting
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected, detect
from streamconv.detection.kinds import check_experts_found, check_kind
from streamconv.detection.quantize import Quantized, quantize_checkpoint
from streamconv.errors import StreamconvError
from streamconv.options import (
    DEFAULT_SHARD_SIZE,
    LazyOptions,
    Options,
    check_jobs,
    parse_layers,
)
from streamconv.planning.config_change import config_change
from streamconv.planning.limits import ask_limits
from streamconv.planning.lossless import check_lossless
from streamconv.planning.make_plan import make_plan, record_of
from streamconv.planning.merge_target import merge_target
from streamconv.planning.output_format import shard_format
from streamconv.planning.partition import parse_partition
from streamconv.planning.plan import Plan
from streamconv.planning.quantized_experts import detect_or_refuse, keep_refused, stored_experts
from streamconv.planning.steps import Steps, make_steps
from streamconv.planning.target import Target, resolve_target
from streamconv.planning.unchanged import check_changed
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.quantization.stored_shape import ReadSmall
from streamconv.units import parse_rate, parse_size


@dataclass(frozen=True, slots=True)
class Outputs:
    """The tensors that a conversion makes, without files."""

    source: Detected
    target: Target
    steps: Steps
    record: Record


def build_plan(
    checkpoint: Checkpoint,
    catalog: Catalog,
    to: str | None,
    options: Options,
    *,
    verify: bool = False,
    is_run: bool = False,
    read: ReadSmall | None = None,
) -> Plan:
    """Plan a conversion as a user asks for it.

    Args:
        checkpoint: The source as it is stored.
        catalog: The known layouts and families.
        to: A form or layout, or `same`; None for the target of `merge`.
        options: What the user asked for.
        verify: True if the result is verified in the same process.
        is_run: True if a run of the plan follows, or is shown; see `ask_limits`.
        read: Reads small tensors: the shapes of packed matrices are stored as numbers.

    Raises:
        UsageError: An option has a value that makes no sense.
        BadCheckpoint: The checkpoint is not complete and consistent.
        PlanRefused: The conversion is impossible, would change nothing, or does not fit into
            memory.
    """
    check_jobs(options.get("jobs"))
    parse_partition(options.get("part") or "1/1")
    if (rate := options.get("max_rate")) is not None:
        parse_rate(rate)
    shard_size = options.get("max_shard_size")
    casting, quantized, target = _conversion(checkpoint, catalog, to, options, read)
    source = quantized.found
    layers = _layers(options)
    keep = options.get("keep_config", False)
    change = config_change(
        checkpoint,
        source,
        casting,
        layers,
        keep=keep,
        names=target.names,
        left_out_weights=quantized.left_out,
        merged=_merged(source, target),
    )
    plan = make_plan(
        checkpoint,
        source,
        target,
        max_shard_bytes=parse_size(DEFAULT_SHARD_SIZE if shard_size is None else shard_size),
        limits=lambda: ask_limits(checkpoint, options, is_run=is_run),
        layers=layers,
        shard_format=shard_format(checkpoint, change.config(checkpoint), to, options),
        casting=casting,
        config=change,
        verify=verify,
        sha256=options.get("sha256", False),
    )
    check_changed(plan, options)
    return plan


def build_outputs(
    checkpoint: Checkpoint,
    catalog: Catalog,
    to: str | None,
    options: LazyOptions,
    *,
    read: ReadSmall | None = None,
    is_part: bool = False,
) -> Outputs:
    """Plan the output tensors of a conversion that is not written.

    Args:
        checkpoint: The source as it is stored.
        catalog: The known layouts and families.
        to: A form or layout; None to leave all layouts and names as they are.
        options: What the user asked for.
        read: Reads small tensors: the shapes of packed matrices are stored as numbers.
        is_part: True if the source holds only some modules of a model, perhaps without experts.

    Raises:
        UsageError: An option has a value that makes no sense.
        BadCheckpoint: The checkpoint is not complete and consistent.
        PlanRefused: The conversion is impossible.
    """
    _, quantized, target = _conversion(
        checkpoint, catalog, to or SAME, options, read, is_part=is_part, is_written=False
    )
    source = quantized.found
    layers = _layers(options)
    steps = make_steps(source, target, layers)
    check_lossless(steps, source, target, layers)
    return Outputs(source, target, steps, record_of(source, target, layers))


def _conversion(
    checkpoint: Checkpoint,
    catalog: Catalog,
    to: str | None,
    options: LazyOptions,
    read: ReadSmall | None,
    *,
    is_part: bool = False,
    is_written: bool = True,
) -> tuple[Casting, Quantized, Target]:
    """Return the casts, the source with these casts applied, and the target."""
    casting = parse_casting(
        options.get("dtype"),
        options.get("dequantize"),
        options.get("cast_all", False),
        options.get("only") or (),
        options.get("skip") or (),
        quantize=options.get("quantize"),
        scale=options.get("scale"),
    )
    pass_through = options.get("pass_through", False)
    if not pass_through and to != SAME:
        check_kind(checkpoint)
    family = catalog.find_family(checkpoint.config.get("model_type"))
    cast = cast_checkpoint(checkpoint, casting, family, read)

    def detected(found: Checkpoint, is_declared: bool = True) -> Detected:
        layout = options.get("source_layout") if is_declared else None
        return detect(found, catalog, layout, pass_through=pass_through or to == SAME)

    stored = detect_or_refuse(cast, casting, detected, lambda: _dequantized(cast, casting, read))
    if not pass_through and to != SAME and not is_part:
        check_experts_found(checkpoint, stored)
    quantized = quantize_checkpoint(cast, stored, casting, detected)
    if quantized.separated and to == SAME:
        raise keep_refused(stored, quantized.separated[0], str(casting.quantize))
    source = quantized.found
    asked, why = _target(source, to)
    target = resolve_target(
        source,
        asked,
        why,
        pass_through=pass_through,
        quantized=stored_experts(quantized.checkpoint, source),
        is_merge=to is None,
        layers=_layers(options),
        is_written=is_written,
    )
    return casting, quantized, target


def _merged(source: Detected, target: Target) -> list[str]:
    """Return the patterns of the stacks whose experts are not apart in the output."""
    becomes = ((s.pattern, target.rows.get(s.pattern) or s.row) for s in source.stacks)
    return [*dict.fromkeys(pattern for pattern, row in becomes if row.layout.name != PER_EXPERT)]


def _layers(options: LazyOptions) -> range | None:
    """Return the numbers of the layers that were asked for; None for all."""
    text = options.get("layers")
    return parse_layers(text) if text else None


def _dequantized(
    checkpoint: Checkpoint, casting: Casting, read: ReadSmall | None
) -> Checkpoint | None:
    """Return the checkpoint with all of its weights dequantized; None if it is, or cannot be.

    Args:
        checkpoint: The checkpoint with `casting` applied.
        casting: The casts, which may leave some weights quantized.
        read: Reads small tensors.
    """
    if casting.dequantize is not None and not (casting.only or casting.skip):
        return None
    with suppress(StreamconvError):
        return cast_checkpoint(checkpoint, Casting(dequantize="BF16"), read=read)
    return None


def _target(source: Detected, to: str | None) -> tuple[str, str]:
    """Return the form or layout of the output, and the reason for it."""
    if to is None:
        return merge_target(source)
    return to, "all layouts and names stay" if to == SAME else "as asked"
