"""Names, dtypes and shapes of the tensors that a weight becomes are those of the libraries."""

import pytest
import quantizers
import torch

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.encoding import View
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.quantization.encoded_parts import encoded_parts, name_of_part

DTYPES = {
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}


@pytest.mark.parametrize("shape", [(300, 416), (1, 32), (128, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", quantizers.QUANTIZERS)
def test_parts(kind: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    name, _, scale = kind.partition(" ")
    info = TensorInfo("a.weight", DTYPES[dtype], shape, "", 0, 0)
    parts = encoded_parts(info, encoding_row(name, scale or None), scale or None)
    made = quantizers.QUANTIZERS[kind](torch.ones(shape, dtype=dtype))
    found = {part.name: (part.dtype, part.shape, part.nbytes) for part in parts}
    wanted = {f"a{n}": (DTYPES[t.dtype], tuple(t.shape), t.nbytes) for n, t in made.items()}
    assert found == wanted
    assert parts[0].name == f"a{next(n for n, t in made.items() if t is quantizers.codes_of(made))}"


def test_a_view_stays_one() -> None:
    """And a weight that is cast before is not cast twice."""
    stored = TensorInfo("experts", "BF16", (2, 64, 32), "", 0, 8192)
    view = View(2048, (32, 1))
    cut = stored._replace(name="a.weight", shape=(64, 32), cast=Cast(stored, view=view))
    for part in encoded_parts(cut, encoding_row("mxfp4"), None):
        assert part.cast is not None
        assert (part.cast.stored, part.cast.view) == (stored, view)
    cast = stored._replace(name="b.weight", shape=(64, 32), dtype="F32", cast=Cast(stored))
    for part in encoded_parts(cast, encoding_row("mxfp4"), None):
        assert part.cast is not None
        assert part.cast.stored == cast


@pytest.mark.parametrize(
    ("weight", "word", "name"),
    [
        ("a.weight", "weight", "a.weight"),
        ("a.weight", "weight_packed", "a.weight_packed"),
        ("a.down_proj", "weight_scale", "a.down_proj_scale"),
        ("a.down_proj", "weight_scale_inv", "a.down_proj_scale_inv"),
    ],
)
def test_name_of_part(weight: str, word: str, name: str) -> None:
    assert name_of_part(weight, word) == name
