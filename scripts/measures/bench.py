"""What all measures share: rows of the result, medians, floors, counted operations, memory."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from shlex import join
from statistics import median
from timeit import repeat, timeit
from typing import Any

import torch
from flwr.app import Context, RecordDict, UserConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from plurallm.config.compose import load_config
from plurallm.config.overrides import hydra_quote
from plurallm.config.schema import Config
from plurallm.data.roles import Roles, assign_roles, count_seen
from plurallm.data.survey import Survey
from plurallm.data.tasks import load_survey
from plurallm.federate.local_data import LocalData, local_data

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
reference: Any = import_module("reference")


@dataclass(frozen=True)
class Row:
    """One line of the result; `ratio` is the median over what it is held against."""

    measure: str
    median: float
    unit: str
    against: str = ""
    ratio: float | None = None
    required: str = ""


@dataclass(frozen=True)
class Bench:
    """What the measures share.

    Attributes
    ----------
    overrides : tuple of str
        Of the run.
    config : Config
        Composed of them.
    local : LocalData
        The run's groups, laid out: with GlobalOpinionQA the 14 of the paper.
    survey : Survey
        All groups.
    everyone : Roles
        Of all groups with enough questions (``data.groups=all``).
    repeats : int
        Runs behind a median.
    stride : int
        The slow form of the evaluation answers every so many-th question.
    quick : bool
        Whether to leave out what takes long.
    flops, bandwidth : float
        Best rates seen on the device: operations and bytes a second.
    host_bandwidth : float
        Bytes a second of the host, for what never is on the device.
    """

    overrides: tuple[str, ...]
    config: Config
    local: LocalData
    survey: Survey
    everyone: Roles
    repeats: int
    stride: int
    quick: bool
    flops: float
    bandwidth: float
    host_bandwidth: float

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.local.table_RD.device

    @property
    def sizes(self) -> list[int]:
        """Numbers of training groups: 8, 32 and all, as far as there are so many."""
        most = len(self.everyone.train)
        return [*(size for size in (8, 32) if size < most), most]

    def with_groups(self, count: int) -> list[str]:
        """Overrides of a run that trains so many groups."""
        if count == len(self.everyone.train):
            return [*self.overrides, "data.groups=all"]
        names = ",".join(map(hydra_quote, self.everyone.train[:count]))
        return [*self.overrides, f"data.train_groups=[{names}]"]


def lay_out(overrides: Sequence[str]) -> LocalData:
    """What a node of all groups holds."""
    run_config: UserConfig = {"overrides": join(overrides)}
    node_config: UserConfig = {"partition-id": 0, "num-partitions": 1}
    return local_data(Context(1, 0, node_config, RecordDict(), run_config))


def make_bench(overrides: list[str], repeats: int, stride: int, quick: bool) -> Bench:
    """Lay the groups out and measure the machine's rates."""
    local = lay_out(overrides)
    config = load_config(overrides, None)
    survey = load_survey(config.data)
    everyone = replace(config, data=replace(config.data, groups="all"))
    device = local.table_RD.device
    square = torch.randn(1024, 1024, device=device)
    product = fastest(device, lambda: square @ square)
    bandwidth = copy_rate(device)
    return Bench(
        tuple(overrides),
        config,
        local,
        survey,
        assign_roles(count_seen(survey, everyone), everyone),
        repeats,
        stride,
        quick,
        2 * 1024**3 / product,
        bandwidth,
        bandwidth if device.type == "cpu" else copy_rate(torch.device("cpu")),
    )


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes at best."""
    source = torch.ones(64 * 1024**2, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(device, lambda: target.copy_(source))


def fastest(device: torch.device, action: Callable[[], object]) -> float:
    """Give the least seconds of some dozen runs, undisturbed."""
    return min(repeat(lambda: synchronized(device, action), number=1, repeat=40))


def synchronized(device: torch.device, action: Callable[[], object]) -> None:
    """Run an action to its end on the device."""
    action()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def medians(bench: Bench, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action; they take turns, so that other work disturbs all alike."""
    timed = [partial(synchronized, bench.device, action) for action in actions]
    runs = [[timeit(action, number=1) for action in timed] for _ in range(bench.repeats)]
    return [median(times) for times in zip(*runs, strict=True)]


def count_flops(action: Callable[[], object]) -> int:
    """Operations of the matrix products of an action."""
    # Counted with the plain attention: the counter does not know the CPU's fused one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        action()
    return int(counter.get_total_flops())


_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches a device: views change nothing but shapes."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += not (func.is_view or func is _UNSAFE_VIEW)
        return func(*args, **(kwargs or {}))


def count_operations(action: Callable[[], object]) -> int:
    """Operations that are dispatched to the device: on a GPU about as many launches."""
    counter = _Operations()  # type: ignore[no-untyped-call]
    with counter:
        action()
    return int(counter.count)


def against_floor(bench: Bench, measure: str, seconds: float, flops: float) -> Row:
    """Hold seconds against matrix products at full rate."""
    floor = flops / bench.flops
    against = (
        f"floor: {show(1e3 * floor)} ms, {flops / 1e9:.3g} GFLOP at {bench.flops / 1e9:,.0f}/s"
    )
    return Row(measure, 1e3 * seconds, "ms", against, seconds / floor)


def against_bytes(measure: str, seconds: float, moved: float, bandwidth: float) -> Row:
    """Hold seconds against bytes moved at the rate of the memory that holds them."""
    floor = moved / bandwidth
    against = f"floor: {show(1e3 * floor)} ms, {show(moved / 1e6)} MB at {bandwidth / 1e9:.3g} GB/s"
    return Row(measure, 1e3 * seconds, "ms", against, seconds / floor)


def in_new_process(measure: Callable[..., float | None], *arguments: object) -> float | None:
    """Measure in a process of its own: memory that others gave back is taken without a trace."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Append the MB that a block takes at most beyond what was taken before it.

    On a GPU what torch has allocated there; on the CPU the process's resident memory, which only
    Linux lets us watch: elsewhere nothing is appended.
    """
    found: list[float] = []
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        taken = torch.accelerator.memory_allocated(device)
        yield found
        found.append((torch.accelerator.max_memory_allocated(device) - taken) / 1e6)
        return
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        yield found
        return
    reset.write_text("5")  # the peak starts anew
    before = megabytes(status, "VmRSS")
    yield found
    found.append(max(0.0, megabytes(status, "VmHWM") - before))


def megabytes(status: Path, key: str) -> float:
    """MB that Linux tells of a process; 0 where it has ended, or on another system."""
    found = re.search(rf"{key}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024e-6 if found else 0.0


def show(value: float | None) -> str:
    """Three digits, or the whole number."""
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
