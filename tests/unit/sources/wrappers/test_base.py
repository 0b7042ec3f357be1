"""A wrapper forwards whatever it does not change."""

from memory_source import MemorySource

from streamconv.checkpoint.types import OtherFile
from streamconv.sources.base import ByteRange, ExpectingSource, MappedSource, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper


def memory() -> MemorySource:
    return MemorySource({"w": ("U8", (4,), b"abcd")}, {"config.json": b"{}"})


def test_every_call_is_forwarded() -> None:
    source = memory()
    wrapper: Source = SourceWrapper(source)
    assert wrapper.checkpoint is source.checkpoint
    buffer = memoryview(bytearray(2))
    wrapper.read([Read(wrapper.checkpoint.tensors["w"], 1, buffer)])
    assert bytes(buffer) == b"bc"
    assert wrapper.read_other(wrapper.checkpoint.others[0], buffer, 1) == 1
    assert bytes(buffer) == b"}c"
    wrapper.check_unchanged()
    wrapper.close()
    assert source.calls == [
        ("read", [("w", 1, 2)]),
        ("read_other", "config.json", 1),
        ("check_unchanged",),
        ("close",),
    ]


def test_the_whole_contract_is_forwarded() -> None:
    """A member that is added to `Source` or `MappedSource` is missed here."""
    contracts = vars(Source) | vars(MappedSource) | vars(ExpectingSource)
    members = {name for name in contracts if not name.startswith("_")}
    assert members == {name for name in vars(SourceWrapper) if not name.startswith("_")}


def test_files_that_cannot_be_mapped() -> None:
    """Have no view; a change of one is looked for in all."""
    source = memory()
    wrapper = SourceWrapper(source)
    assert wrapper.mapped([ByteRange(wrapper.checkpoint.tensors["w"], 0, 4)]) is None
    wrapper.check_file("model.safetensors")
    assert source.calls == [("check_unchanged",)]


def test_a_subclass_changes_one_call() -> None:
    class WithoutFiles(SourceWrapper):
        def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
            return 0

    source = memory()
    wrapper = WithoutFiles(source)
    assert wrapper.read_other(source.checkpoint.others[0], memoryview(bytearray(1)), 0) == 0
    wrapper.check_unchanged()
    assert source.calls == [("check_unchanged",)]
