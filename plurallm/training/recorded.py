"""Steps of stacked groups on a GPU: recorded where shapes come again, then replayed.

A step of a model of this size is hundreds of small kernels, and a host takes several times as long
to launch them one by one as the GPU takes to run them. CUDA launches a recorded step as a whole.

Dimension letters: ``G`` groups, ``B`` groups of one computation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plurallm.training.adam import Adam
from plurallm.training.episodes import Batch

MULTIPLE = 128
"""Lengths are padded to a multiple of it: a run of 100 rounds then has about ten shapes."""

Gradients = Callable[[dict[str, Tensor], Batch], tuple[Tensor, Sequence[Tensor]]]
"""Losses (B,) of a batch, and gradients of weights that are stacked ``[B, ...]``."""

Recording = tuple[torch.cuda.CUDAGraph, Batch]
"""What is replayed, and the tensors that it reads."""


class RecordedGroups:
    """Weights of several groups, with what computes their gradients.

    Parameters
    ----------
    like : mapping of str to Tensor
        Weights of one group, on a GPU.
    groups : int
        ``G``.
    gradients : Gradients
        What is recorded. What it reads must stay where it is.

    Attributes
    ----------
    weights : dict of str to Tensor of shape (G, ...)
        They stay in place: what is recorded reads them there.
    optimizer : Adam
        Theirs.
    """

    def __init__(self, like: Mapping[str, Tensor], groups: int, gradients: Gradients) -> None:
        self.weights = {
            name: weight.new_zeros(groups, *weight.shape) for name, weight in like.items()
        }
        self.optimizer = Adam(self.weights.values())
        self._gradient = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self._loss_G = next(iter(like.values())).new_zeros(groups)
        self._compute = gradients
        self._recorded: dict[tuple[object, ...], Recording | None] = {}
        self._device = self._loss_G.device
        # One stream and one memory for all shapes: one recording at a time is made or replayed.
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle()

    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin a round from each group's weights, of shape (G, ...)."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
        self.optimizer.restart()

    def result(self) -> dict[str, Tensor]:
        """Each group's weights: copies, which the next round leaves alone."""
        return {name: weight.clone() for name, weight in self.weights.items()}

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
        with torch.cuda.device(self._device):
            for batch in step:
                self._add(batch)
        for name, weight in self.weights.items():
            weight.grad = self._gradient[name]
        return self._loss_G.clone()

    def _add(self, batch: Batch) -> None:
        episode = batch.episode
        shape = (episode.row_P.shape, episode.mask_QO.shape, episode.contexts, episode.start)
        if shape not in self._recorded:
            # Most shapes of a short process, such as a node's for one message, never come again.
            # Libraries set themselves up in this run, too, which could not be recorded.
            self._recorded[shape] = None
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._run(batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        recording = self._recorded[shape] or self._record(batch)
        self._recorded[shape] = recording
        graph, own = recording
        torch._foreach_copy_(_tensors(own), _tensors(batch))
        graph.replay()

    def _record(self, batch: Batch) -> Recording:
        """Record a batch's computation on copies of its tensors, which others then replace."""
        copies: dict[str, Any] = {n: part.clone() for n, part in batch.episode.tensors().items()}
        own = Batch(batch.row_B.clone(), replace(batch.episode, **copies))
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a tracker's, may use the GPU meanwhile.
        alone = {"pool": self._memory, "stream": self._stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **alone):  # type: ignore[arg-type]
            self._run(own)
        return graph, own

    def _run(self, batch: Batch) -> None:
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


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.row_B, *batch.episode.tensors().values()]
