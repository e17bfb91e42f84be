"""Flower's SuperExec with an executor of our own, which is bounded.

``python -m plurallm.deploy.superexec --runs flwr-clientapp --processes 1 -- SUPEREXEC-OPTIONS``
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.runtime import RuntimeHttpClient

from plurallm.deploy.executor import BoundedExecutor
from plurallm.deploy.slots import Slots, slots_folder


def main(arguments: Sequence[str]) -> None:
    """Run SuperExec with a bounded executor, until a signal."""
    parser = argparse.ArgumentParser(prog="plurallm.deploy.superexec", description=__doc__)
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


def client_of(executor: BoundedExecutor, beat: Path | None) -> type[RuntimeHttpClient]:
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


if __name__ == "__main__":
    main(sys.argv[1:])
