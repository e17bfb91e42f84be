"""Who may bring which group, and who may continue a run, with real processes."""

import json
import re
import signal
import subprocess
import time

import psutil
import pytest
from local_deployment import SMALL, LocalDeployment, program, write_surveys

from plurallm.deploy.processes import ask, surroundings

pytestmark = pytest.mark.slow

LONG = 900.0  # seconds; only a machine with much else to do comes near it


def wait_for(condition, what):
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit, f"waited too long for {what}"
        time.sleep(0.2)


def lines(path):
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


class Running:
    """A deployment of three nodes with a run that goes on until it is stopped."""

    def __init__(self, folder, deployment):
        self.folder, self.deployment = folder, deployment
        self.files = write_surveys(folder, 4)
        self.first, self.second, self.third, self.fourth = self.files
        deployment.start_server()
        for group in (self.first, self.second, self.third):
            deployment.add_node(group, self.files[group])
        deployment.wait_for_nodes(3)
        self.run_folder = folder / "run"
        self.submission = deployment.submit(
            *(*SMALL, "evaluation.every=999", "federation.rounds=999", "federation.nodes=3"),
            *("federation.min_groups=1", "federation.wait_seconds=300"),
            *("federation.checkpoint_every=1", "data.held_out_groups=[]"),
            f"data.train_groups=[{self.first},{self.second},{self.third}]",
            f"output_dir={self.run_folder}",
        )
        self.wait_for_rounds(2)

    @property
    def rounds(self):
        return lines(self.run_folder / "metrics.jsonl")

    @property
    def audit(self):
        return lines(self.deployment.server / "audit.jsonl")

    def wait_for_rounds(self, number):
        wait_for(
            lambda: len(self.rounds) >= number or self.submission.poll() is not None, "a round"
        )
        assert self.submission.poll() is None, self.deployment.log("submit")

    def trains(self, group):
        """Wait until a round has this group."""
        wait_for(lambda: group in self.rounds[-1]["groups_trained"], f"a round with {group}")

    def is_missed(self, group, reason):
        """Wait until a round has not this group, for a reason."""
        wait_for(
            lambda: self.rounds[-1]["groups_refused"].get(group) == reason,
            f"a round in which {group} is left out: {reason}",
        )

    def script(self, *arguments):
        command = [*program("operator"), self.deployment.server, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def node_of(self, group):
        return self.rounds_node(lines(self.run_folder / "timings.jsonl")[-1], group)

    @staticmethod
    def rounds_node(line, group):
        return line["nodes"][group]

    def flower(self, *command):
        return ask(surroundings(self.deployment.server / "flower"), *command)

    def resume(self, log):
        return self.deployment.submit(f"resume={self.run_folder}", log=log)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    with LocalDeployment(folder) as deployment:
        running = Running(folder, deployment)
        try:
            yield running
        finally:
            if running.submission.poll() is None:
                running.submission.send_signal(signal.SIGINT)
                running.submission.wait(timeout=120)


def test_another_registered_key_cannot_take_a_group_whose_node_is_away(running):
    """A registered node claims another's group while that one restarts."""
    group, before = running.second, len(running.rounds)
    rightful = running.node_of(group)
    running.deployment.kill(group)
    thief = running.folder / "thief"
    subprocess.run([*program("node"), thief, "key"], check=True)
    said = running.script("register", thief / "key.pub", running.fourth, "--name", "thief")
    number = re.search(r"as node (\d+)", said)[1]
    running.deployment.add_node("thief", running.files[group], group=group)
    try:
        wait_for(lambda: refusals(running, number), "the refusal")
        assert (
            f"its key is not registered for group {group!r}, but for {running.fourth}"
            in (refusals(running, number)[0]["why"])
        )
        running.deployment.add_node(group, running.files[group])
        running.trains(group)
    finally:
        running.deployment.stop("thief")
    assert running.node_of(group) == rightful
    hosts = {
        line["nodes"].get(group)
        for line in lines(running.run_folder / "timings.jsonl")[before:]
        if group in line["groups"]
    }
    assert hosts == {rightful}
    shown = running.script("nodes")
    assert re.search(rf"^{rightful} .* {group} +{group}$", shown, re.MULTILINE), shown
    assert re.search(rf"^{number} .* thief +{running.fourth}$", shown, re.MULTILINE), shown


def refusals(running, number):
    return [
        entry
        for entry in running.audit
        if entry["what"] == "node refused" and str(entry["node"]) == number
    ]


def test_an_unregistered_node_is_missed_and_its_new_key_brings_the_group_again(running):
    group = running.first
    running.trains(group)
    old = running.node_of(group)
    running.script("unregister", old)
    running.is_missed(group, "its node is away")  # the round under way may have asked it before
    wait_for(
        lambda: "the server does not let this key in" in running.deployment.log(group),
        "the node's own word",
    )
    assert old not in running.script("nodes")
    # Another key for it: the old one is moved away, a new one made and registered.
    running.deployment.stop(group)
    folder = running.folder / group
    for name in ("key", "key.pub"):
        (folder / name).rename(folder / f"old-{name}")
    running.deployment.add_node(group, running.files[group])
    running.trains(group)
    assert running.node_of(group) != old
    what = [(entry["what"], str(entry.get("node"))) for entry in running.audit]
    assert ("unregister", old) in what
    assert ("register", running.node_of(group)) in what
    assert ("node admitted", running.node_of(group)) in what


def test_a_run_is_continued_by_one_at_a_time(running):
    """While it goes on, when its submission was killed, and when it has ended."""
    second = running.resume("second")
    assert second.wait(timeout=LONG) == 2
    said = running.deployment.log("second")
    assert f"still goes on (process {running.submission.pid} on " in said

    running.submission.kill()
    running.submission.wait()
    third = running.resume("third")
    assert third.wait(timeout=LONG) == 2
    holder = re.search(r"still goes on \(process (\d+) on ", running.deployment.log("third"))[1]
    assert "flwr-serverapp" in " ".join(psutil.Process(int(holder)).cmdline())
    assert holder != str(running.submission.pid)

    number = re.search(r"Run (\d+) submitted", running.deployment.log("submit"))[1]
    running.flower("stop", number, "server")  # past the scripts
    wait_for(lambda: not psutil.pid_exists(int(holder)), "the end of the run's process")
    rounds = len(running.rounds)
    running.submission = both = running.resume("fourth")
    other = running.resume("fifth")
    wait_for(
        lambda: (
            "submitted" in running.deployment.log("fourth") + running.deployment.log("fifth")
            and (both.poll() is not None or other.poll() is not None)
        ),
        "the one that continues it",
    )
    refused, continues = (both, other) if both.poll() is not None else (other, both)
    running.submission = continues
    assert refused.wait(timeout=LONG) == 2
    wait_for(lambda: len(running.rounds) > rounds, "a round of the continued run")
    numbers = [line["round"] for line in running.rounds]
    assert numbers == list(range(1, len(numbers) + 1))
    continues.send_signal(signal.SIGINT)
    assert continues.wait(timeout=LONG) == 130


def test_the_audit_file_has_all_that_changed_whom_is_trusted(running):
    done = {entry["what"] for entry in running.audit}
    assert done >= {"register", "run submitted", "run started", "node admitted"}
    assert all(entry["time"] and entry["who"] for entry in running.audit)
    running.script("bind", running.node_of(running.third), running.third, running.fourth)
    assert running.audit[-1]["what"] == "bind"
    assert running.audit[-1]["groups"] == [running.third, running.fourth]
    asked = {entry["request"] for entry in running.audit if entry["what"] == "asked of Flower"}
    assert asked >= {"register-node", "start-run"}
    if running.submission.returncode == 130:  # after the tests above
        assert {"run refused", "run stopped", "node refused", "unregister"} <= done
        assert asked >= {"stop-run", "unregister-node"}
    file = running.deployment.server / "audit.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
