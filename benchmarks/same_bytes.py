"""Do two versions of the code write the same bytes?

    python benchmarks/same_bytes.py BEFORE AFTER [--work DIR]

BEFORE and AFTER are checkouts. Both convert the demo's checkpoint to every layout, the checkpoint
of every family in the smoke test of BEFORE there and back, and one layer of Qwen3-30B-A3B at its
true size. Every file of every result is compared: shards, index, manifest and the files that are
copied. Ends with code 1 if something differs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LAYOUTS = ("per-expert", "fused", "fused-transposed", "fused-flat", "stacked", "fused-interleaved")
SMOKE = "import sys; from pathlib import Path; from streamconv.smoke import run_smoke; "
SMOKE += "print(len(list(run_smoke(Path(sys.argv[1])))), 'families')"
BOTH_WAYS = """
import sys
from pathlib import Path
import streamconv
from streamconv.options import Options
# versions that copy without being asked do not know this option
copy = {"copy": True} if "copy" in Options.__annotations__ else {}
for source in sorted(Path(sys.argv[1]).iterdir()):
    if source.name.endswith(("-merged", "-again")):
        continue
    try:
        streamconv.merge(source, f"smoke-{source.name}", **copy)
        streamconv.convert(f"smoke-{source.name}", f"smoke-{source.name}-again", to="hub", **copy)
    except streamconv.StreamconvError as error:
        print(f"{source.name}: {error}")
"""
DEMO = "import sys; from pathlib import Path; sys.path.insert(0, 'scripts'); import demo; "
DEMO += "demo.make_checkpoint(Path(sys.argv[1]))"


def main() -> None:
    """Convert with both checkouts and compare what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, help="folder for some 10 GB of files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="same-bytes-", dir=options.work and options.work.resolve()
    ) as work:
        sys.exit(compare(options.before.resolve(), options.after.resolve(), Path(work)))


def compare(before: Path, after: Path, work: Path) -> int:
    """Return 1 if the two checkouts write other bytes, else 0."""
    run(after, work, "-c", DEMO, str(work / "demo"), cwd=after)
    layer = str(work / "layer")
    run(
        after,
        work,
        str(after / "benchmarks/truesize.py"),
        "qwen3-30b-a3b",
        layer,
        "--layers",
        "1",
        *("--random", "--experts-only"),
    )
    (work / "smoke").mkdir()
    run(before, work, "-c", SMOKE, str(work / "smoke"))
    for name, checkout in (("before", before), ("after", after)):
        (work / name).mkdir()
        run(checkout, work / name, "-c", BOTH_WAYS, str(work / "smoke"))
        for layout in LAYOUTS:
            convert(checkout, work / name, work / "demo", f"demo-{layout}", layout)
        for layout in ("fused", "fused-transposed"):
            convert(checkout, work / name, work / "layer", f"layer-{layout}", layout)
            source = work / name / f"layer-{layout}"
            convert(checkout, work / name, source, f"layer-{layout}-again", "hub")
    ours, theirs = tree(work / "after"), tree(work / "before")
    wrong = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    for name in wrong:
        print(f"differs: {name}")
    print(f"{len(ours)} files, {len(wrong)} differ")
    return 1 if wrong else 0


def convert(checkout: Path, folder: Path, source: Path, name: str, to: str) -> None:
    """Convert `source` to a layout or form with the code of one checkout."""
    words = ("-m", "streamconv", "convert", str(source), name, "--to", to, "-q")
    run(checkout, folder, *words, "--max-shard-size", "300MB")


def run(checkout: Path, folder: Path, *words: str, cwd: Path | None = None) -> None:
    """Run Python with the package of one checkout."""
    # as an option, versions that copy without being asked would refuse it
    environment = {**os.environ, "PYTHONPATH": str(checkout), "STREAMCONV_COPY": "1"}
    subprocess.run([sys.executable, *words], cwd=cwd or folder, env=environment, check=True)


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


if __name__ == "__main__":
    main()
