"""The proximal term of FedProx (arXiv 1812.06127) and of Ditto (arXiv 2012.04221)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Proximal:
    """A pull towards given weights: mu / 2 times the squared distance to them, added to the loss.

    Only its gradient is added, after that of the loss: reported losses stay comparable.

    Attributes
    ----------
    mu : float
        Strength, at least 0.
    weights : mapping of str to Tensor
        Where to, by name.
    """

    mu: float
    weights: Mapping[str, Tensor]

    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """Add mu (w - weights) to the gradient of each parameter.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            With gradients; either shaped like the weights or ``[G, ...]``, one for each group.
        """
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach() - self.weights[name], alpha=self.mu)
