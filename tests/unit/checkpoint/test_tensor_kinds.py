"""Tensors by the patterns of their names."""

from header_models import checkpoint_of, model

from streamconv.checkpoint.tensor_kinds import TensorKind, tensor_kinds


def test_every_tensor_is_in_one_kind() -> None:
    tensors = checkpoint_of(model(layers=2, e=3)).tensors
    kinds = {kind.pattern: kind for kind in tensor_kinds(tensors.values())}
    assert sum(kind.count for kind in kinds.values()) == len(tensors)
    assert sum(kind.nbytes for kind in kinds.values()) == sum(i.nbytes for i in tensors.values())
    assert kinds["model.layers.*.mlp.experts.*.down_proj.weight"] == TensorKind(
        "model.layers.*.mlp.experts.*.down_proj.weight",
        6,
        (("BF16", 6),),
        (((10, 6), 6),),
        720,
    )


def test_dtypes_and_shapes_are_counted() -> None:
    tensors = checkpoint_of(
        {"a.0.w": ("BF16", (2, 3)), "a.1.w": ("F32", (2, 3)), "a.2.w": ("F32", (4,))}
    ).tensors
    (kind,) = tensor_kinds(tensors.values())
    assert kind.dtypes == (("BF16", 1), ("F32", 2))
    assert kind.shapes == (((2, 3), 2), ((4,), 1))
