"""Malformed and odd safetensors files, each built the same every time, with what has to be said.

A case is a whole file. `says` are words that the refusal has to have; a case without any is legal
and has to be accepted. Where safetensors' own parser comes to another verdict, `differs` says why
ours is not that: nothing else may differ. Letters: A framing, B text, C duplicates, D schema,
E geometry, F metadata, G legal.
"""

import json
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from folders import BITS, framed


@dataclass(frozen=True)
class Case:
    """One file."""

    number: str
    name: str
    raw: bytes
    says: tuple[str, ...] = ()
    differs: str = ""

    @property
    def legal(self) -> bool:
        return not self.says


TWO_READERS = "two readers would see two checkpoints in it; the format's text forbids it"
NO_BRACE = "the format's text says that a header begins with a brace"
ONE = '{"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}'
I8 = ONE.replace("U8", "I8")
ROW = ONE.replace("[2]", "[1, 2]")
DATA = bytes(range(2))
GOOD = framed(f'{{"t": {ONE}}}'.encode(), DATA)
SIX = bytes(12)


def header(text: str | bytes, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    return framed(text if isinstance(text, bytes) else text.encode(), data)


def entry(data: bytes = SIX, **changed: Any) -> bytes:
    """A file of a tensor `t`, F16 [2, 3], said to be something else; None leaves a field out."""
    fields = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12], **changed}
    return header(json.dumps({"t": {k: v for k, v in fields.items() if v is not None}}), data)


def spans(*offsets: tuple[int, int]) -> bytes:
    """12 bytes of data, and a tensor `t0`, `t1` ... for each of these spans."""
    fields = {
        f"t{k}": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for k, (begin, end) in enumerate(offsets)
    }
    return header(json.dumps(fields), SIX)


def typed(dtype: str, *shape: int, data: bytes) -> bytes:
    """A sound file of one tensor."""
    field = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    return header(json.dumps({"t": field}), data)


def named(name: str) -> bytes:
    """A sound file of a tensor of this name."""
    return header(f"{{{json.dumps(name, ensure_ascii=False)}: {ONE}}}", DATA)


