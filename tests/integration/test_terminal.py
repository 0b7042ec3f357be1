"""Whatever text reaches stdout or stderr, a terminal obeys none of it: raw bytes of processes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint
from forked import command_line
from hub_server import Fault, Hub, serving

EVIL = "\x1b[31;5m\x9b2J\u202e\r\n\x07\x7f\u2028streamconv: done"
"""Colors, clears, turns the direction of text around, and looks like a message of its own."""
SHOWN = r"\x1b[31;5m\x9b2J\u202e\r\n\x07\x7f\u2028streamconv: done"
CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}


def printed(*command: object, **environment: str) -> tuple[bytes, bytes]:
    """Stdout and stderr of a process with pipes."""
    done = subprocess.run(
        [os.fsencode(str(word)) for word in command],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
        timeout=120,
    )
    return done.stdout, done.stderr


def on_a_terminal(*command: object, **environment: str) -> bytes:
    """Everything that a process writes to a terminal."""
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [os.fsencode(str(word)) for word in command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(terminal)
    raw = b""
    try:
        while chunk := os.read(reader, 65536):
            raw += chunk
    except OSError:
        pass  # the end of a terminal
    finally:
        process.wait()
        os.close(reader)
    return raw


def assert_harmless(raw: bytes, terminal: bool = False) -> None:
    """Nothing of the planted text stands there as it is; without a terminal, no control at all."""
    text = raw.decode()
    for part in ("\x1b[31;5m", "\x9b", "\u202e", "\x07", "\x7f", "\u2028", "\nstreamconv: done"):
        assert part not in text, text
    if not terminal:
        assert all(char.isprintable() or char == "\n" for char in text), text


STREAMCONV = (sys.executable, "-m", "streamconv")


def said(*words: object) -> tuple[bytes, bytes]:
    """Stdout and stderr of a command line, which are files."""
    done = command_line(*(os.fspath(word) if isinstance(word, Path) else word for word in words))
    return done.stdout, done.stderr


LIBRARY = """
import logging, sys, threading, warnings
evil = {evil!r}
import streamconv
from streamconv.cli import main
early = logging.StreamHandler()  # a library that was imported before, and has its own handler

def inspect(*_, **__):
    logging.getLogger("early").addHandler(early)
    late = logging.getLogger("late")
    late.addHandler(logging.StreamHandler())
    late.propagate = False
    late.warning("log %s", evil)
    logging.getLogger("other").warning("last resort " + evil)
    warnings.warn("warning " + evil)
    print("print " + evil)
    print("print " + evil, file=sys.stderr)
    sys.stderr.writelines(["lines " + evil])
    thread = threading.Thread(target=lambda: 1 / len(evil[:0]), name="thread " + evil)
    thread.start()
    thread.join()
    error = {error}
    error.add_note("note " + evil)
    raise error

streamconv.inspect = inspect
main(["inspect", "x"])
"""
ERRORS = (
    "streamconv.BadCheckpoint('message ' + evil, 'hint ' + evil)",
    "streamconv.Interrupted('message ' + evil, 'hint ' + evil)",
    "RuntimeError('message ' + evil)",
    "OSError(5, 'message ' + evil, 'hint ' + evil)",
)


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("error", ERRORS)
def test_what_libraries_and_errors_print(error: str, debug: str) -> None:
    """Logs, warnings, prints, tracebacks, messages, hints and notes."""
    script = LIBRARY.format(evil=EVIL, error=error)
    command = (sys.executable, "-c", script)
    out, err = printed(*command, STREAMCONV_DEBUG=debug)
    said = err.decode()
    for place in ("log", "last resort", "warning:", "note"):
        assert f"{place} " in said, said
    assert f"note {SHOWN}" in said
    assert f"log {SHOWN}\n" in said
    assert f"warning {SHOWN}\n" in said
    # a print of somebody else keeps its line breaks
    for raw in (out, err):
        assert_harmless(raw.replace(b"\nstreamconv: done", b""))
    raw = on_a_terminal(*command, STREAMCONV_DEBUG=debug)
    assert_harmless(raw.replace(b"\r\nstreamconv: done", b""), terminal=True)
    assert f"note {SHOWN}".encode() in raw


USAGE: tuple[tuple[str, ...], ...] = (
    (EVIL,),
    ("inspect",),
    ("inspect", EVIL),
    ("inspect", "x", EVIL),
    ("merge", f"hf://{EVIL}", "dst"),
    ("merge", f"{EVIL}://x", "dst"),
    ("merge", "src", EVIL, "--resume", f"--{EVIL}"),
    ("merge", "src", "dst", "--part", EVIL),
    ("merge", "src", "dst", "-j", EVIL),
    ("merge", "src", "dst", "--max-memory", EVIL),
    ("merge", "src", "dst", "--max-rate", EVIL),
    ("merge", "src", "dst", "--layers", EVIL),
    ("merge", "src", "dst", "--to", EVIL),
    ("merge", "src", "dst", "--from", EVIL),
    ("merge", "src", "dst", "--format", EVIL),
    ("merge", "src", "dst", "--dtype", EVIL),
    ("merge", "src", "dst", "--preset", EVIL),
    ("merge", "src", "dst", "--family", EVIL),
    ("merge", "src", "dst", "--template", EVIL),
    ("verify", "src", "dst", "--sample", EVIL),
    ("finish", EVIL),
    ("check", EVIL),
)


def test_words_of_the_command_line(tmp_path: Path) -> None:
    """Repeated in a message or not; errors of click's are like all others."""
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    for words in USAGE:
        out, err = said(*(str(src) if word == "src" else word for word in words))
        assert err.startswith((b"streamconv: ", b"Usage: ")), err
        assert b"Traceback" not in err
        assert_harmless(out)
        assert_harmless(err)


