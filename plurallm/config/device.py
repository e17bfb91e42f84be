"""The one place where a device is chosen, and what it takes to send something there."""

import torch
from torch import Tensor


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


def records_steps(device: torch.device) -> bool:
    """Tell whether training steps are recorded there and replayed: only CUDA can."""
    return device.type == "cuda"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to a device, without waiting for the copy where that can be.

    Parameters
    ----------
    tensor : Tensor
        On the host.
    device : torch.device
        Where to.

    Returns
    -------
    Tensor
        On the device; `tensor` itself where that is the host.
    """
    # A GPU reads by itself only what the system cannot move; from other memory the host waits.
    held = torch.cuda.is_available() and device.type != "cpu"
    return (tensor.pin_memory() if held else tensor).to(device, non_blocking=held)
