"""Measure what a federation costs on this machine: data, learning, whole runs, memory.

A development tool for a checkout: it needs ``tests/``. ``docs/benchmark.md`` explains the rows.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from measures.bench import Bench, Row, make_bench, show
from measures.data import loading, look_up
from measures.federation import aggregation, flower, rounds, start_up
from measures.job import job
from measures.learning import evaluation, together, training_step
from rich import box
from rich.console import Console
from rich.table import Table

from plurallm.config.overrides import hydra_quote

MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "loading": loading,
    "look_up": look_up,
    "evaluation": evaluation,
    "training_step": training_step,
    "together": together,
    "aggregation": aggregation,
    "start_up": start_up,
    "rounds": rounds,
    "flower": flower,
}
"""In the order of the table."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add, extent = parser.add_argument, parser.add_mutually_exclusive_group()
    add("--survey", type=Path, metavar="FILE", help="default: the synthetic survey")
    add("--layout", choices=("globalopinionqa", "custom"), help="of the survey's file")
    add("--width", type=int, help="of the hashed embedding (default 512)")
    add("--embedding", default="hashing", help="another one, such as minilm; it has its own width")
    add("--device", default="auto", help="to compute on (default: a GPU where there is one)")
    add("--threads", default="null", help="to compute with (default: torch's)")
    add("--repeats", type=int, default=5, help="runs behind each median (default 5)")
    add("--only", nargs="+", choices=MEASURES, metavar="MEASURE", help=" ".join(MEASURES))
    extent.add_argument("--quick", action="store_true", help="all measures, in about a minute")
    extent.add_argument("--full", action="store_true", help="the slow form on every question")
    add("--job", action="store_true", help="only the full job, against published")
    add("--json", type=Path, metavar="FILE", help="write the result there too")
    add("--cache", type=Path, metavar="FOLDER", help="embedding tables (default: the user's)")
    options = parser.parse_args()
    if (options.survey is None) != (options.layout is None):
        parser.error("--survey and --layout go together")
    if options.job and options.only:
        parser.error("--job and --only do not go together")
    if options.width is not None and options.embedding != "hashing":
        parser.error("--width is the hashed embedding's")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but is {options.repeats}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")
    overrides = [f"device={options.device}", f"threads={options.threads}"]
    overrides += [f"embedding={options.embedding}"]
    if options.embedding == "hashing":
        overrides += [f"embedding.width={512 if options.width is None else options.width}"]
    if options.survey:
        path = hydra_quote(str(options.survey.absolute()))
        overrides += [f"data={options.layout}", f"data.path={path}"]
    if options.cache:
        overrides += [f"cache_dir={hydra_quote(str(options.cache.absolute()))}"]
    repeats = min(options.repeats, 2) if options.quick else options.repeats
    stride = 1 if options.full else 100 if options.quick else 10
    try:
        bench = make_bench(overrides, repeats, stride, options.quick)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    chosen = [job] if options.job else [MEASURES[name] for name in options.only or MEASURES]
    machine = describe_machine(bench)
    rows: list[Row] = []
    for measure in chosen:
        print(f"{measure.__name__} ...", file=sys.stderr, flush=True)
        rows += measure(bench)
    machine["load"] += f" to {os.getloadavg()[0]:.1f}"
    table = Table(*Row.__annotations__, box=box.MARKDOWN)
    for row in rows:
        table.add_row(
            row.measure, show(row.median), row.unit, row.against, show(row.ratio), row.required
        )
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), table, sep="\n")
    if options.json:
        result = {"machine": machine, "overrides": overrides, "rows": [*map(asdict, rows)]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def device_name(device: torch.device) -> str:
    """What the device calls itself, where it has a name."""
    if device.type != "cuda":
        return str(device)
    return torch.cuda.get_device_name(device)


def describe_machine(bench: Bench) -> dict[str, Any]:
    """What numbers of two runs must share to be compared."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return {
        "cpu": named[1] if named else "unknown",
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
        "device": device_name(bench.device),
        "threads": torch.get_num_threads(),
        "GFLOP/s": round(bench.flops / 1e9),
        "GB/s": round(bench.bandwidth / 1e9, 1),
    }


if __name__ == "__main__":
    main()
