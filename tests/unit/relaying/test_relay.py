"""A relay: what it yields and when, what it holds, and what it refuses."""

import gc
import itertools
import json
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import LAYOUTS

import streamconv
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError

E, WIDE, H = 4, 6, 10
CONFIG: dict[str, Any] = {"model_type": "qwen3_moe", "num_experts": E}
LAYER_BYTES = E * 3 * WIDE * H * 4
Pairs = list[tuple[str, torch.Tensor]]


def experts(layers: int = 1, e: int = E, i: int = WIDE, h: int = H) -> reference.Tensors:
    """Experts one by one, whose values tell them apart."""
    shapes = (("gate_proj", (i, h)), ("up_proj", (i, h)), ("down_proj", (h, i)))
    count = itertools.count()
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight": (
            torch.arange(i * h, dtype=torch.float32).reshape(shape) + i * h * next(count)
        )
        for layer in range(layers)
        for expert in range(e)
        for name, shape in shapes
    }


def in_layout(layout: str, layers: int = 1) -> Pairs:
    return list(reference.to_layout(experts(layers), layout).items())


def relay(pairs: Iterable[tuple[str, torch.Tensor]], to: str, **options: Any) -> streamconv.Relay:
    return streamconv.relay(pairs, to=to, **{"config": CONFIG, **options})


# --- what it yields -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_layout_in_any_order(
    sizes: tuple[int, int, int],
    source: str,
    target: str,
    views: bool,
    turned: bool,
    numbers: random.Random,
) -> None:
    """Two layers that interleave, and tensors that are not contiguous."""
    tensors = experts(2, *sizes)
    emitted = list(reference.to_layout(tensors, source).items())
    numbers.shuffle(emitted)
    if turned:
        emitted = [(n, t.transpose(0, -1).contiguous().transpose(0, -1)) for n, t in emitted]
    made = relay(
        emitted,
        target,
        source=source,
        views=views,
        max_open_layers=2,
        config={"num_experts": sizes[0]},
    )
    wanted = reference.to_layout(tensors, target)
    found = dict(made)
    assert reference.same_bytes(wanted, found) == []
    assert all(views or tensor.is_contiguous() for tensor in found.values())
    assert made.held_bytes == 0


def test_an_output_comes_with_its_last_input() -> None:
    """Experts that are one tensor come at once, though down has not come."""
    fused = dict(in_layout("fused"))
    came: list[str] = []

    def emit() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in fused.items():
            came.append(name)
            yield name, tensor

    order = [(name, len(came)) for name, _ in relay(emit(), "per-expert", source="fused")]
    assert [count for name, count in order if "down" not in name] == [1] * 2 * E
    assert [count for name, count in order if "down" in name] == [2] * E


def test_other_tensors_come_at_once_and_as_they_are() -> None:
    norm, scale = torch.ones(3), torch.nn.Parameter(torch.ones(2, 2))
    pairs: Pairs = [("model.norm.weight", norm), ("lm_head.weight", scale)]
    made = dict(relay(pairs, "per-expert"))
    assert made["model.norm.weight"].data_ptr() == norm.data_ptr()
    assert made["lm_head.weight"].data_ptr() == scale.data_ptr()
    assert not made["lm_head.weight"].requires_grad


def test_the_layout_is_settled_by_both_shapes() -> None:
    """Until down has come, gate and up might be transposed: they wait, and nothing is guessed."""
    (gate_up, down) = in_layout("fused")
    made = relay([gate_up, down], "per-expert")
    names = [next(made)[0]]
    assert "gate_proj" in names[0]
    assert made.peak_bytes == gate_up[1].nbytes
    assert len(names + [name for name, _ in made]) == 3 * E


def test_a_later_layer_needs_no_second_look() -> None:
    """What the first layer has shown holds for the next one: its gate and up do not wait."""
    came: list[str] = []

    def emit() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in in_layout("fused", 2):
            came.append(name)
            yield name, tensor

    counts = {name: len(came) for name, _ in relay(emit(), "per-expert")}
    assert counts["model.layers.1.mlp.experts.0.gate_proj.weight"] == 3


