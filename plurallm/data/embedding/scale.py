"""The length of a vector: the same for all.

Dimension letters: ``R`` rows, ``D`` embedding width.
"""

import numpy as np
import numpy.typing as npt


def unit_mean_square(table_RD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale each row to mean square 1, which the network is built for.

    The direction counts, the length does not: sentence models give length 1, causal language models
    whatever their last normalisation does.

    Parameters
    ----------
    table_RD : ndarray of shape (R, D), float32
        Vectors of any length; of length 0 they give NaN.

    Returns
    -------
    ndarray of shape (R, D), float32

    Examples
    --------
    >>> unit_mean_square(np.array([[3, 4]], dtype=np.float32)) ** 2
    array([[0.72, 1.28]], dtype=float32)
    """
    with np.errstate(invalid="ignore"):
        scaled_RD: npt.NDArray[np.float32] = table_RD / np.sqrt(
            np.square(table_RD).mean(axis=1, keepdims=True)
        )
    return scaled_RD
