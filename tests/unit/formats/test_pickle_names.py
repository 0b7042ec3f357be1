"""Names that do harm where a pickle is run, as Python's own pickler writes them."""

import importlib
import os
import pickle
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from streamconv.formats.pickle_names import DICTIONARIES, is_damaged, is_harmful


def name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


@pytest.mark.parametrize(
    "function",
    [
        *(os.system, eval, exec, getattr, open, pickle.loads),
        *(shutil.rmtree, subprocess.Popen, importlib.import_module),
    ],
    ids=name_of,
)
def test_functions_that_do_harm(function: Callable[..., Any]) -> None:
    assert is_harmful(name_of(function))


@pytest.mark.parametrize("name", ["__builtin__.eval", "os.popen", "torch.load"])
def test_names_that_do_harm(name: str) -> None:
    """Also those of Python 2, and of packages that need not be installed."""
    assert is_harmful(name)


@pytest.mark.parametrize(
    "kind", [set, slice, range, bytearray, complex, OrderedDict, Fraction], ids=name_of
)
def test_classes_of_values(kind: type) -> None:
    assert not is_harmful(name_of(kind))


@pytest.mark.parametrize("name", ["torch.Size", "osmium.Node", "megatron.core.enums.ModelType"])
def test_names_of_others(name: str) -> None:
    """A module whose name only begins like a harmful one is another."""
    assert not is_harmful(name)


def test_dictionaries_are_named_as_python_names_them() -> None:
    assert name_of(OrderedDict) in DICTIONARIES


def test_names_with_bytes_changed() -> None:
    """Those of other packages are not, nor dtypes, which differ in a digit."""
    admitted = {"torch.uint8", "torch.serialization._get_layout", "pathlib.PosixPath"}
    for name in ("torch.serializathon._get_layout", "torch._erializ.tion._get_layout"):
        assert is_damaged(name, admitted)
    assert is_damaged("pathlib.P\u0491ixPath", {"pathlib.PosixPath"})
    for name in ("torch.uint4", "pathlib.PurePath", "megatron.core.ShardedTensor"):
        assert not is_damaged(name, admitted)
