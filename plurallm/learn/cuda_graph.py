"""Steps of stacked groups on a GPU: recorded where shapes come again, then replayed.

A step of a model of this size is hundreds of small kernels, and a host takes several times as long
to launch them one by one as the GPU takes to run them. CUDA launches a recorded step as a whole.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plurallm.learn.episodes import Batch
from plurallm.learn.stacked import Gradients, StackedGroups

MULTIPLE = 128
"""Lengths are padded to a multiple of it: a run of 100 rounds then has about ten shapes."""

Recording = tuple[torch.cuda.CUDAGraph, Batch]
"""What is replayed, and the tensors that it reads."""


class RecordedGroups(StackedGroups):
    """Stacked groups on a GPU that record how a batch is computed.

    Parameters
    ----------
    like : mapping of str to Tensor
        Weights of one group, on a GPU.
    groups : int
        How many.
    gradients : Gradients
        What is recorded. What it reads must stay where it is.
    """

    def __init__(self, like: Mapping[str, Tensor], groups: int, gradients: Gradients) -> None:
        super().__init__(like, groups, gradients)
        self._recorded: dict[tuple[object, ...], Recording | None] = {}
        self._device = self._loss_G.device
        # One stream and one memory for all shapes: one recording at a time is made or replayed.
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle()

    def _add(self, batch: Batch) -> None:
        episode = batch.episode
        shape = (episode.row_P.shape, episode.mask_QO.shape, episode.contexts, episode.start)
        with torch.cuda.device(self._device):
            if shape in self._recorded:
                recording = self._recorded[shape] or self._record(batch)
                self._recorded[shape] = recording
                graph, own = recording
                torch._foreach_copy_(_tensors(own), _tensors(batch))
                graph.replay()
                return
            # Most shapes of a short process, such as a node's for one message, never come again.
            # Libraries set themselves up in this run, too, which could not be recorded.
            self._recorded[shape] = None
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                super()._add(batch)
            torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, batch: Batch) -> Recording:
        """Record a batch's computation on copies of its tensors, which others then replace."""
        copies: dict[str, Any] = {n: part.clone() for n, part in batch.episode.tensors().items()}
        own = Batch(batch.row_B.clone(), replace(batch.episode, **copies))
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a tracker's, may use the GPU meanwhile.
        alone = {"pool": self._memory, "stream": self._stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **alone):  # type: ignore[arg-type]
            super()._add(own)
        return graph, own


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.row_B, *batch.episode.tensors().values()]
