"""Targets that cannot be written to, and conversions that there are not."""

# Changes made by a lambda are calls in a list, whose values nobody needs.
# mypy: disable-error-code="func-returns-value"
from pathlib import Path

from broken import EXPERTS_0, also, filled, only, row, sound, with_target, without
from folders import qwen_tensors

from streamconv.errors import IOFailed, OutputExists, PlanRefused, StreamconvError, UsageError

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
            "overlap",
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
            ("through a link into SRC", "l/dst", with_target(lambda p: p.symlink_to("src"), "l")),
        )
    ),
    row("DST is what SRC is a link to, to be overwritten", OutputExists,
        lambda src: [sound(src.parent / "dst"), src.symlink_to("dst")], "overlap",
        options={"overwrite": True}),
    *(
        row(f"SRC {what} {name}, which a run clears", OutputExists,
            lambda src: [src.parent.mkdir(exist_ok=True), sound(src)], "overlap", name,
            src=name + below, options={"overwrite": True})
        for what, below in (("is", ""), ("lies in", "/kept"))
        for name in ("dst.streamconv-partial", "dst.streamconv-replaced")
    ),
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
    *(
        row(f"{name} of SRC, which is in the way of the result on some systems", PlanRefused,
            also(lambda src, name=name: filled(src / name)), f"{name}/precious", name.casefold(),
            options={"max_shard_size": "300"})
        for name in ("MODEL-00005-of-00005.Safetensors", "Model.Safetensors.Index.JSON",
                     "STREAMCONV.json", "Streamconv-Journal-1.jsonl", "Config.json")
    ),
    row("layers that are not there", StreamconvError, without("model.embed", "model.norm"), "7:9",
        options={"layers": "7:9"}),
    row("sub-byte experts that would have to be transposed", PlanRefused,
        only(qwen_tensors(dtype="F4")), f"{EXPERTS_0}0.gate_proj.weight", "4 bits",
        options={"to": "fused-transposed"}),
]
# fmt: on
