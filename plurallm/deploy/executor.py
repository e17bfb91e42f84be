"""Flower's SuperExec with an executor of our own: bounded, and with no token in an argument list.

Flower starts a process for every message, without any bound, and hands it its token as an argument,
which every user of the machine can read. This one starts no more processes than it may, while
further messages wait unclaimed, and hands the token over in memory.

    python -m plurallm.deploy.executor --runs flwr-clientapp --processes 1 -- SUPEREXEC-OPTIONS

The class stands in for ``flwr.supercore.superexec.executor.SubprocessExecutor``, which is private
to Flower 1.41 and 1.42: a newer Flower needs `tests/test_deploy_executor.py` to pass again.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import (
    TASK_TYPE_TO_APPIO_API_ADDRESS_ARG,
    TASK_TYPE_TO_COMMAND,
    TaskType,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

from plurallm.deploy.claim import Claim

KILL_SECONDS = 10.0  # between asking a process to end and killing it


def main(arguments: Sequence[str]) -> None:
    """Run SuperExec with a bounded executor, until a signal."""
    parser = argparse.ArgumentParser(prog="plurallm.deploy.executor", description=__doc__)
    parser.add_argument("--runs", type=TaskType, required=True, help="the one kind of task to run")
    parser.add_argument("--processes", type=int, default=1, help="at a time, for this node")
    parser.add_argument(
        "--machine-processes", type=int, default=None, help="at a time, for all nodes of this user"
    )
    parser.add_argument(
        "--task-seconds", type=float, default=None, help="a process that takes longer is ended"
    )
    parser.add_argument("superexec", nargs=argparse.REMAINDER, help="after --, for SuperExec")
    parser.add_argument("--beat", type=Path, help="file, touched whenever Flower has answered")
    options = parser.parse_args(arguments)
    slots = None
    if options.machine_processes is not None:
        slots = Slots(slots_folder(), options.machine_processes)
    executor = BoundedExecutor(options.runs, options.processes, slots, options.task_seconds)
    module = sys.modules["flwr.supercore.superexec.run_superexec"]
    module.get_executor = lambda *_, **__: executor  # type: ignore[attr-defined]

    module.RuntimeHttpClient = client_of(executor, options.beat)  # type: ignore[attr-defined]
    sys.argv = ["flower-superexec", *options.superexec[1:]]
    flower_superexec()


def client_of(executor: "BoundedExecutor", beat: Path | None) -> type[RuntimeHttpClient]:
    """Make the class of SuperExec's client.

    Parameters
    ----------
    executor : BoundedExecutor
        Gives its place back at once where nothing was to be claimed: other nodes want it.
    beat : Path or None
        File that is touched whenever Flower has answered.
    """

    class Client(RuntimeHttpClient):
        """Lives through an overloaded server, which would end SuperExec and all that it runs."""

        def AcquireTask(self, *arguments: Any, **named: Any) -> Any:
            try:
                answer = super().AcquireTask(*arguments, **named)
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
                print(f"nothing to claim now: {error.response}", file=sys.stderr, flush=True)
                answer = AcquireTaskResponse()
            if beat is not None:
                beat.touch()
            if not answer.token:
                executor.release_slot()
            return answer

    return Client


def slots_folder() -> Path:
    """Folder of the files that count this user's processes on this machine.

    Raises
    ------
    PermissionError
        When it is another user's, who could hold every slot.
    """
    folder = Path(tempfile.gettempdir()) / f"plurallm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to another user: remove it, or set TMPDIR")
    return folder


class Slots:
    """A number of processes that all nodes of a user may run at a time on a machine.

    A process holds the lock of a file for as long as it lives, however it ends.

    Parameters
    ----------
    folder : Path
        With a file for each slot.
    count : int
        Number of slots, at least 1.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [folder / f"slot-{number}" for number in range(count)]

    def take(self) -> int | None:
        """Give the descriptor that holds a free slot; None when all are taken."""
        for file in self._files:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                os.close(descriptor)
        return None


