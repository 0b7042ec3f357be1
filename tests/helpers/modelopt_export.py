"""Experts as nvidia-modelopt exports them: a script, since importing it takes ten seconds.

    python modelopt_export.py FOLDER

It quantizes the experts of Llama 4 and gpt-oss with ModelOpt, and writes what its exporter makes of
them as `FOLDER/llama4-fp8.safetensors` and so on, and what its tensor classes decode of these as
`FOLDER/llama4-fp8.decoded.safetensors`. Linear layers in FP8 blocks are `FOLDER/blocks...`; what
goes into config.json of them is `FOLDER/blocks.json`.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

HIDDEN, INNER, E = 64, 32, 3
LINEAR = {"q_proj": (256, 384), "o_proj": (200, 300)}
MATRICES = ("gate_up_proj", "down_proj")


def llama4() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_local_experts": E}
    return Llama4TextExperts(Llama4TextConfig(**sizes)), (torch.randn(E * 4, HIDDEN),)


def gpt_oss() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_local_experts": E}
    experts = GptOssExperts(GptOssConfig(**sizes, num_experts_per_tok=2)).eval()
    chosen = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
    return experts, (torch.randn(4, HIDDEN), chosen, torch.full((4, 2), 0.5))


class Layer(nn.Module):
    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.experts(*inputs)


def export(experts: nn.Module, inputs: tuple[torch.Tensor, ...], settings: Any) -> dict[str, Any]:
    """What ModelOpt writes."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export.unified_export_hf import _export_quantized_weight

    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.1)
    half = tuple(each.bfloat16() if each.is_floating_point() else each for each in inputs)
    layer = mtq.quantize(Layer(experts).bfloat16(), settings, lambda model: model(*half))
    for name in MATRICES:
        _export_quantized_weight(layer.experts, torch.bfloat16, name)
    state = layer.experts.state_dict().items()
    return {name: tensor.contiguous() for name, tensor in state if "_quantizer" not in name}


def decode(tensors: dict[str, Any], name: str, kind: str) -> torch.Tensor:
    """What ModelOpt reads, [E, inputs, outputs]."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    codes, scale = tensors[name], tensors[f"{name}_weight_scale"]
    if kind == "fp8":
        return (codes.float() * scale).bfloat16()
    turned = codes.transpose(1, 2).contiguous()
    shape = torch.Size((*turned.shape[:2], turned.shape[2] * 2))
    numbers = NVFP4QTensor(shape, torch.bfloat16, turned).dequantize(
        scale=scale.transpose(1, 2).contiguous(),
        double_scale=tensors[f"{name}_weight_scale_2"],
        block_sizes={-1: 16},
    )
    return numbers.transpose(1, 2).contiguous()


def export_blocks(folder: Path) -> None:
    """Write two linear layers, one of which has no whole number of blocks."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format
    from modelopt.torch.export.quant_utils import get_quant_config
    from modelopt.torch.export.unified_export_hf import _export_quantized_weight
    from modelopt.torch.quantization.qtensor import FP8QTensor

    layers = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in LINEAR.items()})
    layers = mtq.quantize(layers.bfloat16(), mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG)
    config = convert_hf_quant_config_format(get_quant_config(layers))
    (folder / "blocks.json").write_text(json.dumps({"quantization_config": config}))
    tensors, decoded = {}, {}
    for name, layer in layers.items():
        _export_quantized_weight(layer, torch.bfloat16, "weight")
        codes, scale = layer.weight.data.contiguous(), layer.weight_scale
        tensors |= {f"{name}.weight": codes, f"{name}.weight_scale": scale.contiguous()}
        whole = FP8QTensor(codes.shape, torch.bfloat16, codes).dequantize(
            torch.float32,
            scale=scale.reshape(scale.shape[0], scale.shape[2]),
            block_sizes={-1: 128, -2: 128},
        )
        decoded[f"{name}.weight"] = whole.contiguous()
    save_file(tensors, folder / "blocks.safetensors")
    save_file(decoded, folder / "blocks.decoded.safetensors")


def main() -> None:
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq

    folder = Path(sys.argv[1])
    settings = {"fp8": mtq.FP8_DEFAULT_CFG, "nvfp4": mtq.NVFP4_DEFAULT_CFG}
    torch.manual_seed(3)
    export_blocks(folder)
    for family, make in {"llama4": llama4, "gpt-oss": gpt_oss}.items():
        for kind, each in settings.items():
            tensors = export(*make(), each)
            save_file(tensors, folder / f"{family}-{kind}.safetensors")
            decoded = {name: decode(tensors, name, kind) for name in MATRICES}
            save_file(decoded, folder / f"{family}-{kind}.decoded.safetensors")


if __name__ == "__main__":
    main()
