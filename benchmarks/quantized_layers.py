"""Write the experts of one layer as a release has them: true shapes, random codes or numbers.

    python benchmarks/quantized_layers.py int4 FOLDER [--experts N] [--sparse]

The shapes are those of DeepSeek-V3 (`fp8`), Kimi-K2 (`int4`) and gpt-oss-120b (`mxfp4`), and in
BF16 those of the first two (`bf16-deepseek`, `bf16-kimi`).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 1 << 24
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

Row = tuple[str, str, tuple[int, ...], str]
"""Name, dtype, shape, and what is in it."""

WIDTH = {"F8_E4M3": 1, "U8": 1, "BF16": 2, "F32": 4, "I32": 4}
EXPERTS = {"fp8": 256, "int4": 384, "mxfp4": 128, "bf16-deepseek": 256, "bf16-kimi": 384}


def rows_of(kind: str, experts: int) -> Iterator[Row]:
    """Yield the tensors of a layer."""
    stem = "model.layers.3.mlp.experts."
    if kind == "mxfp4":
        for name, rows in (("gate_up_proj", 5760), ("down_proj", 2880)):
            yield f"{stem}{name}_blocks", "U8", (experts, rows, 90, 16), "codes"
            yield f"{stem}{name}_scales", "U8", (experts, rows, 90), "exponents"
            yield f"{stem}{name}_bias", "BF16", (experts, rows), "scales"
        return
    for number in range(experts):
        for name in PROJECTIONS:
            rows, columns = (7168, 2048) if name == "down_proj" else (2048, 7168)
            weight = f"{stem}{number}.{name}.weight"
            if kind.startswith("bf16"):
                yield weight, "BF16", (rows, columns), "numbers"
            elif kind == "fp8":
                yield weight, "F8_E4M3", (rows, columns), "codes"
                yield f"{weight}_scale_inv", "F32", (rows // 128, columns // 128), "scales"
            else:
                yield f"{weight}_packed", "I32", (rows, columns // 8), "codes"
                yield f"{weight}_scale", "BF16", (rows, columns // 32), "scales"
                yield f"{weight}_shape", "I32", (2,), f"{rows} {columns}"


def config_of(kind: str, experts: int) -> dict[str, Any]:
    """Return what config.json says."""
    if kind == "mxfp4":
        quantization: dict[str, Any] = {"quant_method": "mxfp4"}
        return {
            "model_type": "gpt_oss",
            "num_local_experts": experts,
            "quantization_config": quantization,
        }
    if kind.startswith("bf16"):
        return {"model_type": "deepseek_v3", "n_routed_experts": experts}
    if kind == "fp8":
        quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    else:
        weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
        quantization = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }
    return {
        "model_type": "deepseek_v3",
        "n_routed_experts": experts,
        "quantization_config": quantization,
    }


def content(row: Row, draw: np.random.Generator) -> Iterator[bytes]:
    """Yield the bytes of a tensor. Codes are no NaNs, scales are near 0.001."""
    _, dtype, shape, kind = row
    count = math.prod(shape)
    if kind == "scales":
        scales = draw.random(count, np.float32) / 1000 + 0.0005
        if dtype == "BF16":
            yield (scales.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            yield scales.tobytes()
    elif kind == "numbers":
        for begin in range(0, count, CHUNK):
            yield numbers()[: min(CHUNK, count - begin) * 2]
    elif kind == "exponents":
        yield draw.integers(110, 125, count, np.uint8).tobytes()
    elif kind == "codes":
        nbytes = count * WIDTH[dtype]
        for begin in range(0, nbytes, CHUNK):
            codes = np.frombuffer(draw.bytes(min(CHUNK, nbytes - begin)), np.uint8)
            yield (codes & 0xFE if dtype == "F8_E4M3" else codes).tobytes()
    else:
        yield np.array(kind.split(), np.int32).tobytes()


@functools.cache
def numbers() -> bytes:
    """Return CHUNK numbers in BF16. They are drawn once: a layer has 17 billion of them."""
    drawn = np.random.default_rng(1).standard_normal(CHUNK, np.float32) / 50
    return (drawn.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def main() -> None:
    """Write the checkpoint that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(EXPERTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--sparse", action="store_true", help="codes and numbers are holes: zeros")
    arguments = parser.parse_args()
    experts = arguments.experts or EXPERTS[arguments.kind]
    rows = list(rows_of(arguments.kind, experts))
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape, _ in rows:
        begin, end = end, end + math.prod(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    arguments.folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    with (arguments.folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for row in rows:
            if arguments.sparse and row[3] in ("codes", "numbers"):
                file.seek(math.prod(row[2]) * WIDTH[row[1]], 1)
                continue
            for part in content(row, draw):
                file.write(part)
        file.truncate(8 + len(raw) + end)
    config = config_of(arguments.kind, experts)
    (arguments.folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
