"""A trial that loads one layer of each kind says what transformers says of all layers."""

from collections.abc import Callable
from dataclasses import replace

import checkpoints
import pytest

from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.sources.safetensors_folder import open_folder
from streamconv.verification import transformers_load
from streamconv.verification.alike_layers import keys_like, layers_like_others
from streamconv.verification.transformers_load import Loading, check_loading

LAYERS = 5
Tensors = dict[str, TensorInfo]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Qwen3-MoE with several layers, all alike."""
    folder = checkpoints.qwen3_moe(
        tmp_path_factory.mktemp("alike") / "it", layers=LAYERS, experts=3, shard_size="5MB"
    )
    return open_folder(str(folder)).checkpoint


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tensors in each call of transformers' loader."""
    counts = []
    load = transformers_load._empty_tensor

    def counted(info: TensorInfo) -> object:
        counts.append(len(info.name))
        return load(info)

    monkeypatch.setattr(transformers_load, "_empty_tensor", counted)
    return counts


def of_all_layers(checkpoint: Checkpoint) -> Loading:
    """What transformers says if it gets every tensor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_load, "layers_like_others", lambda *_: {})
        return check_loading(checkpoint)


def test_one_layer_of_each_kind_is_loaded(qwen: Checkpoint, loaded: list[int]) -> None:
    found = check_loading(qwen)
    few = len(loaded)
    assert found.is_clean
    assert found == of_all_layers(qwen)
    in_layer = sum(name.startswith("model.layers.0.") for name in qwen.tensors)
    assert len(loaded) - few == len(qwen.tensors)
    assert few == len(qwen.tensors) - (LAYERS - 1) * in_layer


def rename(old: str, new: str) -> Callable[[Tensors, str], None]:
    def edit(tensors: Tensors, layer: str) -> None:
        info = tensors.pop(f"{layer}{old}")
        name = f"{layer}{new}"
        tensors[name] = info._replace(name=name)

    return edit


def reshape(tensors: Tensors, layer: str) -> None:
    name = f"{layer}self_attn.q_proj.weight"
    tensors[name] = tensors[name]._replace(shape=(3, 4), nbytes=24)


def zero_before_number(tensors: Tensors, layer: str) -> None:
    name = f"{layer}input_layernorm.weight"
    path, number, rest = layer[: -len(layer.split(".")[-2]) - 1], layer.split(".")[-2], name
    wrong = f"{path}0{number}.{rest[len(layer) :]}"
    tensors[wrong] = tensors.pop(name)._replace(name=wrong)


DAMAGE: dict[str, Callable[[Tensors, str], object]] = {
    "missing": lambda tensors, layer: tensors.pop(f"{layer}mlp.gate.weight"),
    "misspelt": rename("self_attn.k_proj.weight", "self_attn.k_proj.weights"),
    "an expert is missing": lambda tensors, layer: tensors.pop(
        f"{layer}mlp.experts.1.up_proj.weight"
    ),
    "an expert is misspelt": rename("mlp.experts.2.up_proj.weight", "mlp.experts.2.upp.weight"),
    "another shape": reshape,
    "a zero before the number": zero_before_number,
}


@pytest.mark.parametrize("layer", [0, 2, LAYERS - 1])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_in_any_layer_is_found(qwen: Checkpoint, kind: str, layer: int) -> None:
    """And named as it is if transformers gets every tensor."""
    tensors = dict(qwen.tensors)
    DAMAGE[kind](tensors, f"model.layers.{layer}.")
    damaged = replace(qwen, tensors=tensors)
    found = check_loading(damaged)
    assert not found.is_clean
    assert found == of_all_layers(damaged)


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_same_damage_in_all_layers_is_found_in_each(qwen: Checkpoint, kind: str) -> None:
    tensors = dict(qwen.tensors)
    for layer in range(LAYERS):
        DAMAGE[kind](tensors, f"model.layers.{layer}.")
    damaged = replace(qwen, tensors=tensors)
    found = check_loading(damaged)
    assert not found.is_clean
    assert found == of_all_layers(damaged)


def test_layers_are_alike_if_checkpoint_and_model_are() -> None:
    """Those that the model lacks are like no other."""
    shapes = {0: 1, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}
    tensors = [
        TensorInfo(f"layers.{k}.a", "BF16", (size,), "f", 0, 2) for k, size in shapes.items()
    ]
    keys = [(f"model.layers.{k}.a", "F32", (k // 3,)) for k in range(5)]
    assert layers_like_others(tensors, keys) == {2: 1, 4: 3}
    assert sorted(keys_like(["a.1.b.1.c", "a.3.b", "d"], {2: 1, 7: 1})) == [
        "a.2.b.1.c",
        "a.7.b.1.c",
    ]
