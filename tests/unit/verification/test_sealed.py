"""Whatever a checkpoint says, transformers fetches and imports nothing for it, and ends soon."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, write_checkpoint

KERNELS = """
import pathlib

def note(what):
    with open({log!r}, "a") as file:
        file.write(what + "\\n")

class Anything:
    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) else self
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self
    def __or__(self, other):
        return self

def get_kernel(name, *args, **kwargs):
    note("kernel " + str(name))
    return Anything()

def use_kernelized_func(*functions):
    return lambda kept: kept

use_kernel_forward_from_hub = use_kernel_func_from_hub = use_kernelized_func

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything()
"""

LURE = """
with open({log!r}, "a") as file:
    file.write("import " + __name__ + "\\n")
"""
LURES = ("timm", "bitsandbytes", "optimum", "gptqmodel", "quark", "fla_lure")

CHECK = """
import resource, socket, sys, time

def note(*what):
    with open({log!r}, "a") as file:
        file.write("socket " + repr(what) + "\\n")
    raise OSError("no network")

socket.getaddrinfo = note
socket.socket.connect = note
import torch, transformers
import streamconv
from streamconv.errors import StreamconvError
begin = time.monotonic()
try:
    print("clean" if streamconv.check({folder!r}).is_clean else "not clean")
except StreamconvError as error:
    print(error.exit_code, error.message)
