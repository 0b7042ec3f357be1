"""Headers are read as safetensors' own parser reads them, and refused if it refuses them."""

import json
from typing import Any

import pytest
from corpus import Case
from folders import framed
from headers import FILE, JSON, NAMES, cases, ours, theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.errors import BadCheckpoint
from streamconv.formats.safetensors import DTYPE_BITS, Entry
from streamconv.formats.safetensors_writer import build_header, header_text

SIZES = st.integers(0, 4) | st.sampled_from([-1, 2**31, 2**63, 2**64, 1.5, True, None, "1"])
FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BITS, "f16", "", None, 3]),
        "shape": st.lists(SIZES, max_size=3) | SIZES,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | st.lists(SIZES, max_size=3),
    },
    optional={"more": st.none()},
)
SPACINGS = st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")])
"""Between items and after names. The first is that of nearly all writers, and read differently."""


@settings(deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    shape=st.lists(st.integers(0, 2**62), max_size=3).map(tuple),
    count=st.sampled_from([0, 1, 2, 499, 500, 501, 1000]),
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("é\n")),
)
def test_a_header_in_parts_is_the_json_of_the_whole(
    name: str, shape: tuple[int, ...], count: int, metadata: dict[str, str]
) -> None:
    """Byte by byte what json.dumps makes of all of it, and no part is large."""
    entries = [Entry(f"{name}{k}", "BF16", shape, k, 10**12 + k) for k in range(count)]
    whole: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for entry in entries:
        offsets = (entry.begin, entry.end)
        whole[entry.name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
    expected = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    parts = list(header_text(entries, metadata))
    assert b"".join(parts) == expected
    assert all(part.count(b"data_offsets") <= 500 + name.count("data_offsets") for part in parts)
    framed_header = build_header(entries, metadata, 64)
    assert framed_header[8:].rstrip(b" ") == expected
    assert len(framed_header) % 64 == 0


@cases()
def test_the_verdict_is_that_of_safetensors_or_explained(case: Case) -> None:
    """And what is explained does differ: a new release of theirs that agrees shows here."""
    accepted = theirs(case.raw) is not None
    assert (accepted == case.legal) == (not case.differs), case.differs


def test_errors_name_the_file() -> None:
    """With both facts, and a hint if they do not speak for themselves."""
    with pytest.raises(BadCheckpoint) as short:
        ours(b"\x09")
    assert short.value.message == f"cannot read {FILE}: 1 bytes are too few for a safetensors file"
    with pytest.raises(BadCheckpoint) as lfs:
        ours(b"version https://git-lfs.github.com/spec/v1")
    assert lfs.value.message.startswith(f"cannot read {FILE}: the first 8 bytes announce a header")
    assert lfs.value.hint.startswith("check that it is a whole safetensors file")


@st.composite
def sound_headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header without a fault, its tensors in any order, and the bytes of data it describes."""
    names = draw(
        st.lists(NAMES.filter(lambda name: name != "__metadata__"), unique=True, max_size=4)
    )
    fields, end = {}, 0
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = [*draw(st.lists(st.integers(0, 3), max_size=2)), 8 // min(DTYPE_BITS[dtype], 8)]
        if dtype.startswith("F6"):
            shape.append(4)
        begin = end
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
        end += bits // 8
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return {name: fields[name] for name in draw(st.permutations(names))}, end


def agree(raw: bytes) -> None:
    """Ours refuses with words, never otherwise, and accepts nothing that safetensors refuses."""
    reference = theirs(raw)
    try:
        header = ours(raw)
    except BadCheckpoint as error:
        assert error.message.isprintable()
        return
    assert reference is not None
    assert {entry.name for entry in header.entries} == reference.keys()
    for entry in header.entries:
        begin, end = (header.data_start + offset for offset in (entry.begin, entry.end))
        assert list(entry.shape) == reference[entry.name]["shape"]
        assert raw[begin:end] == bytes(reference[entry.name]["data"])


@settings(max_examples=150, deadline=None)
@given(sound_headers(), SPACINGS)
def test_sound_headers_are_read_alike(
    made: tuple[dict[str, Any], int], spacing: tuple[str, str]
) -> None:
    fields, size = made
    text = json.dumps(fields, ensure_ascii=False, separators=spacing)
    raw = framed(text.encode("utf-8", "surrogatepass"), bytes(size))
    agree(raw)
    if "\\ud" not in json.dumps(fields):
        ours(raw)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, FIELDS | JSON, max_size=3), st.integers(0, 9), SPACINGS)
def test_wrong_headers_are_refused_alike(
    fields: dict[str, Any], size: int, spacing: tuple[str, str]
) -> None:
    agree(framed(json.dumps(fields, separators=spacing).encode(), bytes(size)))


@pytest.mark.parametrize(
    ("sizes", "offsets"),
    [
        *(("01", "0,1"), ("1", "0,01"), ("1", "00,1"), ("1,", "0,1"), (",1", "0,1")),
        *(("1", "0,1,"), ("1", "1,0"), ("1", "0,-1"), ("-0", "0,0"), ("1.0", "0,1")),
        *(("1e0", "0,1"), ("\u0661", "0,1"), ("9" * 19, "0,1"), ("1" + "0" * 19, "0,1")),
        *(("2", "0,1"), ("", "0,0")),
    ],
)
def test_numbers_that_are_no_sizes_are_refused(sizes: str, offsets: str) -> None:
    """In the spelling of nearly all writers."""
    text = f'{{"a":{{"dtype":"U8","shape":[{sizes}],"data_offsets":[{offsets}]}}}}'
    raw = framed(text.encode(), b"\0")
    agree(raw)
    with pytest.raises(BadCheckpoint):
        ours(raw)


@settings(max_examples=150, deadline=None)
@given(sound_headers(), SPACINGS, st.data())
def test_damaged_files_are_refused_alike(
    made: tuple[dict[str, Any], int], spacing: tuple[str, str], data: st.DataObject
) -> None:
    """A byte changed, taken out or put in, anywhere."""
    fields, size = made
    raw = bytearray(framed(json.dumps(fields, separators=spacing).encode(), bytes(size)))
    at = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[]":,-0 \\'))
    kind = data.draw(st.sampled_from(("change", "insert", "delete")))
    raw[at : at + (kind != "insert")] = b"" if kind == "delete" else bytes([byte])
    agree(bytes(raw))


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_end_in_words(raw: bytes) -> None:
    try:
        ours(raw)
    except BadCheckpoint as error:
        assert error.message.isprintable()
