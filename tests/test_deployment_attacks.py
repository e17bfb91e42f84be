"""Strangers at a deployment of real processes, while a run goes on."""

import http.client
import re
import ssl
import threading
import time

import psutil
import pytest
from flwr.supercore.routers.runtime.router import router as runtime
from flwr.superlink.routers.control.router import router as control
from local_deployment import SMALL, LocalDeployment, write_surveys
from safetensors.numpy import load_file

from plurallm.simulation import run_in_process

pytestmark = pytest.mark.slow


def statuses(port, authority, router, **headers):
    """Status of every route of a router: asked on loopback, with this authority trusted."""
    context = ssl.create_default_context(cafile=authority)
    found = {}
    for path in sorted({route.path for route in router.routes}):
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
        kind = "application/protobuf"
        named = {"Content-Type": kind, "Accept": kind, "Content-Length": "0", **headers}
        connection.request("POST", path, body=b"", headers=named)
        found[path] = connection.getresponse().status
        connection.close()
    return found


def port_of(log):
    return int(re.findall(r"running on https://127\.0\.0\.1:(\d+)", log)[-1])


def test_nobody_takes_over_a_run_that_goes_on(tmp_path):
    tokens, over = set(), threading.Event()

    def watch():
        while not over.is_set():
            for process in psutil.process_iter(["cmdline"]):
                line = process.info["cmdline"] or []
                # the program, which Python runs, and not SuperExec, which is told its name
                if any(part.endswith(("flwr-serverapp", "flwr-clientapp")) for part in line[:2]):
                    tokens.add("--token" in line)
                    assert "--token-file" in line
            time.sleep(0.1)

    with LocalDeployment(tmp_path) as deployment:
        files = write_surveys(tmp_path, 3)
        deployment.start_server()
        for group, file in files.items():
            deployment.add_node(group, file)
        deployment.wait_for_nodes(3)
        watcher = threading.Thread(target=watch)
        watcher.start()
        *train, held_out = files
        overrides = [
            *(*SMALL, "federation.rounds=2", "federation.nodes=3"),
            *("federation.wait_seconds=300", f"data.train_groups=[{','.join(train)}]"),
            f"data.held_out_groups=[{held_out}]",
        ]
        run = deployment.submit(*overrides, f"output_dir={tmp_path / 'run'}")
        first = next(iter(files))
        server = {"port": deployment.port, "authority": deployment.server / "ca.crt"}
        inner = server | {"port": port_of(deployment.log("server"))}
        node = {
            "port": port_of(deployment.log(first)),
            "authority": tmp_path / first / "flower" / "runtime.crt",
        }
        asked = 0
        while run.poll() is None or not asked:
            forged = {"Authorization": f"Bearer {'0' * 64}"}
            assert set(statuses(**server, router=runtime, **forged).values()) == {404}
            assert set(statuses(**server, router=control).values()) == {404}
            for port in (inner, node):  # any user of the machine
                assert set(statuses(**port, router=runtime).values()) == {401}
                assert set(statuses(**port, router=runtime, **forged).values()) == {401}
            asked += 1
        over.set()
        watcher.join()
        assert run.returncode == 0, deployment.log("submit")
        assert tokens == {False}
        run_in_process(
            [
                *(text for text in overrides if not text.startswith("federation.nodes")),
                *("data=custom", f"data.path={tmp_path / 'all.csv'}"),
                *(f"output_dir={tmp_path / 'same'}", f"cache_dir={tmp_path / 'cache'}"),
            ]
        )
    one, other = (
        load_file(tmp_path / name / "model/model.safetensors") for name in ("run", "same")
    )
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
