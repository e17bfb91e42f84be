"""Weights out of Flower's records, without what reading an ``.npy`` file costs.

A model has a hundred arrays. ``Array.numpy`` parses the header of each as Python source, which
takes longer than all else that is done with a message.
"""

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array


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
    count = int(np.prod(array.shape, dtype=np.int64))
    flat = np.frombuffer(array.data, array.dtype, count, len(header))
    return flat.reshape(array.shape)


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
