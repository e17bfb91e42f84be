"""Run the main job: the Flower app through ``flwr run`` on Flower's simulation engine.

The run has a SuperLink, port, ``FLWR_HOME`` and Ray folder of its own, so that runs see neither
each other nor somebody else's SuperLink. Everything started here carries that ``FLWR_HOME`` in its
environment: by it the processes are found and ended, whatever group they moved to. ``flwr run``
succeeds for a failed run too: what counts is the SuperLink's status of the run, and its summary.
"""

import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import psutil
import torch

from plurallm.config.compose import load_config
from plurallm.config.overrides import absolute_overrides, hydra_quote
from plurallm.config.schema import Config
from plurallm.data.tasks import load_survey, plan_nodes, survey_table
from plurallm.deploy.flower_run import complete_lines, copy_app, last_lines, run_config
from plurallm.deploy.processes import COMMAND_SECONDS, RunError, ask, end_processes
from plurallm.deploy.supervision import exit_on_signals, on_signals
from plurallm.federate.server_app import checkpoint_to_resume
from plurallm.record.lock import check_unlocked
from plurallm.record.progress import ProgressTracker
from plurallm.record.run_folder import new_run_folder
from plurallm.results.report.report_folder import report_folder

LONGEST_TEMPORARY = 24
"""Characters in the path of a folder in which the sockets of Ray fit."""


def main(typed: Sequence[str]) -> int:
    """Run with overrides: 0 finished, 1 failed, 2 refused; a signal ends with 128 + its number."""
    exit_on_signals()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("plurallm").setLevel(logging.INFO)
    here = Path.cwd()
    try:
        if any(word.startswith("-") for word in typed):
            raise ValueError("overrides only, such as seed=2; sweeps: plurallm train -m seed=1,2")
        if re.search(r"\s", sys.executable):
            raise ValueError(f"Ray cannot start from a path with a space: {sys.executable}")
        config = load_config(typed, here)
        survey_table(load_survey(config.data), config)  # before a node has a time limit for it
        nodes = plan_nodes(config)
        folder = Path(config.resume or config.output_dir or new_run_folder(here / "outputs"))
        checkpoint_to_resume(config)  # refuses what cannot be resumed before anything starts
        if not config.resume and (folder / "metrics.jsonl").exists():
            raise ValueError(f"output_dir={folder} holds a run: choose another, or resume={folder}")
        folder.mkdir(parents=True, exist_ok=True)
        check_unlocked(folder)
        overrides = absolute_overrides([*typed, f"output_dir={hydra_quote(str(folder))}"], here)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Run folder: {folder}", flush=True)
    log = folder / "flower.log"
    try:
        run_app(config, overrides, nodes, log)
    except RunError as error:
        text = f"{last_lines(log)}\n\nThe run failed: {error}\nIts log: {log}"
        print(re.sub(r"\x1b\[[0-9;]*m", "", text), file=sys.stderr)
        return 1
    except SystemExit:
        print("Stopped, and ended all that the run had started.", file=sys.stderr)
        raise
    report_folder(folder)
    print(f"Report: {folder / 'report.html'}")
    print(f"Run folder: {folder}")
    return 0


def run_app(config: Config, overrides: Sequence[str], nodes: int, log: Path) -> None:
    """Run the app to its end on a SuperLink of its own; `RunError` when it did not finish."""
    resources, actors = plan_resources(config, nodes)
    print(f"Starting Flower: {nodes} nodes, {actors} at a time", flush=True)
    with own_home() as home, log.open("ab") as output:
        options = surroundings(home) | {"stdin": DEVNULL, "stdout": output, "stderr": output}
        superlink = start_superlink(home, options)
        (home / "run.toml").write_text(run_config(overrides), encoding="utf-8")
        settings = ("--run-config", str(home / "run.toml"), "--federation-config", resources)
        app = copy_app(home / "app")
        number = ask(options, "run", str(app), "own", *settings)["run-id"]
        stream = Popen(("flwr", "log", number, "own", "--stream"), **options)
        print("Started; the first round takes half a minute or so to come", flush=True)
        follow(log.parent, config.federation.rounds, stream, superlink)
        # The log can end before the run does; the run itself has no time limit.
        while not (state := ask(options, "ls", "own")["runs"][0])["status"].startswith("finished"):
            time.sleep(2)
    if state["status"] != "finished:completed":
        reason = state["status-details"].removeprefix("Simulation failed with exception: ")
        raise RunError(reason or state["status"])
    if not (log.parent / "summary.json").is_file():
        raise RunError("it ended without a summary")


