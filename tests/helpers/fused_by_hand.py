"""A source and its fused conversion, both written byte by byte. Nothing of the package is used."""

from pathlib import Path

from folders import Tensors, qwen_tensors, two_shards, write_checkpoint

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}
LAYERS = EXPERTS = 3
HIDDEN, INTERMEDIATE = 4, 6


def source_tensors() -> Tensors:
    """Return the tensors of the source, one for each expert."""
    return qwen_tensors(layers=LAYERS, experts=EXPERTS, hidden=HIDDEN, intermediate=INTERMEDIATE)


def fused(tensors: Tensors) -> Tensors:
    """Return the tensors with the experts of each layer fused, by concatenation of their bytes."""
    made = {name: value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(LAYERS):
        module = f"model.layers.{layer}.mlp.experts"
        for name, projections, shape in (
            ("gate_up_proj", ("gate_proj", "up_proj"), (EXPERTS, 2 * INTERMEDIATE, HIDDEN)),
            ("down_proj", ("down_proj",), (EXPERTS, HIDDEN, INTERMEDIATE)),
        ):
            data = [
                tensors[f"{module}.{expert}.{projection}.weight"][2]
                for expert in range(EXPERTS)
                for projection in projections
            ]
            made[f"{module}.{name}"] = "BF16", shape, b"".join(data)
    return made


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Write both; return the source and its conversion."""
    tensors = source_tensors()
    src = write_checkpoint(folder / "src", two_shards(tensors), CONFIG)
    dst = write_checkpoint(folder / "dst", {"model.safetensors": fused(tensors)}, CONFIG, False)
    return src, dst