print(time.monotonic() - begin)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def lures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Packages that note that they are imported or asked, and where they note it."""
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    place = tmp_path_factory.mktemp("lures")
    log = place / "log"
    for name in (*LURES, "kernels"):
        package = place / "packages" / name
        package.mkdir(parents=True)
        text = KERNELS if name == "kernels" else LURE
        (package / "__init__.py").write_text(text.replace("{log!r}", repr(str(log))))
        info = place / "packages" / f"{name}-99.0.dist-info"
        info.mkdir()
        version = KERNELS_MIN_VERSION if name == "kernels" else "99.0"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return place / "packages", log


def checked(folder: Path, lures: tuple[Path, Path]) -> tuple[str, float, int, str]:
    """What `check` says in a process with lures, its seconds, its megabytes, and what was noted."""
    packages, log = lures
    log.unlink(missing_ok=True)
    path = os.pathsep.join([str(packages), *filter(None, sys.path)])
    code = CHECK.format(log=str(log), folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    assert done.returncode == 0, done.stderr
    said, seconds, megabytes = done.stdout.strip().splitlines()[-3:]
    noted = log.read_text() if log.exists() else ""
    return said, float(seconds), int(megabytes), noted


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "num_experts": 12,
    "num_experts_per_tok": 2,
}


def with_config(folder: Path, **config: Any) -> Path:
    return write_checkpoint(
        folder, {"a.safetensors": qwen_tensors()}, {"model_type": "qwen3_moe", **SIZES, **config}
    )


NAMED = "someone/kernel"
DOORS: dict[str, dict[str, Any]] = {
    **{
        f"{key} = {value}": {key: value}
        for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
        for value in (NAMED, f"paged|{NAMED}", f"{NAMED}:function", f"{NAMED}@main:function")
    },
    "by name of each part": {"attn_implementation": {"": NAMED}},
    "flash attention": {"attn_implementation": "flash_attention_2"},
    "experts": {"experts_implementation": NAMED, "_experts_implementation": "sonicmoe"},
    "kernel config": {"kernel_config": {"kernel_mapping": {"RMSNorm": f"{NAMED}:RMSNorm"}}},
    "timm": {"use_timm_backbone": True, "backbone": "hf-hub:someone/model"},
    "backbone": {"backbone": NAMED, "use_timm_backbone": False, "use_pretrained_backbone": True},
    "auto map": {"auto_map": {"AutoModelForCausalLM": f"{NAMED}--code.Model"}},
    "name or path": {"_name_or_path": NAMED, "name_or_path": NAMED},
    "a class that is no model": {"architectures": ["Trainer", "pipeline"]},
    "dtype": {"torch_dtype": "hub", "dtype": "onnx"},
    **{
        f"quantized by {method}": {"quantization_config": {"quant_method": method, **more}}
        for method, more in {
            "bitsandbytes": {"load_in_4bit": True},
            "gptq": {"bits": 4},
            "quark": {},
            "eetq": {},
            "mxfp4": {},
        }.items()
    },
}


def test_nothing_is_fetched_or_imported(tmp_path: Path, lures: tuple[Path, Path]) -> None:
    """All doors in one process each way: only what is noted counts, not what is said."""
    folders = [with_config(tmp_path / str(k), **config) for k, config in enumerate(DOORS.values())]
    nested = {"vision_config": {}, "model_type": "qwen3_vl_moe"}
    text = {"attn_implementation": NAMED, "_attn_implementation": f"paged|{NAMED}", **SIZES}
    folders.append(with_config(tmp_path / "nested", text_config=text, **nested))
    packages, log = lures
    log.unlink(missing_ok=True)
    path = os.pathsep.join([str(packages), *filter(None, sys.path)])
    calls = CHECK[: CHECK.index("begin =")] + (
        "for folder in {folder!r}:\n"
        "    try:\n        streamconv.check(folder)\n"
        "    except StreamconvError as error:\n        print(error.message)\n"
    )
    code = calls.format(log=str(log), folder=[str(folder) for folder in folders])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    assert "timm" in done.stdout
    assert "quantized by" in done.stdout


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ({"num_hidden_layers": 200_000}, "num_hidden_layers"),
        ({"num_labels": 10**8}, "num_labels"),
        ({"num_experts": 10**9}, "num_experts"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"text_config": {"vision": [{"num_layers": 10**7}]}}, "num_layers"),
        ({"max_position_embeddings": 10**10}, "max_position_embeddings"),
    ],
    ids=str,
)
def test_sizes_that_no_tensor_shows(config: dict[str, Any], fact: str, tmp_path: Path) -> None:
    """One line that names the key and both facts, before transformers sees it."""
    import streamconv
    from streamconv.errors import BadCheckpoint

    with pytest.raises(BadCheckpoint, match=f"{fact} = .*, its tensors show no more than"):
        streamconv.check(with_config(tmp_path / "it", **config))


def test_deep_nesting(tmp_path: Path) -> None:
    """Is refused at a depth that no config has."""
    import streamconv
    from streamconv.errors import BadCheckpoint

    deep: Any = 1
    for _ in range(60):
        deep = {"text_config": deep}
    with pytest.raises(BadCheckpoint, match="deeper than 32"):
        streamconv.check(with_config(tmp_path / "it", text_config=deep))


def test_what_is_just_allowed_takes_little(tmp_path: Path, lures: tuple[Path, Path]) -> None:
    """The largest numbers that the headers leave room for, all at once."""
    config = {"num_hidden_layers": 256, "num_experts": 4096, "num_labels": 4096}
    folder = with_config(tmp_path / "it", **config, vocab_size=2**20)
    _, seconds, megabytes, noted = checked(folder, lures)
    assert noted == ""
    assert seconds < 100
    assert megabytes < 3000


ENDLESS = """
import re, signal, time, transformers
from streamconv.verification import sealed
sealed.MAX_SECONDS = 0.5
try:
    with sealed.sealed(10):
        re.match("(a+)+$", "a" * 60 + "!")
except sealed.Refused as error:
    print(error)
print(signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL))
"""


def test_a_pattern_that_is_matched_for_ever() -> None:
    """A config has patterns of names; matching one can take longer than anybody waits."""
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout == (
        "transformers takes more than 0.5 seconds for this checkpoint\n0 (0.0, 0.0)\n"
    )


def test_a_network_is_refused_whatever_asks() -> None:
    """Sockets and other packages, and all is as it was afterwards."""
    import importlib
    import socket

    from streamconv.verification.sealed import Refused, sealed

    before = (socket.getaddrinfo, socket.socket.connect, list(sys.meta_path))
    with sealed(10):
        with pytest.raises(Refused):
            socket.create_connection(("localhost", 9))
        with socket.socket() as one, pytest.raises(Refused):
            one.connect(("localhost", 9))
        with pytest.raises(Refused, match="some_package_of_others"):
            importlib.import_module("some_package_of_others")
        assert importlib.util.find_spec("some_package_of_others") is None
        import torch

        with pytest.raises(Refused, match="more than 10 parameters"):
            torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(6))
    assert before == (socket.getaddrinfo, socket.socket.connect, list(sys.meta_path))
