"""Weights of several groups, stacked, and the gradients that their batches give them.

Dimension letters: ``G`` groups, ``B`` groups of one computation.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from plurallm.learn.adam import Adam
from plurallm.learn.episodes import Batch

Gradients = Callable[[dict[str, Tensor], Batch], tuple[Tensor, Sequence[Tensor]]]
"""Losses (B,) of a batch, and gradients of weights that are stacked ``[B, ...]``."""


class StackedGroups:
    """Weights of several groups, with what computes their gradients.

    Parameters
    ----------
    like : mapping of str to Tensor
        Weights of one group.
    groups : int
        ``G``.
    gradients : Gradients
        Of a batch.

    Attributes
    ----------
    weights : dict of str to Tensor of shape (G, ...)
        They stay in place, as do gradients and losses.
    optimizer : Adam
        Theirs.
    """

    def __init__(self, like: Mapping[str, Tensor], groups: int, gradients: Gradients) -> None:
        self.weights = {
            name: weight.new_zeros(groups, *weight.shape) for name, weight in like.items()
        }
        self.optimizer = Adam(self.weights.values())
        # Laid out like the weights, which gradients need not be: the fused Adam takes no others.
        self._gradient = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self._loss_G = next(iter(like.values())).new_zeros(groups)
        self._compute = gradients

    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin a round from weights that all groups share, or each group's, of shape (G, ...)."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name].detach())
        self.optimizer.restart()

    def result(self) -> dict[str, Tensor]:
        """Each group's weights: copies, which the next round leaves alone."""
        copies = {name: torch.empty_like(weight) for name, weight in self.weights.items()}
        torch._foreach_copy_(list(copies.values()), list(self.weights.values()))
        return copies

    def add_gradients(self, step: Sequence[Batch]) -> Tensor:
        """Give each group's weights their gradient.

        Parameters
        ----------
        step : sequence of Batch
            Together an episode of every group.

        Returns
        -------
        Tensor of shape (G,)
            The groups' losses.
        """
        for batch in step:
            self._add(batch)
        for name, weight in self.weights.items():
            weight.grad = self._gradient[name]
        return self._loss_G.clone()

    def _add(self, batch: Batch) -> None:
        """Compute losses and gradients of a batch's groups."""
        row_B = batch.row_B
        if len(row_B) == len(self._loss_G):  # all groups, in their order
            own = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
            loss_G, gradients = self._compute(own, batch)
            torch._foreach_copy_([self._loss_G, *self._gradient.values()], [loss_G, *gradients])
            return
        own = {name: weight[row_B].requires_grad_() for name, weight in self.weights.items()}
        loss_B, gradients = self._compute(own, batch)
        self._loss_G.index_copy_(0, row_B, loss_B)
        for whole, part in zip(self._gradient.values(), gradients, strict=True):
            whole.index_copy_(0, row_B, part)
