"""What a lazy tensor is where Python, numpy or torch take an array: its values, or an error.

`numpy.asarray`, arithmetic with arrays, and `torch.as_tensor` read the whole tensor. Without the
methods here Python would fall back on what holds for any object: each is true, is equal to itself
alone, and is an array of one object.
"""

from collections.abc import Iterator
from numbers import Number
from typing import Any, NoReturn

from streamconv.errors import quoted
from streamconv.lazy.arrays import SAME


class AsArray:
    """The methods by which others take values. A subclass has those that read."""

    @property
    def name(self) -> str:
        """Name of the tensor."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, in elements."""
        raise NotImplementedError

    def get_dtype(self) -> str:
        """Return the dtype in the words of safetensors."""
        raise NotImplementedError

    def read(self) -> Any:
        """Read the whole tensor."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        """Read what an index selects."""
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the values as an array of numpy, for `numpy.asarray`.

        Raises:
            TypeError: numpy has no such dtype.
            ValueError: `copy` is False, but reading makes a copy.
        """
        import numpy as np

        if copy is False:
            raise ValueError(
                f"cannot make an array of {quoted(self.name)} without a copy: it is read"
            )
        self._check_numpy()
        return np.asarray(self.read(), dtype)

    def __dlpack__(self, **options: Any) -> Any:
        """Return the values for `torch.as_tensor` and other libraries.

        Raises TypeError if the framework is numpy, and it has no such dtype.
        """
        values = self.read()
        if type(values).__module__ == "numpy":
            self._check_numpy()
        return values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the number of the CPU."""
        return 1, 0

    def _check_numpy(self) -> None:
        """Raise TypeError if numpy lacks the dtype. Bits in its place would be taken for values."""
        dtype = self.get_dtype()
        if dtype not in SAME:
            raise TypeError(
                f"cannot make an array of {quoted(self.name)}: numpy has no {dtype}; index it, as "
                "in [...], which reads a tensor of torch, or its bits as integers of numpy"
            )

    def __len__(self) -> int:
        """Return the length of the first dimension. Raises TypeError if there is none."""
        if not self.shape:
            raise TypeError(f"cannot take the length of {quoted(self.name)}: it has no dimension")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator that reads row by row. Raises TypeError if there is no dimension."""
        return map(self.__getitem__, range(len(self)))

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"cannot take {quoted(self.name)} for true or false: it has not been read; compare it "
            "with None, or read it"
        )

    def __eq__(self, other: object) -> bool:
        """Return True for the same tensor. Raises TypeError for values: they would all differ."""
        if isinstance(other, Number) or (
            hasattr(other, "shape") and not isinstance(other, AsArray)
        ):
            raise TypeError(
                f"cannot compare {quoted(self.name)} with {type(other).__name__}: it has not been "
                "read; index it, as in [...], and compare what that reads"
            )
        return other is self

    __hash__ = object.__hash__
