"""Starts the processes of Flower's tasks: bounded, and with no token in an argument list.

Flower starts a process for every message, without any bound, and hands it its token as an argument,
which every user of the machine can read. This one starts no more processes than it may, while
further messages wait unclaimed, and hands the token over in memory.

The class stands in for ``flwr.supercore.superexec.executor.SubprocessExecutor``, which is private
to Flower 1.41 and 1.42: a newer Flower needs `tests/test_deploy_executor.py` to pass again.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

from flwr.supercore.constant import (
    TASK_TYPE_TO_APPIO_API_ADDRESS_ARG,
    TASK_TYPE_TO_COMMAND,
    TaskType,
)
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

from plurallm.deploy.claim import Claim
from plurallm.deploy.slots import Slots

KILL_SECONDS = 10.0  # between asking a process to end and killing it


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
