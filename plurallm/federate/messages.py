"""Weights into Flower's records and out of them, without what an ``.npy`` file costs.

A model has a hundred arrays. ``Array.numpy`` parses the header of each as Python source, which
takes longer than all else that is done with a message; making one copies it three times.
"""

import math
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array

_NUMPY = "numpy.ndarray"
"""What an ``Array`` calls the bytes that ``numpy.save`` writes."""


def read_array(array: Array) -> npt.NDArray[Any]:
    """Give what ``Array.numpy`` gives, read-only and without a copy where it can be.

    Parameters
    ----------
    array : Array
        Of a message; what it says of itself need not be true.

    Returns
    -------
    ndarray
        Of the shape and type that the data themselves say.

    Raises
    ------
    ValueError
        When the data are no array, or shorter than they say.
    """
    header = _header(array.dtype, array.shape)
    if not array.data.startswith(header):
        return array.numpy()
    flat = np.frombuffer(array.data, array.dtype, math.prod(array.shape), len(header))
    return flat.reshape(array.shape)


def read_exactly(array: Array) -> npt.NDArray[Any]:
    """Give an array that came from elsewhere, where its data are just what it says of itself.

    Data with a header of their own are not even parsed: they could ask for any amount of memory.

    Parameters
    ----------
    array : Array
        Of a message, as ``write_array`` makes them; its shape and type are those expected.

    Returns
    -------
    ndarray
        Read-only.

    Raises
    ------
    ValueError
        When the data are of another format, shape, type or length.
    """
    header = _header(array.dtype, tuple(array.shape))
    length = len(header) + math.prod(array.shape) * np.dtype(array.dtype).itemsize
    if array.stype != _NUMPY or len(array.data) != length or not array.data.startswith(header):
        raise ValueError("holds other data than it says")
    return read_array(array)


def write_array(values: npt.NDArray[Any]) -> Array:
    """Give what ``Array(values)`` gives, with one copy instead of three.

    Parameters
    ----------
    values : ndarray
        Any.

    Returns
    -------
    Array
        The same bytes.
    """
    if not values.flags.c_contiguous or not values.dtype.isnative:
        return Array(values)
    dtype = type_name(values.dtype)
    header = _header(dtype, values.shape)
    # Seen as bytes; a memoryview alone cannot be where an axis is empty.
    data = b"".join([header, values.reshape(-1).view(np.uint8).data])
    return Array(dtype, values.shape, _NUMPY, data)


@lru_cache(maxsize=64)
def type_name(dtype: np.dtype[Any]) -> str:
    """What an ``Array`` calls a type; numpy takes 7 microseconds to say it."""
    return str(dtype)


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What ``numpy.save`` writes before an array in C order."""
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
