"""Processes of Flower: started with a home of their own, and found and ended by it."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

TASK_POLL_SECONDS = "0.25"  # Flower's own: each second, to hand a message to a process
COMMAND_SECONDS = 120.0  # limit of one command of Flower's: about 2 s, more on a cold disk


class RunError(Exception):
    """Flower did not do what it was asked, or not to its end; the message says why."""


def surroundings(home: Path, *, first_in_path: Sequence[Path] = ()) -> dict[str, Any]:
    """Options of ``subprocess`` for Flower's commands with a home of their own.

    Parameters
    ----------
    home : Path
        ``FLWR_HOME``, kept between starts; made when missing, for its owner alone.
    first_in_path : sequence of Path
        Folders whose commands come before those of this installation.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Processes import from the working directory before they look elsewhere: it stays empty.
    (home / "empty").mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "PYTHONPATH"))}
    path = [*map(str, first_in_path), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    own = {
        "PATH": os.pathsep.join(path),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL_SECONDS,
    }
    return {
        "cwd": home / "empty",
        "env": inherited | own,
        "stdin": subprocess.DEVNULL,
        "umask": 0o077,  # what they keep is their owner's alone
    }


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, until it ends: two would end each other's processes.

    Raises
    ------
    BlockingIOError
        When another process keeps it; nothing has been touched then.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The descriptor is not inherited, so that no process left behind holds the lock.
    try:
        kept = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(f"{folder} is in use: what was started there runs") from error
    with kept:
        yield


def ask(options: dict[str, Any], *command: str) -> dict[str, Any]:
    """Give the answer of a ``flwr`` command; `RunError` where there is none in time."""
    command = ("flwr", *command, "--format", "json")
    try:
        done = subprocess.run(
            command, timeout=COMMAND_SECONDS, **(options | {"stdout": subprocess.PIPE})
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        raise RunError(f"no answer to {shlex.join(command)}") from error
    if not answer["success"]:
        raise RunError(answer["error-message"].strip())
    return answer


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_processes(home: str, patience: float = 4) -> None:
    """End every process with this ``FLWR_HOME`` in its environment, and no other.

    Those that are left `patience` seconds after they were asked to end are killed.
    """
    begin = time.monotonic()
    while True:
        everything = psutil.process_iter(["environ"])
        own = [
            process
            for process in everything
            if (process.info["environ"] or {}).get("FLWR_HOME") == home
            and process.pid != os.getpid()  # whose caller may have set it for Flower's commands
        ]
        if not own:
            return
        late = time.monotonic() >= begin + patience
        for process in own:
            with suppress(psutil.NoSuchProcess):
                process.kill() if late else process.terminate()
        psutil.wait_procs(own, timeout=1)
