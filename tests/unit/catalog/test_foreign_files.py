"""What people take for a checkpoint: the first kind whose names fit explains it."""

import pytest

from streamconv.catalog.foreign_files import explain


@pytest.mark.parametrize(
    ("names", "kind", "shown"),
    [
        (["model.Q4_K_M.gguf", "readme.md"], "gguf", "model.Q4_K_M.gguf"),
        (["adapter_model.bin", "adapter_config.json"], "adapter", "adapter_config.json"),
        (["pytorch_model-00001-of-00002.bin", "config.json"], "pytorch", "pytorch_model-00001"),
        (["latest", "global_step100", "zero_to_fp32.py", "x.pt"], "deepspeed", "global_step100"),
        (["consolidated.00.pth", "params.json"], "consolidated", "consolidated.00.pth"),
    ],
)
def test_names_that_show_what_it_is(names: list[str], kind: str, shown: str) -> None:
    """An adapter's weights are a pickle too: the narrower kind comes first."""
    found = explain(names)
    assert found is not None
    assert (found[0].name, found[1].startswith(shown)) == (kind, True)


@pytest.mark.parametrize("names", [[], ["config.json", "tokenizer.json"], ["MODEL.GGUF"]])
def test_names_that_show_nothing(names: list[str]) -> None:
    """File names are compared as they are."""
    assert explain(names) is None