def evil_checkpoint(folder: Path) -> Path:
    """Names of tensors, layers, files and the model type that a terminal would obey."""
    tensors = qwen_tensors()
    tensors |= qwen_tensors(prefix=f"{EVIL}.model.")
    tensors |= {EVIL: tensors["model.norm.weight"]}
    write_checkpoint(folder, {"model.safetensors": tensors}, CONFIG, index=False)
    (folder / EVIL).write_text("1")
    return folder


def test_names_in_a_checkpoint(tmp_path: Path) -> None:
    """In tables, plans, notes and verifications, on a terminal and in pipes; JSON says the same."""
    src, dst = evil_checkpoint(tmp_path / "src"), tmp_path / "dst"
    for words in (
        ("inspect", src),
        ("merge", src, dst, "--dry-run", "-v"),
        ("merge", src, dst, "--sha256"),
        ("verify", src, dst, "--sha256"),
        ("verify", dst),
        ("merge", src, dst),
    ):
        out, err = said(*words)
        assert_harmless(out)
        assert_harmless(err)
        assert_harmless(on_a_terminal(*STREAMCONV, *words, "--overwrite"), terminal=True)
    out, _ = said("inspect", src, "--json")
    assert_harmless(out)
    assert repr(EVIL) in repr(json.loads(out))


def test_a_target_of_such_a_name(tmp_path: Path) -> None:
    """In results, notes and progress."""
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    dst = tmp_path / EVIL
    for words in (("merge", src, dst), ("merge", src, dst), ("verify", src, dst), ("verify", dst)):
        out, err = said(*words)
        assert_harmless(out)
        assert_harmless(err)
    assert (dst / "model.safetensors").is_file()
    raw = on_a_terminal(*STREAMCONV, "merge", src, tmp_path / f"{EVIL}2")
    assert_harmless(raw, terminal=True)


def test_what_a_hub_sends(tmp_path: Path) -> None:
    """Warnings that huggingface_hub logs, addresses of redirects, ETags."""
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    evil = "\x1b[31;5m\x9b2J\x07 done"
    faults = (
        Fault(200, {"X-HF-Warning": f"topic; {evil}"}),
        Fault(302, {"Location": f"ftp://x/{evil}"}),
        Fault(302, {"Location": f"/{evil}"}),
        Fault(404, {"X-Error-Code": evil, "X-Error-Message": evil}),
        Fault(403, {"X-Error-Message": evil}),
        Fault(200, {"X-Linked-ETag": evil, "ETag": evil}),
    )
    for fault in faults:
        hub = Hub({"org/name": src}, fault=lambda *_, fault=fault: fault)  # type: ignore[misc]
        with serving(hub):
            environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
            out, err = printed(*STREAMCONV, "inspect", "hf://org/name", **environment)
        assert_harmless(out)
        assert_harmless(err)
