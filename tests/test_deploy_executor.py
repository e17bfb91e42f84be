"""The executor that bounds a node's processes, with Flower's own task descriptions."""

import http.server
import os
import stat
import sys
import threading
import time
from dataclasses import replace

import httpx
import psutil
import pytest
import uvicorn
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResultStatus
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from plurallm.deploy.claim import Claim
from plurallm.deploy.executor import BoundedExecutor
from plurallm.deploy.slots import Slots
from plurallm.deploy.superexec import client_of

TOKEN = "0123456789abcdef" * 4
ALL = set(TaskType)


def spec(kind=TaskType.CLIENT_APP, address="127.0.0.1:1"):
    return ExecutionSpec(kind, address, TOKEN, True, None, False, None, False, 7)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in for Flower's command that writes down what it was given, and stays."""
    file = tmp_path / "bin" / "flwr-clientapp"
    file.parent.mkdir()
    file.write_text(
        f"#!{sys.executable}\n"
        "import sys, time, pathlib, signal\n"
        f"says = pathlib.Path({str(tmp_path)!r}, 'says')\n"
        "signal.signal(signal.SIGTERM, lambda *_: says.write_text('my task is over'))\n"
        "path = sys.argv[sys.argv.index('--token-file') + 1]\n"
        "assert pathlib.Path(path).is_file()\n"
        f"pathlib.Path({str(tmp_path)!r}, 'token').write_text(pathlib.Path(path).read_text())\n"
        "time.sleep(120)\n"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path
    left = [child for child in psutil.Process().children() if str(file) in child.cmdline()]
    for child in left:  # of a test that failed
        child.kill()


def wait_for(condition, seconds=30):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_one_process_at_a_time_and_no_token_in_an_argument(program):
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, None, None)
    assert executor.get_eligible_capacity(ALL) == ({TaskType.CLIENT_APP}, set())
    assert executor.launch(spec()).status == LaunchResultStatus.ACCEPTED
    wait_for(lambda: (program / "token").exists() and (program / "token").read_text() == TOKEN)
    (child,) = (c for c in psutil.Process().children() if "flwr-clientapp" in " ".join(c.cmdline()))
    assert TOKEN not in " ".join(child.cmdline())
    assert executor.get_eligible_capacity(ALL) == (set(), set())  # a further message waits
    child.kill()
    wait_for(lambda: executor.get_eligible_capacity(ALL) == ({TaskType.CLIENT_APP}, set()))
    executor.close()


def test_only_one_kind_of_task_runs(program):
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, None, None)
    assert executor.launch(spec(TaskType.SERVER_APP)).status == LaunchResultStatus.FAILED
    assert executor.get_eligible_capacity({TaskType.SERVER_APP}) == (set(), set())


def test_nodes_of_a_machine_share_its_places(program):
    nodes = [BoundedExecutor(TaskType.CLIENT_APP, 1, Slots(program, 2), None) for _ in range(12)]
    claimed = 0
    for node in nodes:
        if node.get_eligible_capacity(ALL)[0]:
            node.launch(spec())
            claimed += 1
    assert claimed == 2
    children = [c for c in psutil.Process().children() if "flwr-clientapp" in " ".join(c.cmdline())]
    assert len(children) == 2
    children[0].kill()  # however a process ends, its place is free again
    wait_for(lambda: sum(bool(node.get_eligible_capacity(ALL)[0]) for node in nodes) == 1)
    for node in nodes:
        node.close()


def test_a_place_that_is_not_used_is_given_back(tmp_path):
    first, second = (
        BoundedExecutor(TaskType.CLIENT_APP, 1, Slots(tmp_path, 1), None) for _ in range(2)
    )
    assert first.get_eligible_capacity(ALL)[0]
    assert not second.get_eligible_capacity(ALL)[0]
    first.release_slot()
    assert second.get_eligible_capacity(ALL)[0]
    second.release_slot()


def test_a_process_that_hangs_is_ended(program, capfd):
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, None, 0.5)
    executor.launch(spec())
    wait_for(lambda: bool(executor.get_eligible_capacity(ALL)[0]))
    assert "task 7 took longer than 0.5 s" in capfd.readouterr().err