@dataclass
class _Running:
    process: "subprocess.Popen[bytes]"
    task: int
    claim: Claim
    began: float
    told: float | None = field(default=None)  # when it was asked to end


class BoundedExecutor:
    """Starts at most so many processes at a time.

    Parameters
    ----------
    runs : TaskType
        The one kind of task to take.
    most : int
        Processes at a time.
    slots : Slots or None
        Shared with this user's other nodes on the machine.
    task_seconds : float or None
        A process that takes longer is ended: one that hangs does not stop its node for good.
    """

    def __init__(
        self, runs: TaskType, most: int, slots: Slots | None, task_seconds: float | None
    ) -> None:
        self._runs = runs
        self._most = most
        self._slots = slots
        self._task_seconds = task_seconds
        self._running: list[_Running] = []
        self._slot: int | None = None  # taken for the next process

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Say what may be claimed: nothing while all places are taken, so that it waits."""
        self.reconcile()
        if len(self._running) >= self._most or not self._has_slot():
            return set(), set()
        return supported_task_types & {self._runs}, set()

    def wait_for_capacity(self, *_: object, **__: object) -> None:
        """Nothing is claimed without capacity: there is nothing to wait for."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a task's process; its token is in a file that exists in memory alone."""
        if spec.task_type != self._runs:
            return LaunchResult.failed(f"only {self._runs} may run here")
        token = os.memfd_create("token")
        os.write(token, spec.token.encode())
        command = [
            *(TASK_TYPE_TO_COMMAND[spec.task_type], "--token-file", f"/proc/self/fd/{token}"),
            *(TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address),
            *(("--insecure",) if spec.insecure else ()),
        ]
        if spec.root_certificates_path is not None:
            command += ["--root-certificates", spec.root_certificates_path]
        if spec.parent_pid is not None:
            command += ["--parent-pid", str(spec.parent_pid)]
        held = [token] if self._slot is None else [token, self._slot]
        try:
            process = subprocess.Popen(command, pass_fds=held)
        except OSError as error:
            return LaunchResult.failed(str(error))
        finally:  # the process has its own
            for descriptor in held:
                os.close(descriptor)
            self._slot = None
        self._running.append(_Running(process, spec.task_id, Claim(spec), time.monotonic()))
        return LaunchResult.accepted()

    def release_slot(self) -> None:
        """Give back the place that was taken for a process that does not start."""
        if self._slot is not None:
            os.close(self._slot)
            self._slot = None

    def reconcile(self) -> None:
        """Forget processes that have ended, and end those that take too long or are in vain."""
        for one in self._running:
            if one.process.poll() is not None:
                one.claim.close()
        self._running = [one for one in self._running if one.process.poll() is None]
        for one in self._running:
            if one.told is not None:
                if time.monotonic() > one.told + KILL_SECONDS:
                    one.process.kill()
            elif reason := self._why_end(one):
                print(
                    f"task {one.task} {reason}: its process {one.process.pid} is ended",
                    file=sys.stderr,
                    flush=True,
                )
                one.told = time.monotonic()
                self._end(one)

    def _why_end(self, one: _Running) -> str | None:
        most = self._task_seconds
        if most is not None and time.monotonic() > one.began + most:
            return f"took longer than {most:g} s"
        return "is not waited for any more" if one.claim.is_lost() else None

    def close(self) -> None:
        """End what still runs, and wait for its end."""
        self.release_slot()
        for one in self._running:
            self._end(one)
        for one in self._running:
            try:
                one.process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            one.claim.close()
        self._running.clear()

    def _end(self, one: _Running) -> None:
        # A ClientApp that is asked to end says that its task is over, but answers nothing: its node
        # would wait on. That it was killed, Flower notices in a minute, and answers in its place.
        if self._runs == TaskType.CLIENT_APP:
            one.process.kill()
        else:
            one.process.terminate()

    def _has_slot(self) -> bool:
        if self._slots is not None and self._slot is None:
            self._slot = self._slots.take()
        return self._slots is None or self._slot is not None


if __name__ == "__main__":
    main(sys.argv[1:])
