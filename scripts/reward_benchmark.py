"""Measure the reward server: throughput and latency by number of clients, next to direct calls.

It starts ``plurallm serve`` on a free port of loopback. Clients send OpenRLHF requests of one
sample each, as OpenRLHF does, over kept connections, each waiting for its reply before the next.
Direct calls score the same samples in this process, in batches of the same number.

    python scripts/reward_benchmark.py BUNDLE
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from plurallm.reward import Item, PreferenceRewardModel, Scorer

CLIENTS = (1, 16, 64)
OPTIONS = ("Very good", "Somewhat good", "Somewhat bad", "Very bad")


def samples(groups: Sequence[str], count: int) -> list[Item]:
    """Distributions that a policy might write, of 32 questions; every fourth cannot be parsed."""
    answers = ("[0.1, 0.4, 0.3, 0.2]", "A: 25%\nB: 25%\nC: 25%\nD: 25%", "[0, 0, 0, 1]", "?")
    return [
        Item(answers[n % 4], f"How is topic {n % 32} doing?", OPTIONS, groups[n % len(groups)])
        for n in range(count)
    ]


def request_body(item: Item) -> bytes:
    """One sample as OpenRLHF sends it."""
    label = {"question": item.question, "options": item.options, "group": item.group}
    sent = {"query": ["Q" + item.completion], "prompts": ["Q"], "labels": [json.dumps(label)]}
    return json.dumps(sent).encode()


def client(port: int, bodies: Sequence[bytes]) -> list[float]:
    """Send requests one after the other; seconds of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    seconds = []
    for body in bodies:
        started = time.perf_counter()
        connection.request("POST", "/get_reward", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        seconds.append(time.perf_counter() - started)
        if reply.status != 200 or len(json.loads(content)["rewards"]) != 1:
            raise RuntimeError(f"the server answered {reply.status}: {content[:200]!r}")
    connection.close()
    return seconds


def over_http(port: int, items: Sequence[Item], clients: int) -> tuple[float, list[float]]:
    """Requests a second, and the seconds of each request, of so many clients at once."""
    bodies = [request_body(item) for item in items]
    with ThreadPoolExecutor(clients) as threads:
        started = time.perf_counter()
        shares = [bodies[n::clients] for n in range(clients)]
        seconds = [s for own in threads.map(client, [port] * clients, shares) for s in own]
        return len(items) / (time.perf_counter() - started), seconds


def directly(scorer: Scorer, items: Sequence[Item], batch: int) -> tuple[float, list[float]]:
    """Items a second, and the seconds of each call with a batch of items."""
    seconds = []
    for start in range(0, len(items), batch):
        started = time.perf_counter()
        scorer.score(items[start : start + batch])
        seconds.append(time.perf_counter() - started)
    return len(items) / sum(seconds), seconds


def quantile(seconds: Sequence[float], level: float) -> str:
    """A quantile in milliseconds."""
    return f"{1e3 * sorted(seconds)[min(len(seconds) - 1, int(level * len(seconds)))]:.1f}"


def start_server(bundle: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from plurallm.cli import main; main()", "serve", str(bundle)]
    process = subprocess.Popen([*command, f"port={port}", "threads=1", "device=cpu"])
    while process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return process, port
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server ended before it answered")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="folder with at least one released context")
    parser.add_argument("--requests", type=int, default=2000, help="for each row (default 2000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scorer = Scorer(PreferenceRewardModel.from_pretrained(options.bundle))
    items = samples(scorer.groups, options.requests)
    process, port = start_server(options.bundle)
    table = Table("clients or batch", "way", "samples/s", "p50 ms", "p99 ms", box=box.MARKDOWN)
    try:
        over_http(port, items[:64], 4)  # texts are embedded, connections warmed up
        scorer.score(items[:64])
        for count in CLIENTS:
            for way, (rate, seconds) in (
                ("HTTP", over_http(port, items, count)),
                ("direct", directly(scorer, items, count)),
            ):
                row = (f"{rate:,.0f}", quantile(seconds, 0.5), quantile(seconds, 0.99))
                table.add_row(str(count), way, *row)
    finally:
        process.terminate()
        process.wait(30)
    load = os.getloadavg()[0]
    console = Console(width=120)
    console.print(f"{os.cpu_count()} cores, load {load:.1f} while measuring; one thread computes.")
    console.print(table)


if __name__ == "__main__":
    main()
