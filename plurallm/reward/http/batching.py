"""Batches over requests: what waits while the model works goes into one pass."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from plurallm.reward.http.metrics import Metrics

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""From inputs to as many outputs."""


@dataclass(frozen=True)
class _Job:
    key: Hashable
    work: Work
    inputs: Sequence[Any]
    outputs: "asyncio.Future[Sequence[Any]]"


class Batcher:
    """Runs work in one thread, several requests at once.

    A request that finds the model idle is computed immediately; those that arrive meanwhile wait,
    and are computed together. So nothing waits for a timer, and batches grow with the load.

    Parameters
    ----------
    max_inputs : int
        Of a batch.
    metrics : Metrics
        Counts batches.
    """

    def __init__(self, max_inputs: int, metrics: Metrics) -> None:
        self._max_inputs = max_inputs
        self._metrics = metrics
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "reward-model")

    async def run(self, key: Hashable, work: Work, inputs: Sequence[Any]) -> Sequence[Any]:
        """Compute some inputs, together with those of other requests under the same key.

        Parameters
        ----------
        key : hashable
            What may be computed together.
        work : callable
            The same for all requests with this key.
        inputs : sequence
            Computed anew without those of other requests when the batch fails.

        Returns
        -------
        sequence
            One output for each input.

        Raises
        ------
        Exception
            What `work` raises for these inputs alone.
        """
        if not inputs:
            return []
        job = _Job(key, work, inputs, asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(job)
        return await job.outputs

    async def serve(self) -> None:
        """Work until cancelled."""
        while True:
            jobs = [await self._waiting.get()]
            size = len(jobs[0].inputs)
            while not self._waiting.empty() and size < self._max_inputs:
                jobs.append(self._waiting.get_nowait())
                size += len(jobs[-1].inputs)
            for key in dict.fromkeys(job.key for job in jobs):
                await self._compute([job for job in jobs if job.key == key])

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _compute(self, jobs: Sequence[_Job]) -> None:
        inputs = [one for job in jobs for one in job.inputs]
        self._metrics.count_batch(len(jobs), len(inputs))
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._thread, jobs[0].work, inputs)
        except Exception as error:
            if len(jobs) > 1:  # one request must not take the others down
                for job in jobs:
                    await self._compute([job])
            elif not jobs[0].outputs.done():
                jobs[0].outputs.set_exception(error)
            return
        start = 0
        for job in jobs:
            if not job.outputs.done():  # a request given up at shutdown is
                job.outputs.set_result(outputs[start : start + len(job.inputs)])
            start += len(job.inputs)
