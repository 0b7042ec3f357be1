"""The casts of a plan as rows, and the tensors that are protected from them."""

from streamconv.checkpoint.cast_summary import cast_rows, protected_names
from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.checkpoint.encoding import Encoding, View
from streamconv.checkpoint.types import Cast, TensorInfo


def tensor(name: str, dtype: str, cast: Cast | None = None) -> TensorInfo:
    return TensorInfo(name, dtype, (2,), "", 0, 4, cast)


def test_casts_of_one_pattern_share_a_row() -> None:
    inputs = [
        tensor(f"model.layers.{n}.w", "BF16", Cast(tensor(f"model.layers.{n}.w", "F32")))
        for n in range(3)
    ]
    (row,) = cast_rows([*inputs, tensor("other", "BF16")])
    assert row == {
        "tensors": "model.layers.*.w",
        "from": "F32",
        "to": "BF16",
        "scaled": False,
        "quantized": False,
        "format": None,
        "count": 3,
    }


def test_a_quantized_weight_names_its_format_and_a_view_is_no_cast() -> None:
    encoding = Encoding("fp8-block", None, (1, 2), (1, 2), "BF16", "F32", "codes")
    stored = tensor("w", "BF16")
    inputs = [
        tensor("w", "F8_E4M3", Cast(stored, encoding=encoding)),
        tensor("v", "BF16", Cast(stored, view=View(0, (1,)))),
    ]
    (row,) = cast_rows(inputs)
    assert (row["quantized"], row["format"], row["to"]) == (True, "fp8-block", "F8_E4M3")


def test_protected_tensors_are_those_that_a_cast_would_have_changed() -> None:
    """By kind; neither those that have the dtype already, nor integers."""
    inputs = [
        tensor("model.norm.weight", "F32"),
        tensor("model.layers.0.mlp.gate.weight", "F32"),
        tensor("model.layers.1.mlp.gate.weight", "BF16"),
        tensor("model.counter", "I64"),
    ]
    assert protected_names(inputs, Casting(dtype="BF16")) == {
        "norm": ["model.norm.weight"],
        "router": ["model.layers.0.mlp.gate.weight"],
    }
    assert protected_names(inputs, AS_STORED) == {}
