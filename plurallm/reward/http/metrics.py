"""What the server counts, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram in seconds."""


class Metrics:
    """Counters of requests, batches and seconds; touched by the event loop only."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._batches: Counter[str] = Counter()
        self.in_flight = 0

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; `path` is one of the server's, or ``other``."""
        self._requests[path, status] += 1
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def count_batch(self, requests: int, inputs: int) -> None:
        """Count one pass of the model."""
        self._batches.update(batches=1, requests=requests, inputs=inputs)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Write all counters, and some more numbers by name."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Mapping[str, float]) -> Iterator[str]:
        yield "# TYPE plurallm_requests_total counter"
        for (path, status), count in sorted(self._requests.items()):
            yield f'plurallm_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# TYPE plurallm_request_seconds histogram"
        total = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            yield f'plurallm_request_seconds_bucket{{le="{bound}"}} {total}'
        yield f"plurallm_request_seconds_sum {self._seconds}"
        yield f"plurallm_request_seconds_count {total}"
        for name, count in (
            ("batches", self._batches["batches"]),
            ("batched_requests", self._batches["requests"]),
            ("batched_inputs", self._batches["inputs"]),
        ):
            yield f"# TYPE plurallm_{name}_total counter"
            yield f"plurallm_{name}_total {count}"
        for name, value in {"requests_in_flight": self.in_flight, **gauges}.items():
            yield f"# TYPE plurallm_{name} gauge"
            yield f"plurallm_{name} {value}"