def plan_resources(config: Config, nodes: int) -> tuple[str, int]:
    """Give ``--federation-config``, and how many client actors share the cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # a container's limit, where there is one
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    threads = config.threads or max(1, cores // nodes)
    actors = max(1, min(nodes, cores // threads))
    # Where a device is named, no actor has a share: each sees all GPUs, and takes that one.
    gpus = torch.cuda.device_count() if config.device == "auto" else 0
    share = math.floor(1e4 / math.ceil(actors / gpus)) / 1e4 if gpus else 0.0  # Ray's resolution
    return (
        f"num-supernodes={nodes} client-resources-num-cpus={threads} "
        f"client-resources-num-gpus={share} init-args-num-cpus={actors * threads}"
    ), actors


def temporary_folder() -> Path:
    """Make a folder in TMPDIR, or in /tmp where that is too deep for the sockets of Ray.

    Raises
    ------
    RunError
        When it cannot be made.
    """
    # Ray adds some 70 characters, and the path of a socket may have 107.
    try:
        place = tempfile.gettempdir()  # what TMPDIR says, if one can write there
        if len(place) > LONGEST_TEMPORARY:
            print(f"run: {place} is too deep for Ray's sockets: taking /tmp", file=sys.stderr)
            place = "/tmp"
        return Path(tempfile.mkdtemp(prefix="plm-", dir=place))
    except OSError as error:
        raise RunError(
            f"no temporary folder can be made ({error}): set TMPDIR to a folder with space, whose "
            f"path has at most {LONGEST_TEMPORARY} characters"
        ) from error


@contextmanager
def own_home() -> Iterator[Path]:
    """Give a fresh ``FLWR_HOME``; at the end, whichever, end its processes and remove it."""
    home = temporary_folder()
    try:
        try:
            yield home
        finally:
            on_signals(signal.SIG_IGN)  # the ending takes seconds and must not be cut short
    finally:
        on_signals(signal.SIG_IGN)  # a second Ctrl-C can hit the line above
        end_processes(str(home))
        shutil.rmtree(home, ignore_errors=True)


def surroundings(home: Path) -> dict[str, Any]:
    """Options of ``subprocess`` for the commands of this home."""
    # Nothing of the caller's Flower and Ray, and no proxy between the parts of the run. Ray gives
    # each actor as many threads as cores, unless the caller's environment says how many.
    foreign = ("FLWR_", "RAY_", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "no_proxy": "127.0.0.1,localhost," + os.environ.get("no_proxy", ""),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no share: sees all GPUs
    }
    # Ray's workers import from the working directory before they look into the app, so it is
    # empty. Ctrl-C reaches the launcher alone, which then ends all the others.
    (home / "empty").mkdir()
    return {"cwd": home / "empty", "env": inherited | own, "start_new_session": True}


def start_superlink(home: Path, options: dict[str, Any]) -> Popen[bytes]:
    """Start a SuperLink and wait until it, not somebody else's, listens on its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = f'[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(text)
    command = ("flower-superlink", "--insecure", "--simulation", "--port", str(port))
    superlink = Popen(command, **options)
    limit = time.monotonic() + COMMAND_SECONDS
    with suppress(psutil.Error):
        while superlink.poll() is None and time.monotonic() < limit:
            connections = psutil.Process(superlink.pid).net_connections("tcp")
            if any(port == connection.laddr.port for connection in connections):
                return superlink
            time.sleep(0.1)
    raise RunError("Flower's SuperLink did not start")


def follow(folder: Path, rounds: int, stream: Popen[bytes], superlink: Popen[bytes]) -> None:
    """Show the rounds until the log ends: a bar on a terminal, else ten lines or so."""
    file, often = folder / "metrics.jsonl", sys.stderr.isatty()
    shown, going = len(complete_lines(file)), True  # a resumed run has some
    with closing(ProgressTracker(rounds, shown)) as progress:
        while going:
            going = stream.poll() is None  # asked before reading, so that no round is missed
            if superlink.poll() is not None:
                raise RunError("Flower's SuperLink ended before the run")
            lines = complete_lines(file)
            for row in map(json.loads, lines[shown:]):
                if often or "cells" in row or row["round"] % max(1, rounds // 10) == 0:
                    progress.log_round(row, {})
            shown = len(lines)  # fewer, once a resumed run went back to its checkpoint
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