def zipped() -> bytes:
    """An archive, as torch saves one."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), b"\x80\x02.")
    return file.getvalue()


def many(count: int, field: str, last: str = "") -> bytes:
    """Many entries that are all the same, and one more."""
    entries = ", ".join(f'"t{k}": {field}' for k in range(count))
    return header("{" + entries + last + "}", DATA)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4999819336\n"
HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body>no such page</body></html>"
EMPTY_FIELD = '{"dtype": "U8", "shape": [0], "data_offsets": [2, 2]}'
NESTED = 200_000

# The tables are laid out by hand: a formatter makes one line of every word.
# fmt: off
FRAMING = [
    Case("A01", "empty", b"", ("0 bytes",)),
    Case("A02", "seven bytes", GOOD[:7], ("7 bytes",)),
    Case("A03", "a header of no bytes", bytes(8), ("brace",)),
    Case("A04", "a header longer than the file", (99).to_bytes(8, "little") + b"{}",
         ("99 bytes", "has 10")),
    Case("A05", "a length of 2^64 - 1", b"\xff" * 8 + b"{}", (str(2**64 - 1),)),
    Case("A06", "a length that wraps", (2**64 - 8).to_bytes(8, "little") + b"{}",
         (str(2**64 - 8),)),
    Case("A07", "a length of 2^63", (2**63).to_bytes(8, "little") + b"{}", (str(2**63),)),
    Case("A08", "a length over the limit", (10**8 + 1).to_bytes(8, "little") + b"{}",
         ("100000001",)),
    Case("A09", "a length at the limit in a small file", (10**8).to_bytes(8, "little") + b"{}",
         ("100000000", "has 10")),
    Case("A10", "cut inside the header", GOOD[:30], ("announce", "has 30")),
    Case("A11", "data short by a byte", GOOD[:-1], ("cut short", f"has {len(GOOD) - 1}")),
    Case("A12", "a byte too many", GOOD + b"\0", ("too long", f"has {len(GOOD) + 1}")),
    Case("A13", "an archive after it", GOOD + zipped(), ("too long",)),
    Case("A14", "a Git LFS pointer", LFS, ("Git LFS pointer",)),
    Case("A15", "a web page", HTML, ("web page",)),
    Case("A16", "JSON without a length", b'{"t": 1}' + bytes(9), ("announce",)),
    Case("A17", "torch's archive", zipped(), ("announce",)),
    Case("A18", "a pickle", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94.", ("announce",)),
    Case("A19", "GGUF", b"GGUF\x03\0\0\0" + bytes(16), ("announce",)),
    Case("A20", "a length in the wrong order", (2).to_bytes(8, "big") + b"{}", ("announce",)),
    Case("A21", "zeros, as after a crash", bytes(4096), ("brace",)),
]

TEXT = [
    Case("B01", "not UTF-8", header(b'{"\xff": 1}'), ("UTF-8", "byte 2")),
    Case("B02", "a byte order mark", header(b"\xef\xbb\xbf{}"), ("brace",)),
    Case("B03", "UTF-16", header("{}".encode("utf-16-le")), ("JSON",)),
    Case("B04", "cut JSON", header('{"t": '), ("not JSON",)),
    Case("B05", "a list", header("[]"), ("brace",)),
    Case("B06", "text", header('"text"'), ("brace",)),
    Case("B07", "null", header("null"), ("brace",)),
    Case("B08", "a space before it", header(f' {{"t": {ONE}}}', DATA), ("brace",), NO_BRACE),
    Case("B09", "a line break before it", header(f'\n{{"t": {ONE}}}', DATA), ("brace",), NO_BRACE),
    Case("B11", "padded with NUL", header("{}\0\0"), ("not JSON",)),
    Case("B12", "a trailing comma", header(f'{{"t": {ONE},}}', DATA), ("not JSON",)),
    Case("B13", "a comment", header("{/* none */}"), ("not JSON",)),
    Case("B14", "NaN", header('{"t": NaN}'), ("NaN",)),
    Case("B15", "two documents", header("{}{}"), ("not JSON",)),
    Case("B16", "nested without end", header('{"t": ' + "[" * NESTED), ("nested",)),
    Case("B17", "a raw NUL in a name", header(f'{{"\0": {ONE}}}', DATA), ("not JSON",)),
    Case("B18", "single quotes", header("{'t': 1}"), ("not JSON",)),
    Case("B19", "half a character", header('{"\\ud800": ' + ONE + "}", DATA), ("half",)),
    Case("B20", "Infinity", header('{"t": -Infinity}'), ("Infinity",)),
]

DUPLICATES = [
    Case("C01", "a tensor twice", header(f'{{"t": {ONE}, "t": {ONE}}}', DATA), ("twice",),
         TWO_READERS),
    Case("C02", "twice, in two shapes", header(f'{{"t": {ROW}, "t": {ONE}}}', DATA), ("twice",),
         TWO_READERS),
    Case("C03", "twice, in two dtypes", header(f'{{"t": {I8}, "t": {ONE}}}', DATA), ("twice",),
         TWO_READERS),
    Case("C04", "twice, in two places",
         header(f'{{"t": {ONE}, "t": {ONE.replace("[0, 2]", "[2, 4]")}}}', DATA * 2), ("twice",)),
    Case("C05", "two dtypes", header(f'{{"t": {ONE[:-1]}, "dtype": "I8"}}}}', DATA), ("twice",)),
    Case("C06", "two shapes", header(f'{{"t": {ONE[:-1]}, "shape": [2]}}}}', DATA), ("twice",)),
    Case("C07", "two spans", header(f'{{"t": {ONE[:-1]}, "data_offsets": [0, 2]}}}}', DATA),
         ("twice",)),
    Case("C08", "metadata twice", header('{"__metadata__": {}, "__metadata__": {}}'), ("twice",)),
    Case("C09", "twice in the metadata", header('{"__metadata__": {"a": "1", "a": "2"}}'),
         ("twice",), TWO_READERS),
    Case("C10", "twice in disguise", header(f'{{"t": {ONE}, "\\u0074": {ONE}}}', DATA), ("twice",),
         TWO_READERS),
    Case("C11", "the last of 50,000 twice", many(50_000, EMPTY_FIELD, f', "t49999": {ONE}'),
         ("t49999", "twice"), TWO_READERS),
]

SCHEMA = [
    Case("D01", "an entry that is a number", header('{"t": 5}'), ("tensor t",)),
    Case("D02", "an entry that is null", header('{"t": null}'), ("tensor t",)),
    Case("D03", "no dtype", entry(dtype=None), ("tensor t", "dtype")),
    Case("D04", "no shape", entry(shape=None), ("tensor t", "shape")),
    Case("D05", "no offsets", entry(data_offsets=None), ("tensor t", "data_offsets")),
    Case("D06", "an unknown dtype", entry(dtype="BF17"), ("tensor t", "BF17")),
    Case("D07", "a dtype in small letters", entry(dtype="f16"), ("tensor t", "f16")),
    Case("D08", "a dtype that is a number", entry(dtype=16), ("tensor t", "16")),
    Case("D09", "a field that there is not", entry(strides=[3, 1]), ("tensor t", "alone"),
         "strides would mean other values to a reader that knows them"),
    Case("D10", "a negative size", entry(shape=[-2, -3]), ("tensor t", "-2")),
    Case("D11", "a size with a fraction", entry(shape=[2.0, 3]), ("tensor t", "2.0")),
    Case("D12", "a size with an exponent",
         header('{"t": {"dtype": "U8", "shape": [1.6e1], "data_offsets": [0, 16]}}', bytes(16)),
         ("tensor t", "16.0")),
    Case("D13", "a size in quotes", entry(shape=["2", 3]), ("tensor t",)),
    Case("D14", "a size that is true", entry(shape=[True, 6]), ("tensor t", "True")),
    Case("D15", "a shape that is a number", entry(shape=6), ("tensor t", "6")),
    Case("D16", "one offset", entry(data_offsets=[12]), ("tensor t", "[12]")),
    Case("D17", "three offsets", entry(data_offsets=[0, 6, 12]), ("tensor t", "[0, 6, 12]")),
    Case("D18", "a size of 2^64", entry(shape=[2**64, 0]), ("tensor t",)),
    Case("D19", "a size of 5000 digits", header(f'{{"t": {"9" * 5000}}}'), ("not JSON",)),
    Case("D20", "minus zero",
         header('{"t": {"dtype": "U8", "shape": [2], "data_offsets": [-0, 2]}}', DATA),
         ("-0",)),
    Case("D21", "a million dimensions",
         entry(data=bytes(2), shape=[1] * 10**6, data_offsets=[0, 2]), ("tensor t", "[1, 1,"),
         "no array library has so many; numpy's limit is 64"),
    Case("D22", "an entry that is a list", header('{"t": ["U8", [2], [0, 2]]}', DATA),
         ("tensor t",), "an accident of the reference's decoder; the format's text has objects"),
    Case("D23", "a dtype that a terminal would obey", entry(dtype="\x1b[31m"), ("\\x1b[31m",)),
    Case("D24", "a name that a terminal would obey",
         header(json.dumps({"\x1b[2J\n": {"dtype": "U9", "shape": [], "data_offsets": [0, 0]}})),
         ("\\x1b[2J\\n", "U9")),
]

GEOMETRY = [
    Case("E01", "end before begin", entry(data_offsets=[12, 0]), ("tensor t", "[12, 0]")),
    Case("E02", "a negative offset", entry(data_offsets=[-12, 0]), ("tensor t", "-12")),
    Case("E03", "past the end", entry(shape=[1, 12], data_offsets=[0, 24]), ("cut short",)),
    Case("E04", "a span that is too small", entry(data_offsets=[0, 10]), ("96 bits", "span 80")),
    Case("E05", "a span that is too large", entry(bytes(14), data_offsets=[0, 14]),
         ("96 bits", "span 112")),
    Case("E06", "two tensors in one place", spans((0, 12), (0, 12)), ("t1", "byte 0", "at 12")),
    Case("E07", "overlapping", spans((0, 8), (4, 12)), ("t1", "byte 4", "at 8")),
    Case("E08", "one inside another", spans((0, 12), (4, 8)), ("t1", "byte 4", "at 12")),
    Case("E09", "a gap at the start", spans((2, 12)), ("t0", "byte 2", "at 0")),
    Case("E10", "a gap in the middle", spans((0, 4), (8, 12)), ("t1", "byte 8", "at 4")),
    Case("E11", "a gap at the end", spans((0, 4)), ("too long",)),
    Case("E12", "a product that wraps to 0", entry(b"", shape=[2**32, 2**32], data_offsets=[0, 0]),
         ("tensor t", "span 0")),
    Case("E13", "bits that wrap", entry(shape=[2**60], data_offsets=[0, 12]), ("tensor t", "96")),
    Case("E14", "a size of 2^63 and one of 0", entry(b"", shape=[2**63, 2**63, 0],
                                                    data_offsets=[0, 0]), ("tensor t",)),
    Case("E15", "sizes of 2^63 after one of 0", entry(b"", shape=[0, 2**63, 2**63],
                                                      data_offsets=[0, 0]), ("tensor t",),
         "a signed 64-bit integer, which most readers use, does not hold it"),
    Case("E16", "50,000 tensors in one place", many(50_000, ONE), ("byte 0", "at 2")),
    Case("E17", "a size of nothing with a span", entry(shape=[0, 3]), ("0 bits", "span 96")),
    Case("E18", "a size of something without", entry(b"", data_offsets=[0, 0]),
         ("96 bits", "span 0")),
    Case("E19", "nothing, out of range", entry(b"", shape=[0], data_offsets=[9, 9]), ("byte 9",)),
    Case("E20", "three half bytes", entry(DATA, dtype="F4", shape=[3], data_offsets=[0, 2]),
         ("12 bits",)),
    Case("E21", "three elements of six bits",
         entry(DATA, dtype="F6_E2M3", shape=[3], data_offsets=[0, 2]), ("18 bits",)),
    Case("E22", "a scalar of the wrong size", entry(b"a", shape=[], data_offsets=[0, 1]),
         ("16 bits", "span 8")),
    Case("E23", "no tensors, and data", header("{}", SIX), ("too long",)),
    Case("E24", "a number of 1,200 digits", entry(shape=[2**62] * 64), ("tensor t",)),
]

METADATA = [
    Case("F01", "a number in it", header('{"__metadata__": {"a": 1}}'), ("__metadata__",)),
    Case("F02", "an object in it", header('{"__metadata__": {"a": {}}}'), ("__metadata__",)),
    Case("F03", "a list", header('{"__metadata__": ["a"]}'), ("__metadata__",)),
    Case("F04", "null", header('{"__metadata__": null}'), ("__metadata__",),
         "the format's text has an object or nothing"),
    Case("F05", "a tensor of that name", header(f'{{"__metadata__": {ONE}}}', DATA), ("text",)),
    Case("F06", "null in it", header('{"__metadata__": {"a": null}}'), ("__metadata__",)),
    Case("F07", "70,000 names in it",
         header(json.dumps({"__metadata__": dict.fromkeys(map(str, range(70_000)), "")})),
         ("__metadata__", "65,536"),
         "no writer has so many, and as many as a header has room for take gigabytes"),
]

TEN_THOUSAND = ", ".join(f'"z{k}": {EMPTY_FIELD}' for k in range(10_000))

LEGAL = [
    Case("B10", "line breaks after it", header(f'{{"t": {ONE}}}\n\n', DATA)),
    Case("G01", "one tensor", GOOD),
    Case("G02", "nothing at all", header("{}")),
    Case("G03", "metadata alone", header('{"__metadata__": {"format": "pt"}}')),
    Case("G04", "padded with spaces", header(f'{{"t": {ONE}}}' + " " * 99, DATA)),
    Case("G05", "a scalar", typed("F32", data=bytes(4))),
    Case("G06", "a size of nothing", typed("F32", 0, 3, data=b"")),
    Case("G07", "nothing between neighbours", header(
        f'{{"b": {ONE.replace("[0, 2]", "[2, 4]")}, "z": {EMPTY_FIELD}, "a": {ONE}}}', DATA * 2)),
    Case("G08", "a header in another order", header(
        f'{{"b": {ONE.replace("[0, 2]", "[2, 4]")}, "a": {ONE}}}', DATA * 2)),
    Case("G09", "wide elements unaligned", header(
        '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},'
        ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}', bytes(5))),
    Case("G10", "a header of an odd length", header(f'{{"odd": {ONE}}} ', DATA)),
    Case("G11", "a name in Unicode", named("\N{SNOWMAN}e\N{COMBINING ACUTE ACCENT}")),
    Case("G12", "an empty name", named("")),
    Case("G13", "a name that looks like a path", named("../../etc/passwd")),
    Case("G14", "a name that a terminal would obey", named("a\n\x1b[31mb\x7f")),
    Case("G15", "F4", typed("F4", 4, data=DATA)),
    Case("G16", "F6", typed("F6_E3M2", 4, data=bytes(3))),
    Case("G17", "F8_E8M0", typed("F8_E8M0", 2, data=DATA)),
    Case("G18", "C64", typed("C64", 1, data=bytes(8))),
    Case("G19", "BF16 with payloads in its NaNs", typed("BF16", 2, data=b"\xc1\x7f\xa1\x7f")),
    Case("G20", "BOOL of 2 and 255", typed("BOOL", 2, data=b"\x02\xff")),
    Case("G21", "10,000 of no size in one place", header(f'{{"t": {ONE}, {TEN_THOUSAND}}}', DATA)),
    *(Case(f"G{22 + k}", f"a tensor of {dtype}", typed(dtype, 8, data=bytes(BITS[dtype])))
      for k, dtype in enumerate(BITS)),
]
# fmt: on

CORPUS = [*FRAMING, *TEXT, *DUPLICATES, *SCHEMA, *GEOMETRY, *METADATA, *LEGAL]