@pytest.mark.parametrize("kind", ["dict", "file", "folder", "transformers"])
def test_every_kind_of_config(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    transformers = pytest.importorskip("transformers")
    config = {
        "dict": CONFIG,
        "file": str(tmp_path / "config.json"),
        "folder": tmp_path,
        "transformers": transformers.Qwen3MoeConfig(num_experts=E),
    }[kind]
    assert len(dict(relay(experts().items(), "fused", config=config))) == 2


def test_a_bias_that_comes_last() -> None:
    """The matrices are yielded when it comes: it belongs to another output."""
    prefix = "model.layers.0.mlp.experts."
    biases = {
        f"{prefix}{e}.{name}.bias": torch.full((size,), float(e))
        for e in range(E)
        for name, size in (("gate_proj", WIDE), ("up_proj", WIDE), ("down_proj", H))
    }
    made = dict(relay([*experts().items(), *biases.items()], "fused"))
    assert len(made) == 4
    wanted = [float(e) for e in range(E) for _ in range(2 * WIDE)]
    assert made[f"{prefix}gate_up_proj_bias"].flatten().tolist() == wanted


def test_the_memory_of_a_tensor_may_be_used_again() -> None:
    """As a trainer does that gathers each tensor into one buffer, even if some have to wait."""
    plain = experts()
    tensors: reference.Tensors = {}
    for number, (name, weight) in enumerate(plain.items()):
        tensors[name] = weight.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.tensor([[float(number)]])
    buffer = torch.empty(WIDE * H * 4, dtype=torch.uint8)

    def emit() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in tensors.items():
            raw = tensor.view(torch.uint8)
            room = buffer[: raw.numel()].view(raw.shape)
            yield name, room.copy_(raw).view(tensor.dtype)

    found = {name: made.clone() for name, made in relay(emit(), "stacked")}
    for name, number in (("gate_proj", 0), ("up_proj", 1), ("down_proj", 2)):
        below = f"model.layers.0.mlp.experts.{name}"
        wanted = torch.arange(number, 3 * E, 3).float().reshape(E, 1, 1)
        assert found[f"{below}_scale_inv"].equal(wanted)
        codes = [tensors[f"model.layers.0.mlp.experts.{e}.{name}.weight"].float() for e in range(E)]
        assert found[below].float().equal(torch.stack(codes))


# --- views, devices and memory ------------------------------------------------------------------


def test_experts_of_a_fused_tensor_are_views_of_it() -> None:
    """With their strides; without `views`, each has memory of its own."""
    for layout in ("fused", "fused-transposed", "fused-interleaved"):
        pairs = in_layout(layout)
        begin, end = pairs[0][1].data_ptr(), pairs[0][1].data_ptr() + pairs[0][1].nbytes
        for views in (False, True):
            made = dict(relay(pairs, "per-expert", source=layout, views=views))
            ups = [tensor for name, tensor in made.items() if "up_proj" in name]
            places = {tensor.data_ptr() for tensor in ups}
            assert len(places) == (E if views else len(places))
            assert all((begin <= place < end) is views for place in places), layout


def test_a_turned_tensor_is_a_view() -> None:
    ((name, down),) = [pair for pair in in_layout("fused") if "down" in pair[0]]
    made = dict(relay(in_layout("fused"), "fused-transposed", source="fused", views=True))
    assert made[name].stride() == (WIDE * H, 1, WIDE)
    assert made[name].equal(down.transpose(1, 2))


class Elsewhere(torch.Tensor):
    """A tensor of another device: only operations of torch reach its elements."""

    elements: torch.Tensor

    @staticmethod
    def __new__(cls, elements: torch.Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            elements.size(),
            strides=elements.stride(),
            storage_offset=elements.storage_offset(),
            dtype=elements.dtype,
            device="cpu:1",
        )
        made.elements = elements
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {})}
        assert kwargs.pop("device", torch.device("cpu:1")) == torch.device("cpu:1")
        plain = [arg.elements if isinstance(arg, cls) else arg for arg in args]
        assert not any(type(arg) is torch.Tensor for arg in args)
        made = func(*plain, **kwargs)
        if func is torch.ops.aten.copy_.default:
            return args[0]
        return cls(made) if isinstance(made, torch.Tensor) else made


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize(("source", "target"), [*itertools.permutations(LAYOUTS[:3], 2)])
def test_no_device_is_assumed(source: str, target: str, views: bool) -> None:
    """On meta, and on a device that nothing leaves, of which torch knows no more than its name."""
    elsewhere = [(name, Elsewhere(tensor)) for name, tensor in in_layout(source)]
    found = dict(relay(elsewhere, target, source=source, views=views))
    assert {str(tensor.device) for tensor in found.values()} == {"cpu:1"}
    plain = {n: t.elements for n, t in found.items() if isinstance(t, Elsewhere)}
    assert reference.same_bytes(dict(in_layout(target)), plain) == []
    on_meta = [(name, tensor.to("meta")) for name, tensor in in_layout(source)]
    assert all(tensor.is_meta for _, tensor in relay(on_meta, target, source=source, views=views))


