"""Experts as views: each has the elements that the formula of its layout says."""

import pytest
import torch
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import detect
from streamconv.detection.expert_views import expert_views, is_one_by_one

E, I, H = 3, 6, 10  # noqa: E741 - the sizes as everywhere
MLP = "model.layers.0.mlp."


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    """The place of each element in its tensor."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def by_hand(layout: str, gate_up: torch.Tensor, down: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gate, up and down of all experts, rows of outputs first."""
    if layout == "fused-flat":
        gate_up, down = gate_up.reshape(E, H, 2 * I), down.reshape(E, I, H)
    if layout != "fused":
        gate_up, down = gate_up.mT, down.mT
    if layout == "fused-interleaved":
        return {"gate_proj": gate_up[:, ::2], "up_proj": gate_up[:, 1::2], "down_proj": down}
    return {"gate_proj": gate_up[:, :I], "up_proj": gate_up[:, I:], "down_proj": down}


@pytest.mark.parametrize("layout", ["fused", "fused-transposed", "fused-flat", "fused-interleaved"])
def test_views_are_the_matrices(layout: str) -> None:
    tensors = experts(MLP, E, I, H, layout)
    source = checkpoint_of({**tensors, f"{MLP}gate.weight": ("BF16", (E, H))})
    found = detect(source, default_catalog(), layout)
    (stack,) = found.stacks
    assert not is_one_by_one(stack)
    parts = [numbered(shape) for _, shape in tensors.values()]
    wanted = {
        f"{MLP}experts.{e}.{name}.weight": matrices[e]
        for name, matrices in by_hand(layout, *parts).items()
        for e in range(E)
    }
    views = {info.name: info for info in expert_views(found, stack, stack.modules[0])}
    assert views.keys() == wanted.keys()
    for name, info in views.items():
        assert info.shape == tuple(wanted[name].shape)
        assert info.nbytes == 2 * wanted[name].numel()
        assert info.cast is not None
        assert info.cast.view is not None
        flat = numbered(info.cast.stored.shape).reshape(-1)
        view = info.cast.view
        assert flat.as_strided(info.shape, view.strides, view.start).equal(wanted[name])
        begin, end = view.span(info.shape)
        assert begin <= int(wanted[name].min())
        assert end > int(wanted[name].max())
        assert view.is_contiguous(info.shape) == wanted[name].reshape(-1).diff().eq(1).all()


def test_per_expert_needs_no_views() -> None:
    found = detect(checkpoint_of(experts(MLP, E, I, H)), default_catalog())
    assert all(map(is_one_by_one, found.stacks))
