"""Adam (arXiv 1412.6980) with fused steps, without what ``torch.optim.Adam`` imports.

The first step of an optimizer of that class imports torch's compiler, 800 modules that nothing here
uses. A node of a deployment has a new process for every message: there the import takes several
times as long as the training. The numbers are the same to the bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam with torch's default betas and epsilon.

    Parameters
    ----------
    parameters : iterable of Tensor
        What is trained.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._first = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._second = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._steps = [
            torch.zeros((), dtype=torch.float32, device=tensor.device)
            for tensor in self._parameters
        ]

    def restart(self) -> None:
        """Forget all steps."""
        for state in (self._first, self._second, self._steps):
            torch._foreach_zero_(state)

    def step(self, rate: float) -> None:
        """Move along the gradients, and clear them.

        Parameters
        ----------
        rate : float
            Learning rate of this step.
        """
        gradients = [tensor.grad for tensor in self._parameters if tensor.grad is not None]
        if len(gradients) < len(self._parameters):
            raise ValueError("a parameter has no gradient")
        with torch.no_grad():
            adam(
                self._parameters,
                gradients,
                self._first,
                self._second,
                [],
                self._steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
        for tensor in self._parameters:
            tensor.grad = None
