"""Strangers at a deployment of real processes, while a run goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import strangers
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth.superexec import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.constant import TASK_TOKEN_HEADER
from local_deployment import SMALL, LocalDeployment, write_surveys

from plurallm.deploy.processes import free_port
from plurallm.federate.in_process import run_in_process

pytestmark = pytest.mark.slow

PROGRAMS = ("flwr-serverapp", "flwr-clientapp", "flower-superlink", "flower-supernode")
ANOTHER_USER = 65534
AS_ANOTHER_USER = """
import http.client, json, os, ssl, sys
asked = json.load(sys.stdin)
found = {"statuses": {}, "read": [], "lines": []}
for name, (port, authority) in asked["ports"].items():
    context = ssl.create_default_context(cadata=authority)
    found["statuses"][name] = {}
    for path in asked["routes"]:
        wire = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
        kind = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
        wire.request("POST", path, b"", {**kind, "flwr-task-token": "0" * 64})
        found["statuses"][name][path] = wire.getresponse().status
        wire.close()
for number in filter(str.isdigit, os.listdir("/proc")):
    for part in ("cmdline", "environ", "fd", "mem"):
        path = f"/proc/{number}/{part}"
        try:
            if part == "fd":
                os.listdir(path)
                content = b"flower"
            else:
                content = open(path, "rb").read(10**6)
        except OSError:
            continue
        if part == "cmdline":
            found["lines"].append(content.decode("utf-8", "replace").split("\\0"))
        elif int(number) in asked["pids"]:
            found["read"].append(path)
for folder, _, files in os.walk(asked["folder"]):
    for file in files:
        try:
            open(os.path.join(folder, file), "rb").close()
            found["read"].append(os.path.join(folder, file))
        except OSError:
            pass
json.dump(found, sys.stdout)
"""
"""What another user of the machine tries: ports of loopback, /proc, files."""


def ours(folder):
    """Processes of Flower that this deployment has started."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        home = (process.info["environ"] or {}).get("FLWR_HOME", "")
        if home.startswith(str(folder)):
            yield process


def overrides_of(files, *more):
    *train, held_out = files
    return [
        *(*SMALL, f"federation.nodes={len(files)}", "federation.wait_seconds=600"),
        *(f"data.train_groups=[{','.join(train)}]", f"data.held_out_groups=[{held_out}]"),
        *more,
    ]


def in_process(folder, overrides):
    run_in_process(
        [
            *(text for text in overrides if not text.startswith("federation.nodes")),
            *("data=custom", f"data.path={folder / 'all.csv'}"),
            *(f"output_dir={folder / 'same'}", f"cache_dir={folder / 'cache'}"),
        ]
    )
    return (folder / "same/model/model.safetensors").read_bytes()


class Attacked:
    """A deployment whose run goes on; whoever looks at the list of processes has looked."""

    def __init__(self, folder, deployment):
        self.folder, self.deployment = folder, deployment
        self.files = write_surveys(folder, 3)
        deployment.start_server()
        for group, file in self.files.items():
            deployment.add_node(group, file)
        deployment.wait_for_nodes(3)
        self.lines, self.over = {}, threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        self.overrides = overrides_of(self.files, "federation.rounds=4")
        self.run = deployment.submit(*self.overrides, f"output_dir={folder / 'run'}")

    def watch(self):
        while not self.over.is_set():
            for process in ours(self.folder):
                line = process.info["cmdline"] or []
                if any(part.endswith(PROGRAMS) for part in line[:2]):
                    self.lines[process.pid, process.create_time()] = line
            time.sleep(0.1)

    def loopback(self):
        """Port and authority of the server's and of each node's own port."""
        for name in ("server", *self.files):
            (*_, port) = re.findall(r"running on https://127\.0\.0\.1:(\d+)", self.log(name))
            home = self.folder / name / "flower" / "runtime.crt"
            authority = self.deployment.server / "ca.crt" if name == "server" else home
            yield name, int(port), authority

    def log(self, name):
        return self.deployment.log(name)


@pytest.fixture(scope="module")
def attacked():
    folder = Path(tempfile.mkdtemp(prefix="plurallm-attacked-"))
    folder.chmod(0o755)  # so that what keeps others out is not the folder above
    try:
        with LocalDeployment(folder) as deployment:
            attacked = Attacked(folder, deployment)
            try:
                yield attacked
            finally:
                attacked.over.set()
                attacked.watcher.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_public_port_lets_no_stranger_through(attacked):
    port, authority = attacked.deployment.port, attacked.deployment.server / "ca.crt"
    assert strangers.not_refused(port, authority) == {}
    assert attacked.run.poll() is None, "the run had ended before the last attempt"