def test_at_most_one_layer_is_held() -> None:
    """No emitted tensor is kept, and outputs that are not complete take one layer at most."""
    layers = 3
    tensors = experts(layers)
    names = list(tensors)
    kept: list[weakref.ref[torch.Tensor]] = []
    held: list[int] = []

    def emit() -> Iterator[tuple[str, torch.Tensor]]:
        for name in names:
            gc.collect()
            assert [ref for ref in kept if ref() is not None] == []
            held.append(made.held_bytes)
            tensor = tensors.pop(name)
            kept.append(weakref.ref(tensor))
            yield name, tensor
            del tensor

    made = relay(emit(), "fused")
    count = 0
    for _ in made:
        count += 1
    assert count == 2 * layers
    assert max(held) == made.peak_bytes == LAYER_BYTES
    assert held[0] == held[3 * E] == 0


def test_nothing_is_held_if_inputs_are_split() -> None:
    made = relay(in_layout("fused", 3), "per-expert", source="fused")
    for _ in made:
        assert made.held_bytes == 0
    assert made.peak_bytes == 0


def test_closing_drops_what_is_held() -> None:
    made = relay([("model.norm.weight", torch.ones(1)), *experts().items()], "fused")
    next(made)
    made.close()
    assert made.held_bytes == 0
    assert list(made) == []


# --- refusals -----------------------------------------------------------------------------------


def message(pairs: Iterable[Any], to: str = "fused", **options: Any) -> str:
    """What the error says."""
    with pytest.raises((BadCheckpoint, PlanRefused, UsageError)) as caught:
        dict(relay(pairs, to, **options))
    return f"{caught.value.message}; {caught.value.hint}"


def without(*names: str) -> Pairs:
    """One layer without some of its tensors."""
    found = experts()
    return [(name, found[name]) for name in found if not any(each in name for each in names)]


def changed(part: str, tensor: torch.Tensor) -> Pairs:
    """One layer in which a tensor is another one."""
    return [(name, tensor if part in name else own) for name, own in experts().items()]


def test_missing_tensors_are_listed() -> None:
    said = message(without("experts.2.up_proj", "experts.3.down_proj"))
    assert "2 tensors are missing" in said
    for name in ("experts.2.up_proj.weight", "experts.3.down_proj.weight"):
        assert f"model.layers.0.mlp.{name}" in said


def test_experts_without_down_are_missing_it() -> None:
    """Though gate and up were complete, and yielded."""
    said = message(in_layout("fused")[:1], "per-expert", source="fused")
    assert "model.layers.0.mlp.experts.down_proj" in said


def test_a_layout_that_is_not_settled_at_the_end() -> None:
    said = message(in_layout("fused")[:1], "per-expert")
    assert "experts.down_proj" in said
    assert "name the layout of the tensors with `source`: " in said
    assert "fused-transposed" in said


def test_a_layout_is_never_guessed() -> None:
    """Two layouts have these shapes, and nothing tells which: with `source` there is an answer."""
    pairs = in_layout("fused-interleaved")
    said = message(pairs, "per-expert")
    assert "source='fused-transposed'" in said
    assert "source='fused-interleaved'" in said
    assert "--" not in said
    assert len(dict(relay(pairs, "per-expert", source="fused-interleaved"))) == 3 * E


def test_a_tensor_that_comes_twice() -> None:
    """In an open layer, and after it was yielded."""
    pairs = list(experts().items())
    assert "comes twice: as number 1 and as number 3" in message([*pairs[:2], pairs[0]])
    said = message([*pairs, pairs[0]])
    assert f"as number 1 and as number {3 * E + 1}" in said
    assert "begin a new relay" in said


def test_two_spellings_of_one_tensor() -> None:
    pairs = list(experts().items())
    name = pairs[0][0].removesuffix(".weight")
    said = message([*pairs, (name, pairs[0][1])])
    assert name in said
    assert "two spellings" in said


