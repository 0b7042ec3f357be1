"""The files that a checkpoint may have: what hub repositories hold, and what projects do."""

import pytest

from streamconv.catalog.checkpoint_files import (
    checkpoint_files,
    holds_checkpoint,
    output_files,
)

HUB = [
    ".gitattributes",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "USAGE_POLICY",
    "config.json",
    "configuration.json",
    "generation_config.json",
    "merges.txt",
    "vocab.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tiktoken.model",
    "tekken.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "params.json",
    "model.safetensors",
    "model-00001-of-000163.safetensors",
    "model.safetensors.index.json",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "figures/benchmark.jpg",
    "figures/qwen3.png",
    "original/model.safetensors",
    "original/consolidated.00.pth",
    "original/params.json",
    "metal/model.bin",
    "docs/deploy_guidance.md",
    "hf_quant_config.json",
    "streamconv.json",
    ".mdl",
    ".msc",
    ".cache/huggingface/.gitignore",
    ".cache/huggingface/download/config.json.metadata",
    ".cache/huggingface/download/original/model.safetensors.lock",
    ".metadata",
    "__0_0.distcp",
    "__12_1.distcp",
    "release/.metadata",
    "release/__0_0.distcp",
    "latest_checkpointed_iteration.txt",
]
"""As Qwen3, DeepSeek, Kimi, gpt-oss, Mixtral, Llama 4 and MindSpeed have them."""

OTHERS = [
    "src/main.py",
    "main.py",
    "modeling_x.py",
    "tokenizer.py",
    ".git/config",
    ".gitignore",
    "package.json",
    "Makefile",
    "data.bin",
    "thesis.tex",
    "config.yaml",
    ".env",
    ".hidden",
    "id_rsa",
    "figures/plot.py",
    "original/run.py",
    "original/deep/model.safetensors",
    "iter_0000100/.metadata",
    "iter_0000100/__0_0.distcp",
    "checkpoint-500/config.json",
    "checkpoint-500/model.safetensors",
    "release/iter/.metadata",
    "optimizer.pt",
    "release/notes.txt",
    "figures/data.csv",
    "docs/manual.pdf",
]
"""What a project, a training run, or a home has."""


@pytest.mark.parametrize("name", HUB)
def test_files_of_a_checkpoint(name: str) -> None:
    """And the folders that they are in."""
    assert checkpoint_files().names_file(name)
    folder, slash, _ = name.rpartition("/")
    while slash:
        assert checkpoint_files().names_folder(folder)
        folder, slash, _ = folder.rpartition("/")


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(name: str) -> None:
    assert not checkpoint_files().names_file(name)


@pytest.mark.parametrize("name", ["src", ".git", "iter_0000100", "original/deep", ".ssh", ""])
def test_other_folders(name: str) -> None:
    assert not checkpoint_files().names_folder(name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"config.json", "model.safetensors"}, True),
        ({"config.json", "pytorch_model.bin"}, True),
        ({".metadata", "__0_0.distcp"}, True),
        ({"release/.metadata", "release/__0_0.distcp"}, True),
        ({"config.json"}, False),
        ({"model.safetensors"}, False),
        ({"config.json", "original/model.safetensors"}, False),
        ({"config.json", "data.bin"}, False),
        ({".metadata"}, False),
        (set(), False),
    ],
)
def test_a_folder_that_holds_a_checkpoint(names: set[str], expected: bool) -> None:
    """Config and weights at its top, or a DCP."""
    assert holds_checkpoint(names) == expected


def test_files_that_conversions_write() -> None:
    """In any format; not what they copy."""
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "release/__0_3.distcp"):
        assert output_files().names_file(name)
    for name in ("config.json", "precious", "notes/model.safetensors", "modelx.safetensors"):
        assert not output_files().names_file(name)
