"""The one place where a device is chosen."""

import torch


def choose_device(name: str) -> torch.device:
    """Pick the device that a configuration names.

    Parameters
    ----------
    name : str
        ``"auto"``, a GPU when there is one, or a name that PyTorch knows.

    Returns
    -------
    torch.device
        It is there.

    Raises
    ------
    ValueError
        When the configured device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name} is not available: {error}") from error
