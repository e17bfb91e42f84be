"""Gaussian noise, and how much of it a guarantee takes."""

import math
import os

import numpy as np
import numpy.typing as npt


def os_normal(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw standard normal noise straight from the operating system's entropy.

    Whoever knew a seed could subtract the noise; so no generator stands in between. The draws are
    floating-point numbers: attacks that read the last bits of such noise (Mironov 2012) are not
    defended against.

    Parameters
    ----------
    shape : tuple of int
        Of the result.

    Returns
    -------
    ndarray, float64
        Independent draws (Box and Muller 1958).
    """
    count = math.prod(shape)
    pairs = (count + 1) // 2
    bits_2N = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64).reshape(2, pairs)
    uniform_2N = ((bits_2N >> np.uint64(11)) + 0.5) / 2.0**53  # inside (0, 1)
    radius_N, angle_N = np.sqrt(-2 * np.log(uniform_2N[0])), 2 * np.pi * uniform_2N[1]
    normal = np.concatenate([radius_N * np.cos(angle_N), radius_N * np.sin(angle_N)])
    return normal[:count].reshape(shape)


def gaussian_delta(scale: float, epsilon: float) -> float:
    """Exact delta of one Gaussian release (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    Parameters
    ----------
    scale : float
        Standard deviation of the noise over the L2 sensitivity, positive.
    epsilon : float
        At least 0, at most 100.

    Returns
    -------
    float
        The smallest delta of an (epsilon, delta) guarantee.

    Examples
    --------
    >>> round(gaussian_delta(scale=1.0, epsilon=1.0), 4)
    0.1269
    """
    return _normal_cdf(0.5 / scale - epsilon * scale) - math.exp(epsilon) * _normal_cdf(
        -0.5 / scale - epsilon * scale
    )


def gaussian_scale(epsilon: float, delta: float) -> float:
    """Smallest ``scale`` of ``gaussian_delta`` that keeps a guarantee.

    Parameters
    ----------
    epsilon : float
        Above 0, at most 100.
    delta : float
        Above 0 and below 1.

    Returns
    -------
    float
        Standard deviation of the noise over the L2 sensitivity, rounded up by at most 1e-9 of it.
    """
    low, high = 1e-3, 1.0
    while gaussian_delta(high, epsilon) > delta:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(middle, epsilon) <= delta else (middle, high)
    return high


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
