"""`relay` checks its arguments, reads the config, and passes everything on."""

import json
from pathlib import Path

import pytest
import torch

import streamconv
from streamconv.errors import UsageError

CONFIG = {"model_type": "qwen3_moe", "num_experts": 2}


def pairs() -> list[tuple[str, torch.Tensor]]:
    """The two experts of a layer, of numbers that are all different."""
    shapes = {"gate_proj": (3, 4), "up_proj": (3, 4), "down_proj": (4, 3)}
    names = [f"model.layers.0.mlp.experts.{e}.{p}.weight" for e in range(2) for p in shapes]
    numbers = torch.arange(72.0).reshape(6, 12)
    return [
        (name, row.reshape(shapes[name.split(".")[-2]]))
        for name, row in zip(names, numbers, strict=True)
    ]


def test_tensors_in_another_layout(tmp_path: Path) -> None:
    """The config may be a mapping, or the path of a folder with config.json."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    given = dict(pairs())
    prefix = "model.layers.0.mlp.experts."
    for config in (CONFIG, tmp_path):
        made = dict(streamconv.relay(pairs(), to="fused", config=config))
        assert made.keys() == {f"{prefix}gate_up_proj", f"{prefix}down_proj"}
        for e in range(2):
            gate, up = (given[f"{prefix}{e}.{name}.weight"] for name in ("gate_proj", "up_proj"))
            assert made[f"{prefix}gate_up_proj"][e].equal(torch.cat([gate, up]))
            assert made[f"{prefix}down_proj"][e].equal(given[f"{prefix}{e}.down_proj.weight"])


def test_options_arrive(tmp_path: Path) -> None:
    """Each of them is refused where it is used, before a tensor is taken."""
    for options, said in (
        ({"source": "nothing"}, "no form or layout called 'nothing'"),
        ({"max_open_layers": 0}, "cannot keep 0 layers open"),
        ({"family": tmp_path / "none.toml"}, "cannot read the tables"),
    ):
        with pytest.raises(UsageError, match=said):
            streamconv.relay(iter(()), to="fused", config=CONFIG, **options)


@pytest.mark.parametrize("given", [5, None, len, object(), "text", {"name": torch.zeros(1)}])
def test_what_has_no_pairs(given: object) -> None:
    """Is refused at once, and not where the relay is used."""
    said = r"relay\(\) argument 'named_tensors' must be an iterable of pairs, not "
    with pytest.raises(TypeError, match=said):
        streamconv.relay(given, to="fused", config=CONFIG)  # type: ignore[arg-type]


def test_arguments_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"relay\(\) argument 'views' must be bool, not int"):
        streamconv.relay(pairs(), to="fused", config=CONFIG, views=1)  # type: ignore[arg-type]