def test_an_expert_too_many() -> None:
    extra = ("model.layers.0.mlp.experts.4.up_proj.weight", torch.zeros(WIDE, H))
    said = message([*experts().items(), extra])
    assert f"unexpected tensor {extra[0]}" in said
    assert f"{3 * E} tensors" in said


def test_wrong_shapes_and_dtypes() -> None:
    said = message(changed("experts.1.gate", torch.zeros(WIDE, H + 1)))
    assert f"[{WIDE}, {H + 1}]" in said
    assert f"[{WIDE}, {H}]" in said
    said = message(changed("experts.1.gate", torch.zeros(WIDE, H, dtype=torch.bfloat16)))
    assert "BF16" in said
    assert "F32" in said
    said = message(changed("experts.0.up", torch.zeros(WIDE, H, dtype=torch.bfloat16)))
    assert "experts.0.up_proj.weight is BF16" in said
    assert "down_proj" in message(changed("down_proj", torch.zeros(H + 1, WIDE)))


def test_layers_that_are_not_alike() -> None:
    other = experts(2, E, WIDE + 1, H)
    pairs = [*experts().items(), *((n, t) for n, t in other.items() if ".1.mlp" in n)]
    said = message(pairs)
    assert f"intermediate {WIDE}," in said
    assert f"intermediate {WIDE + 1}," in said


def test_two_devices_in_one_output() -> None:
    said = message(changed("experts.1.up", torch.zeros(WIDE, H, device="meta")))
    assert "is on meta" in said
    assert "on cpu" in said


def test_too_many_open_layers() -> None:
    """The error names them; with more of them allowed, it works."""
    by_layer: list[Pairs] = [[], []]
    for name, tensor in experts(2).items():
        by_layer[".1.mlp" in name].append((name, tensor))
    pairs = [pair for both in zip(*by_layer, strict=True) for pair in both]
    said = message(pairs)
    assert "model.layers.0" in said
    assert "model.layers.1" in said
    assert "max_open_layers is 1" in said
    made = relay(pairs, "fused", max_open_layers=2)
    assert len(dict(made)) == 4
    assert made.peak_bytes <= 2 * LAYER_BYTES


def test_no_count_of_experts() -> None:
    said = message(experts().items(), config={"model_type": "qwen3_moe"})
    assert "how many experts" in said


def test_what_is_no_pair_of_name_and_tensor() -> None:
    assert "not a pair" in message([1])
    assert "pair of int and Tensor" in message([(1, torch.ones(1))])
    assert "pair of str and list" in message([("a", [1])])
    assert "not dense" in message([("a", torch.eye(3).to_sparse())])
    assert "no such dtype" in message([("a", torch.zeros(1, dtype=torch.complex128))])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "fussed"}, "form or layout called 'fussed'"),
        ({"to": "same"}, "would stay as they are"),
        ({"source": "fussed"}, "form or layout called 'fussed'"),
        ({"to": "mindspeed"}, "no form 'mindspeed'"),
        ({"source": "mindspeed"}, "no form 'mindspeed'"),
        ({"config": 3}, "cannot take a int as the config"),
        ({"config": "/no/such/config.json"}, "cannot read the config"),
        ({"max_open_layers": 0}, "at least 1"),
        ({"config": {"model_type": "ernie4_5_vl_moe"}}, "one list of experts"),
    ],
)
def test_options_are_refused_before_anything_comes(options: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, PlanRefused)) as caught:
        streamconv.relay(iter([]), **{"to": "fused", "config": CONFIG, **options})
    assert said in caught.value.message
    assert "--" not in caught.value.hint


def test_a_layout_that_the_shapes_contradict() -> None:
    said = message(in_layout("fused"), "per-expert", source="fused-flat")
    assert "fused-flat" in said
    assert "--" not in said


@pytest.mark.parametrize("use", [next, streamconv.Relay.close], ids=["next", "close"])
def test_a_relay_that_its_own_input_uses(use: Callable[[streamconv.Relay], object]) -> None:
    """Or another thread, at the same time: it is in the middle of a tensor."""

    def pairs() -> Iterator[tuple[str, torch.Tensor]]:
        yield "model.norm.weight", torch.zeros(2)
        use(made)

    made = relay(pairs(), "fused")
    assert next(made)[0] == "model.norm.weight"
    with pytest.raises(UsageError, match=r"^cannot use the relay: another thread"):
        next(made)
