"""Fuzzes what reads untrusted bytes: header parser, index reader, manifest, DCP metadata.

    pip install atheris
    python scripts/fuzz.py header --seconds 60 [--corpus FOLDER]

The one error that may come is BadCheckpoint, with a printable message; anything else stops the
run and leaves the input in the working folder. `header` is compared with safetensors' own parser as
well: what ours accepts, theirs has to accept, with the same tensors. Seeds are those of the tests'
corpus and small pickles. What atheris knows of an input it knows from the bytecode of the package.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streamconv"]):
    from streamconv.checkpoint.layout_record import read_record
    from streamconv.errors import BadCheckpoint
    from streamconv.formats.dcp_metadata_reader import read_metadata
    from streamconv.formats.safetensors import LENGTH_BYTES
    from streamconv.formats.safetensors_reader import header_length, parse_header
    from streamconv.formats.strict_json import parse_json, parse_json_object
    from streamconv.sources.shard_index import read_index, shard_names

TESTS = Path(__file__).resolve().parent.parent / "tests" / "helpers"


def fuzz_header(raw: bytes) -> None:
    """A safetensors file; one that begins with a brace gets the length that is missing."""
    import safetensors

    if raw[:1] == b"{":
        end = raw.rfind(b"}") + 1
        raw = end.to_bytes(LENGTH_BYTES, "little") + raw
    length = header_length(raw[:LENGTH_BYTES], len(raw), "file")
    header = parse_header(raw[LENGTH_BYTES : LENGTH_BYTES + length], len(raw), "file")
    if b"-0" in raw:  # theirs refuses a zero with a sign, and says so in the corpus
        return
    theirs = dict(safetensors.deserialize(raw))
    assert theirs.keys() == {entry.name for entry in header.entries}
    for entry in header.entries:
        begin, end = header.data_start + entry.begin, header.data_start + entry.end
        assert bytes(theirs[entry.name]["data"]) == raw[begin:end]


def fuzz_index(raw: bytes) -> None:
    """An index, and the files that it names."""
    index = read_index(parse_json_object(raw, "index"), "index")
    for name in shard_names(index, [], "folder"):
        assert ".." not in Path(name).parts
        assert not Path(name).is_absolute()


def fuzz_record(raw: bytes) -> None:
    """What a checkpoint says of its own layouts."""
    record = read_record(parse_json(raw, "manifest"), "manifest")
    assert read_record(record.to_json(), "manifest") == record


def fuzz_metadata(raw: bytes) -> None:
    """The pickle of a DCP."""
    read_metadata(raw, ".metadata")


def seeds(kind: str) -> Iterable[bytes]:
    """Inputs to begin with."""
    if kind == "header":
        sys.path.insert(0, str(TESTS))
        from corpus import CORPUS

        small = [case.raw for case in CORPUS if len(case.raw) < 10_000]
        return [*small, *(raw[LENGTH_BYTES:] for raw in small)]
    if kind == "index":
        return [b'{"metadata": {"total_size": 1}, "weight_map": {"a.b": "x/y.safetensors"}}']
    if kind == "record":
        stacks = b'{"layers.*.": {"layout": "fused", "naming": "qwen"}}'
        head = b'{"version": 1, "form": null, "names": "hub", "layers": "0:2", "stacks": '
        return [head + stacks + b"}"]
    return [pickle.dumps({"a": [1, ("b", 2.5, None, True)]}, protocol) for protocol in range(6)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": fuzz_header,
    "index": fuzz_index,
    "record": fuzz_record,
    "metadata": fuzz_metadata,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of untrusted bytes.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--corpus", type=Path, help="keep what finds new paths in this folder")
    args = parser.parse_args()
    folder = args.corpus or Path(tempfile.mkdtemp(prefix="streamconv-fuzz-"))
    folder.mkdir(exist_ok=True)
    for number, raw in enumerate(seeds(args.target)):
        (folder / f"seed-{number}").write_bytes(raw)

    def one(raw: bytes) -> None:
        try:
            TARGETS[args.target](raw)
        except BadCheckpoint as error:
            assert error.message.isprintable(), repr(error.message)

    limits = [f"-max_total_time={args.seconds}", "-rss_limit_mb=1000", "-timeout=10"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
