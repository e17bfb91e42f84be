"""Weights out of records: what Flower reads, but faster."""

import numpy as np
import pytest
from flwr.app import Array

from plurallm.federate.messages import read_array, write_array


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (4, 1, 3)])
def test_it_gives_what_flower_gives(dtype: str, shape: tuple[int, ...]) -> None:
    array = Array(np.arange(np.prod(shape), dtype=dtype).reshape(shape))
    assert write_array(array.numpy()) == array
    read, theirs = read_array(array), array.numpy()
    assert read.dtype == theirs.dtype
    assert np.array_equal(read, theirs)
    assert not read.flags.owndata  # it is the message's own memory


def test_other_layouts_are_left_to_flower() -> None:
    columns = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    swapped = np.arange(3, dtype=">f4")
    for values in (columns, columns.T[::2], swapped):
        assert write_array(values) == Array(values)
        assert np.array_equal(read_array(Array(values)), values)


def test_the_data_are_believed_and_not_what_is_said_of_them() -> None:
    data = Array(np.arange(6.0)).data
    lying = Array(dtype="float64", shape=(2, 3), stype="numpy.ndarray", data=data)
    assert read_array(lying).shape == lying.numpy().shape == (6,)


def test_data_that_end_early_are_refused() -> None:
    whole = Array(np.arange(6.0))
    short = Array(dtype="float64", shape=(6,), stype="numpy.ndarray", data=whole.data[:-8])
    with pytest.raises(ValueError, match="buffer"):
        read_array(short)