def test_forged_tokens_and_secrets_are_refused_on_every_loopback_port(attacked):
    forged = create_superexec_auth_metadata(
        auth_secret=derive_auth_secret(os.urandom(32)),
        method="/flwr.proto.Runtime/AcquireTask",
        request=AcquireTaskRequest(),
    )
    secrets = [f"{name}: {value}" for name, value in forged.items()]
    headers = [
        [],
        [f"{TASK_TOKEN_HEADER}: {'0' * 64}"],
        [f"{TASK_TOKEN_HEADER}: "],
        [f"{TASK_TOKEN_HEADER}: a", f"{TASK_TOKEN_HEADER}: b"],
        ["Authorization: Bearer " + "0" * 64],
        secrets,
    ]
    kind = ["Content-Type: application/protobuf", "Accept: application/protobuf"]
    for name, port, authority in attacked.loopback():
        for path in strangers.routes("runtime"):
            for more in headers:
                data = strangers.request(path, *kind, *more)
                assert strangers.ask(port, authority, data) == [401], (name, path, more)
    # The same claim, at the public port.
    public, authority = attacked.deployment.port, attacked.deployment.server / "ca.crt"
    claim = strangers.request("/v1/runtime/acquire-task", *kind, *secrets)
    assert strangers.ask(public, authority, claim) == [404]


def test_another_user_of_the_machine_finds_nothing(attacked):
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root, with setpriv, can become another user")
    become = ["setpriv", f"--reuid={ANOTHER_USER}", f"--regid={ANOTHER_USER}", "--clear-groups"]
    python = [*become, os.path.realpath(sys.executable), "-I", "-S", "-c"]
    if subprocess.run([*python, ""], capture_output=True, check=False).returncode != 0:
        python[python.index(os.path.realpath(sys.executable))] = "/usr/bin/python3"
    if subprocess.run([*python, ""], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Python that another user may run")
    asked = {
        "ports": {
            name: (port, authority.read_text()) for name, port, authority in attacked.loopback()
        },
        "routes": strangers.routes("runtime"),
        "pids": [process.pid for process in ours(attacked.folder)],
        "folder": str(attacked.folder),
    }
    done = subprocess.run(
        [*python, AS_ANOTHER_USER], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["statuses"]) == {"server", *attacked.files}
    assert all(set(own.values()) == {401} for own in found["statuses"].values())
    lines = [line for line in found["lines"] if any("flwr" in part for part in line)]
    assert lines
    assert not any("--token" in line for line in lines)
    # The surveys and the scripts' logs are this test's own; what a deployment keeps is shut.
    kept = [*(attacked.folder / group for group in attacked.files), attacked.deployment.server]
    public = {"key.pub", "ca.crt"}
    read = [
        path
        for path in found["read"]
        if path.startswith("/proc/") or any(Path(path).is_relative_to(folder) for folder in kept)
    ]
    assert [path for path in read if Path(path).name not in public] == []


def test_a_run_that_strangers_were_at_ends_with_the_same_model(attacked):
    assert attacked.run.wait(timeout=1500) == 0, attacked.log("submit")
    attacked.over.set()
    attacked.watcher.join()
    apps = [line for line in attacked.lines.values() if any("app" in part for part in line[:2])]
    assert len(apps) > 4  # the ServerApp and messages
    assert all("--token-file" in line and "--token" not in line for line in apps)
    given = [
        line[line.index(option) + 1]
        for line in attacked.lines.values()
        for option in ("--token-file", "--superexec-auth-secret-file")
        if option in line
    ]
    assert given
    assert all(path.startswith("/proc/self/fd/") for path in given)
    own = (attacked.folder / "run/model/model.safetensors").read_bytes()
    assert own == in_process(attacked.folder, attacked.overrides)


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_a_run_goes_through_a_proxy_of_ones_own_and_nothing_else_does(tmp_path, kind):
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    inner = free_port()
    kept = tmp_path / "proxy"
    kept.mkdir()
    with LocalDeployment(tmp_path) as deployment:
        files = write_surveys(tmp_path, 2)
        deployment.start_server(behind_proxy=inner)
        with strangers.proxy(kind, deployment.server, deployment.port, inner, kept):
            for group, file in files.items():
                deployment.add_node(group, file)
            deployment.wait_for_nodes(2)
            overrides = overrides_of(files, "federation.rounds=2")
            run = deployment.submit(*overrides, f"output_dir={tmp_path / 'run'}")
            found = strangers.not_refused(deployment.port, deployment.server / "ca.crt")
            assert found == {}
            assert run.poll() is None, "the run had ended before the last attempt"
            assert run.wait(timeout=1500) == 0, deployment.log("submit")
    own = (tmp_path / "run/model/model.safetensors").read_bytes()
    assert own == in_process(tmp_path, overrides)
