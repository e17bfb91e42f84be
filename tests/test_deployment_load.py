"""Deployments of real processes under load: nodes whose clients stand still, and many nodes.

Each test bounds its own memory and says what it saw (``pytest -s``).
"""

import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

import psutil
import pytest
from local_deployment import SMALL, LocalDeployment, write_surveys

pytestmark = pytest.mark.slow

LONG = 1500.0  # seconds; only a machine with much else to do comes near it
MOST_BYTES = 8 * 2**30
NODE_PROCESSES = 3  # the node's own, SuperNode, SuperExec


class Sampler(threading.Thread):
    """Looks at a deployment's processes twice a second, and ends them where memory runs out."""

    def __init__(self, folder, stall=lambda: False):
        super().__init__(daemon=True)
        self.folder, self.stall = str(folder), stall
        self.clients, self.most = 0, Counter()
        self.bytes = 0
        self.stalled = set()
        self.over, self.ended = None, threading.Event()

    def run(self):
        while not self.ended.wait(0.5):
            self.look()

    def look(self):
        kinds, total, clients = Counter(), 0, []
        for process in psutil.process_iter(["cmdline", "environ", "memory_info"]):
            info = process.info
            home = (info["environ"] or {}).get("FLWR_HOME", "")
            line = " ".join(info["cmdline"] or ())
            if not (home.startswith(self.folder) or self.folder in line) or not info["memory_info"]:
                continue
            kind = next((k for k in KINDS if k in line), "other")
            kinds[kind] += 1
            total += info["memory_info"].rss
            if kind == "flwr-clientapp":
                clients.append(process)
        self.most |= kinds
        self.bytes = max(self.bytes, total)
        self.clients = max(self.clients, len(clients))
        if total > MOST_BYTES:
            self.over = total
            for process in clients:
                process.kill()
        for process in clients:
            if process.pid not in self.stalled and self.stall():
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    self.stalled.add(process.pid)

    def report(self, what):
        seen = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.most.items()))
        print(f"\n{what}: at most {self.bytes / 2**20:.0f} MiB (resident, shared pages counted")
        print(f"for each process) and at a time {seen}; {len(self.stalled)} clients stood still")


# An executor's arguments name what it runs: it is told first.
KINDS = ("plurallm.deploy.superexec", "flwr-clientapp", "flwr-serverapp", "flower-supernode")
KINDS += ("flower-superlink", "plurallm.deploy.proxy")
KINDS += ("plurallm.deploy.node", "plurallm.deploy.operator")


@contextmanager
def sampled(folder, **options):
    sampler = Sampler(folder, **options)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.ended.set()
        sampler.join()


def start(running, count, *options):
    """A server and so many nodes, a few at a time: each start keeps a core busy for seconds."""
    running.files = write_surveys(running.folder, count)
    running.start_server()
    for number, (group, file) in enumerate(running.files.items(), start=1):
        running.add_node(group, file, "--threads", "1", *options)
        if number % 4 == 0 or number == count:  # by their logs: Flower's list takes a core itself
            wait_for(lambda group=group: "SuperNode ID" in running.log(group), f"node {number}")
    wait_for(
        lambda: all("SuperNode ID" in running.log(group) for group in running.files), "the nodes"
    )


def lines(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def enough_memory(needed):
    free = psutil.virtual_memory().available
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free memory, there are {free / 2**30:.1f}")


def test_twelve_nodes_whose_clients_stand_still(tmp_path, monkeypatch):
    """In round 2 every client stands still: the round fails, and the next ones are as before."""
    enough_memory(MOST_BYTES)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the bound is this deployment's own
    folder, still = tmp_path / "run", threading.Event()
    with LocalDeployment(tmp_path) as running, sampled(tmp_path, stall=still.is_set) as sampler:
        start(running, 12, "--machine-processes", "2")
        run = running.submit(
            *(*SMALL, "federation.nodes=12", "federation.rounds=3", "federation.failed_rounds=3"),
            *("evaluation.every=3", "federation.wait_seconds=600", "federation.round_timeout=240"),
            f"output_dir={folder}",
        )
        wait_for(lambda: lines(folder) or run.poll() is not None, "round 1")
        first = time.monotonic()
        still.set()
        wait_for(lambda: len(lines(folder)) > 1 or run.poll() is not None, "round 2")
        print(f"\nround 2, in which clients stood still: {time.monotonic() - first:.0f} s")
        still.clear()
        status = run.wait(timeout=LONG)
        sampler.report("12 nodes")
        for line in lines(folder):
            print(line["round"], len(line["groups_trained"]), line["groups_refused"])
        print(re.findall(r"task \d+ [a-z].*", "".join(map(running.log, running.files)))[:4])
        assert status == 0, running.log("submit")
    rounds = lines(folder)
    assert sampler.stalled
    assert sampler.over is None
    assert sampler.clients <= 2
    assert sampler.most["flower-supernode"] <= 12
    assert sum(sampler.most.values()) <= 12 * NODE_PROCESSES + 2 + 12  # and the server's
    assert rounds[0]["groups_trained"]
    for group, reason in rounds[0]["groups_refused"].items():  # on a machine with much else to do
        assert re.fullmatch(r"no reply from node \d+", reason), group
    assert rounds[1]["groups_refused"]
    assert len(rounds) == 3


def test_thirty_nodes_train_with_two_clients_at_a_time(tmp_path, monkeypatch):
    enough_memory(12 * 2**30)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "run"
    with LocalDeployment(tmp_path) as running, sampled(tmp_path) as sampler:
        started = time.monotonic()
        start(running, 30, "--machine-processes", "2")
        print(f"\n30 nodes online after {time.monotonic() - started:.0f} s")
        run = running.submit(
            *(*SMALL, "federation.nodes=30", "federation.rounds=2", "evaluation.every=2"),
            *("federation.wait_seconds=1200", "federation.round_timeout=1200"),
            f"output_dir={folder}",
        )
        status = run.wait(timeout=2 * LONG)
        sampler.report("30 nodes")
        assert status == 0, running.log("submit")
        for line in (folder / "timings.jsonl").read_text().splitlines():
            print(json.loads(line)["seconds"])
    assert sampler.over is None
    assert sampler.clients <= 2
    assert [line["groups_refused"] for line in lines(folder)] == [{}, {}]


def wait_for(condition, what, seconds=LONG):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited too long for {what}"
        time.sleep(0.2)
