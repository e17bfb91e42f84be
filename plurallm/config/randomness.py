"""Seeded generators: every draw of the project is a function of what it is for."""

import hashlib

import torch


def digest_fraction(*parts: object) -> float:
    """Map some identity to a fixed point of [0, 1), the same on every machine.

    Parameters
    ----------
    *parts : object
        What identifies the draw; ``str(part)`` counts.

    Returns
    -------
    float
        Uniform over identities, in [0, 1).

    Examples
    --------
    >>> digest_fraction("question", 1) == digest_fraction("question", 1)
    True
    """
    return _digest(parts) / 2**64


def generator(seed: int, purpose: str, group: str = "", round_number: int = 0) -> torch.Generator:
    """Make the CPU generator of one draw: no draw depends on another one or on their order.

    Parameters
    ----------
    seed : int
        The run's seed.
    purpose : str
        What is drawn, for example ``"episodes"``.
    group : str
        Group the draw belongs to; empty for none.
    round_number : int
        Round the draw belongs to; 0 for none.

    Returns
    -------
    torch.Generator
        A fresh generator on the CPU.
    """
    return torch.Generator().manual_seed(_digest((seed, purpose, group, round_number)) >> 1)


def _digest(parts: tuple[object, ...]) -> int:
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
