"""A script that uses every public name passes `mypy --strict` against the package, and runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv

SCRIPT = '''
"""What a careful user writes."""

import sys
from pathlib import Path

import streamconv

src, place = Path(sys.argv[1]), Path(sys.argv[2])


def show(event: streamconv.Event) -> None:
    """Handle each kind of event."""
    if isinstance(event, streamconv.Planned):
        print(event.plan.data_bytes)
    elif isinstance(event, streamconv.Prepared):
        print(event.left_bytes, sorted(event.finished))
    elif isinstance(event, streamconv.PieceWritten):
        print(event.piece.nbytes + event.piece.offset)
    elif isinstance(event, streamconv.Completed):
        print(event.folder.name)
    elif isinstance(event, streamconv.VerifyStarted):
        print(event.total)
    elif isinstance(event, streamconv.VerifyProgress):
        print(event.where, event.nbytes)
    elif isinstance(event, streamconv.FileVerified):
        print(event.name, event.nbytes, event.total)
    elif isinstance(event, streamconv.HashStarted):
        print(event.total)
    elif isinstance(event, streamconv.HashProgress):
        print(event.nbytes)
    elif isinstance(event, (streamconv.ShareWritten, streamconv.Committed)):
        print("done")


reading: streamconv.Reading = {"source_layout": None, "rename": ["a=b"]}
lazy: streamconv.LazyOptions = {"layers": "0:1"}
options: streamconv.Options = {"max_memory": "1GB", "jobs": 1}
run: streamconv.RunOptions = {"verify": True, "on_event": show, "max_shard_size": 10**9}

inspection: streamconv.Inspection = streamconv.inspect(src)
checkpoint: streamconv.Checkpoint = inspection.checkpoint
tensors: list[streamconv.TensorInfo] = list(checkpoint.tensors.values())
detected: streamconv.Detected = inspection.detected
layouts: dict[str, str] = dict(inspection.layouts)
family: str | None = inspection.family
plan: streamconv.Plan = streamconv.plan(src, to="fused", **options)
peak: int = plan.memory.peak
result: streamconv.Result = streamconv.merge(src, place / "merged", to="fused", **run)
seconds: float = result.seconds
streamconv.split(result.path, place / "split", overwrite=False, resume=False)
streamconv.convert(src, str(place / "converted"), to="stacked", dtype="fp32", on_event=show)
for number in (1, 2):
    part: streamconv.Result = streamconv.merge(src, place / "parts", part=f"{number}/2")
finished: streamconv.Result = streamconv.finish(place / "parts", verify=True, on_event=show)
verification: streamconv.Verification = streamconv.verify(
    src, result.path, sample=0.5, sha256=True, jobs=1, on_event=show
)
differences: tuple[streamconv.Difference, ...] = verification.differences
verified: bool = verification.ok
with streamconv.open(src, to="fused", framework="np", **lazy) as opened:
    model: streamconv.LazyCheckpoint = opened
    for name, tensor in model.items():
        lazy_tensor: streamconv.LazyTensor = tensor
        print(name, tensor.shape, tensor.nbytes, tensor.get_dtype())
    print(model.keys(), model.bytes_read, model.metadata())


def into_a_module() -> streamconv.Loaded:
    """Not called here: it needs torch."""
    import torch

    return streamconv.load(torch.nn.Linear(2, 2), src, to="transformers", strict=False)


def relayed() -> streamconv.Relay:
    """Not called here: it needs torch."""
    return streamconv.relay(iter(()), to="per-expert", config={"model_type": "qwen3_moe"})


def loads() -> bool:
    """Not called here: it needs transformers."""
    loading: streamconv.Loading = streamconv.check(src)
    return loading.is_clean


try:
    streamconv.inspect(place / "nothing", **reading)
except (
    streamconv.UsageError,
    streamconv.SourceChanged,
    streamconv.PlanRefused,
    streamconv.VerifyFailed,
    streamconv.OutputExists,
    streamconv.NoSpace,
    streamconv.RankFailed,
    streamconv.IOFailed,
    streamconv.Interrupted,
):
    raise
except streamconv.NoCheckpoint as error:
    text: str = error.message + error.hint
    code: int = error.exit_code
except streamconv.BadCheckpoint:
    raise
except streamconv.StreamconvError:
    raise
'''
WRONG = {
    "max_mem='1GB'": "call-arg",
    "jobs='2'": "arg-type",
    "to=5": "arg-type",
    "on_event=5": "arg-type",
}
"""Arguments that mypy has to refuse, with the code of its error."""
SETTINGS = """
[mypy]
strict = true
[mypy-streamconv.*]
ignore_errors = true
[mypy-torch.*,numpy.*,transformers.*,huggingface_hub.*,rich.*,click.*,safetensors.*,fsspec.*]
follow_imports = skip
ignore_missing_imports = true
"""
"""The package itself is checked elsewhere, and other packages take minutes to be read."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of the repository, with the script and one of wrong calls."""
    place = tmp_path_factory.mktemp("script")
    (place / "script.py").write_text(SCRIPT)
    calls = "\n".join(f"streamconv.merge('a', 'b', {wrong})" for wrong in WRONG)
    (place / "wrong.py").write_text(f"import streamconv\n\n{calls}\n")
    (place / "mypy.ini").write_text(SETTINGS)
    return place


def test_it_uses_every_public_name() -> None:
    """What is not in it is not checked."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(SCRIPT))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "streamconv"
    }
    assert {*streamconv.__all__} - used == set()


def test_it_is_typed(place: Path) -> None:
    """Without an error; and wrong calls are errors."""
    mypy = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-error-summary"]
    checked = subprocess.run(
        [*mypy, "script.py", "wrong.py"],
        cwd=place,
        env={"MYPYPATH": str(Path(streamconv.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = checked.stdout.splitlines()
    assert [line for line in errors if ": error:" in line and "wrong.py" not in line] == []
    for number, (wrong, code) in enumerate(WRONG.items(), start=3):
        assert any(f"wrong.py:{number}: error:" in e and f"[{code}]" in e for e in errors), wrong


def test_it_runs(place: Path) -> None:
    """What the types promise is there."""
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    src = write_checkpoint(place / "src", two_shards(qwen_tensors()), config)
    done = subprocess.run(
        [sys.executable, "script.py", str(src), str(place)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