def test_a_client_that_is_ended_cannot_call_its_task_finished(program):
    """Its node would wait for the answer for good."""
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, None, None)
    executor.launch(spec())
    wait_for(lambda: (program / "token").exists() and (program / "token").read_text() == TOKEN)
    executor.close()
    assert not (program / "says").exists()


class Link(http.server.BaseHTTPRequestHandler):
    """Answers as Flower does whose token counts, or does not."""

    def do_POST(self):
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def link():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Link) as server:
        server.status, server.paths = 200, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_claim_is_kept_while_a_process_starts_and_one_in_vain_is_ended(
    program, link, monkeypatch, capfd
):
    monkeypatch.setattr("plurallm.deploy.claim.LOOK_SECONDS", 0.1)
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, None, None)
    executor.launch(spec(address=f"127.0.0.1:{link.server_port}"))
    wait_for(lambda: executor.reconcile() or len(link.paths) > 2)
    assert {path.rpartition("/")[2] for path in link.paths} == {"send-task-heartbeat"}
    monkeypatch.setattr("plurallm.deploy.claim.START_SECONDS", 0)
    link.paths.clear()
    wait_for(lambda: executor.reconcile() or len(link.paths) > 2)
    assert {path.rpartition("/")[2] for path in link.paths} == {"pull-object"}  # prolongs nothing
    for status in (500, 403):  # a fault of the link says nothing, nor does another refusal
        link.status = status
        link.paths.clear()
        wait_for(lambda: executor.reconcile() or len(link.paths) > 2)
        assert not executor.get_eligible_capacity(ALL)[0]
    link.status = 401
    wait_for(lambda: bool(executor.get_eligible_capacity(ALL)[0]))
    assert "task 7 is not waited for any more" in capfd.readouterr().err


@pytest.fixture
def supernode():
    """Flower's own API of a SuperNode, with a task that a process works on."""
    factory = NodeStateFactory(ObjectStoreFactory())
    state = factory.state()
    task = state.create_task(TaskType.CLIENT_APP, run_id=1)
    token = state.claim_task(task)
    config = uvicorn.Config(create_app(factory), host="127.0.0.1", port=0, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    yield state, task, token, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def test_a_process_that_takes_long_is_left_alone_as_long_as_its_node_waits(supernode, monkeypatch):
    monkeypatch.setattr("plurallm.deploy.claim.LOOK_SECONDS", 0)
    state, task, token, port = supernode
    claim = Claim(replace(spec(address=f"127.0.0.1:{port}"), token=token))
    for seconds in (180, 0):  # while it starts, and when it has long been at work
        monkeypatch.setattr("plurallm.deploy.claim.START_SECONDS", seconds)
        assert not any(claim.is_lost() for _ in range(5))
    state.finish_task(task, sub_status="failed", details="")
    assert [claim.is_lost() for _ in range(2)] == [False, True]
    claim.close()


def test_a_server_that_is_overloaded_for_a_moment_does_not_end_superexec(link, tmp_path, capfd):
    """Flower answers 500 while its database is locked."""
    executor = BoundedExecutor(TaskType.CLIENT_APP, 1, Slots(tmp_path, 1), None)
    client = client_of(executor, tmp_path / "beat").from_server_address(
        f"127.0.0.1:{link.server_port}", insecure=True, root_certificates=None, interceptors=[]
    )
    for status in (500, 200):
        (tmp_path / "beat").unlink(missing_ok=True)
        link.status = status
        assert executor.get_eligible_capacity(ALL)[0]
        assert not client.AcquireTask(AcquireTaskRequest()).token
        assert (tmp_path / "beat").exists()
        slot = Slots(tmp_path, 1).take()
        assert slot is not None  # its place was given back
        os.close(slot)
    assert "nothing to claim now" in capfd.readouterr().err
    link.status = 401
    with pytest.raises(httpx.HTTPStatusError):
        client.AcquireTask(AcquireTaskRequest())
    client.close()
    executor.close()


def test_flower_still_has_what_is_replaced():
    from flwr.supercore.superexec.executor import SubprocessExecutor

    own = {name for name in vars(SubprocessExecutor) if not name.startswith("_")}
    assert own <= set(vars(BoundedExecutor))
    module = sys.modules["flwr.supercore.superexec.run_superexec"]
    assert {"get_executor", "RuntimeHttpClient"} <= set(vars(module))
