"""A source and its template as one: what comes from which."""

from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.sources.base import Read, Source
from streamconv.sources.wrappers.template import with_template

CONFIG = {"model_type": "qwen3_moe"}
HUB = {"norm": ("BF16", (2,), b"norm"), "head": ("BF16", (1, 2), b"head")}


def template() -> MemorySource:
    others = {"tokenizer.json": b"tokens"}
    return MemorySource(HUB, others, location="hub", config=CONFIG)


def run(**tensors: tuple[str, tuple[int, ...], bytes]) -> MemorySource:
    others = {"optimizer": b"state"}
    return MemorySource(tensors, others, location="run", file="__0_0.distcp")


def templated(source: MemorySource, template: MemorySource, **options: bool) -> Source:
    return with_template(source, template, default_catalog(), **options)  # type: ignore[arg-type]


def read(source: Source, *names: str) -> list[bytes]:
    infos = [source.checkpoint.tensors[name] for name in names]
    buffers = [memoryview(bytearray(info.nbytes)) for info in infos]
    source.read([Read(i, 0, b) for i, b in zip(infos, buffers, strict=True)])
    return [bytes(buffer) for buffer in buffers]


def test_the_template_gives_config_and_files() -> None:
    source, hub = run(norm=("BF16", (2,), b"NORM"), head=("BF16", (1, 2), b"HEAD")), template()
    both = templated(source, hub)
    assert both.checkpoint.location == "run"
    assert both.checkpoint.config == CONFIG
    assert {other.name: other.skip_reason for other in both.checkpoint.others} == {
        "optimizer": "the template has the other files",
        "tokenizer.json": "",
    }
    assert read(both, "head", "norm") == [b"HEAD", b"NORM"]
    buffer = bytearray(6)
    other = both.checkpoint.others[1]
    assert both.read_other(other, memoryview(buffer), 0) == 6
    assert buffer == b"tokens"
    assert [call[0] for call in hub.calls] == ["read_other"]
    assert [file.name for file in both.checkpoint.files] == ["__0_0.distcp"]


def test_missing_tensors_are_filled() -> None:
    """Each source is asked for its own in one batch."""
    source, hub = run(norm=("BF16", (2,), b"NORM")), template()
    both = templated(source, hub, fill=True)
    assert read(both, "head", "norm") == [b"head", b"NORM"]
    assert source.calls == [("read", [("norm", 0, 4)])]
    assert hub.calls == [("read", [("head", 0, 4)])]
    filled = both.checkpoint.template
    assert filled is not None
    assert (filled.location, filled.filled, filled.nbytes) == ("hub", {"head"}, 4)
    assert both.checkpoint.total_bytes == 8
    names = [file.name for file in both.checkpoint.files]
    assert names == ["__0_0.distcp", "model.safetensors"]


def test_both_are_checked_and_closed() -> None:
    source, hub = run(norm=("BF16", (2,), b"NORM")), template()
    both = templated(source, hub, fill=True)
    both.check_unchanged()
    both.close()
    assert source.calls == hub.calls == [("check_unchanged",), ("close",)]


def test_unknown_tensors_alone() -> None:
    """They are listed, and converted like the rest."""
    source = run(
        norm=("BF16", (2,), b"NORM"), head=("BF16", (1, 2), b"HEAD"), lora=("BF16", (1,), b"LO")
    )
    both = templated(source, template(), fill=True)
    assert both.checkpoint.template is not None
    assert both.checkpoint.template.unknown == ("lora",)
    assert read(both, "lora") == [b"LO"]
