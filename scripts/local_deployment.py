"""A whole deployment on this machine: one server, several nodes, each with a home of its own.

Everything listens on loopback only, or each on a network namespace of its own, and all of it ends
with this process.

    python scripts/local_deployment.py [FOLDER] [--separate-hosts]

FOLDER keeps surveys, logs and results; without it nothing is left behind.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from separate_hosts import Host, separate_hosts

from plurallm.config.compose import load_config
from plurallm.data.survey import Survey
from plurallm.data.tasks import load_survey
from plurallm.deploy.processes import end_processes, free_port
from plurallm.deploy.supervision import exit_on_signals
from plurallm.federate.in_process import run_in_process

START_SECONDS = 600.0  # seconds on an idle machine, minutes on one with much else to do
SMALL = (
    *("embedding.width=64", "model.width=32", "model.layers=2", "model.heads=2"),
    *("model.feedforward=32", "training.steps_per_round=3", "evaluation.every=2", "threads=1"),
    "federation.round_timeout=600",  # a node too busy to answer fails the run, and does not hang it
)
"""Overrides of a run whose time is nearly all Flower's."""


class LocalDeployment:
    """A server and its nodes.

    Parameters
    ----------
    folder : Path
        Where all of it is kept.
    hosts : mapping of str to Host, optional
        Where ``"server"`` and each node run; by default all on this machine's loopback.

    Attributes
    ----------
    server : Path
        The operator's folder.
    port : int
        Of the server.
    processes : dict of str to Popen
        ``"server"`` and each node by name.
    """

    def __init__(self, folder: Path, hosts: Mapping[str, Host] | None = None) -> None:
        self.folder = folder
        self.server = folder / "operator"
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._hosts = hosts or {}
        self.address = self._hosts["server"].address if hosts else "127.0.0.1"
        self._script("certificates", str(self.server), self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():  # all are told before the first is waited for
            process.send_signal(signal.SIGTERM)
        for name in list(self.processes):
            self.stop(name)

    def start_server(self, behind_proxy: int | None = None) -> None:
        """Start the server and wait until it listens, where told so for a proxy of one's own."""
        listens = "Nodes may connect to" if behind_proxy is None else "Uvicorn running on"
        before = self.log("server").count(listens)
        host = "0.0.0.0" if self._hosts else "127.0.0.1"
        arguments = ["start", "--host", host, "--port", str(self.port)]
        if behind_proxy is not None:
            arguments += ["--behind-proxy", str(behind_proxy)]
        self._start("server", "operator", str(self.server), *arguments)
        limit = time.monotonic() + START_SECONDS
        while self.log("server").count(listens) == before:
            if time.monotonic() > limit or self.processes["server"].poll() is not None:
                raise RuntimeError(f"the server did not start: {self.log('server')}")
            time.sleep(0.2)

    def add_node(
        self, name: str, survey: Path, *options: str, group: str | None = None, key: bool = True
    ) -> None:
        """Make a node's key, register it unless told otherwise, and start the node."""
        folder = self.folder / name
        if not (folder / "key").exists():
            self._script("node", str(folder), "key")
            if key:
                public = str(folder / "key.pub")
                self._script("operator", str(self.server), "register", public, group or name)
        self._start(
            *(name, "node", str(folder), "start", "--survey", str(survey)),
            *("--group", group or name, "--superlink", f"{self.address}:{self.port}"),
            *("--ca", str(self.server / "ca.crt"), "--device", "cpu", *options),
        )

    def wait_for_nodes(self, count: int) -> None:
        """Wait until so many nodes are online."""
        limit = time.monotonic() + START_SECONDS
        while (online := self.online()) < count:
            if time.monotonic() > limit:
                raise RuntimeError(f"{online} of {count} nodes came")
            time.sleep(0.5)

    def online(self) -> int:
        """Number of nodes that the server sees."""
        list_nodes = ("flwr", "supernode", "list", "server", "--format", "json")
        command = [*self._prefix("server"), *list_nodes]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        with suppress(json.JSONDecodeError, KeyError):
            nodes = json.loads(done.stdout)["nodes"]
            return sum(node["status"] == "online" for node in nodes)
        return 0

    def submit(self, *overrides: str, log: str = "submit") -> "subprocess.Popen[bytes]":
        """Submit a run; its output goes to a log of that name."""
        with (self.folder / f"{log}.log").open("wb") as output:
            return subprocess.Popen(
                [
                    *self._prefix("server"),
                    *program("submit"),
                    str(self.server),
                    *overrides,
                ],
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )

    def kill(self, name: str) -> None:
        """End a node or the server as a power cut would: all of its processes at once."""
        # The script that would start it again first.
        self.processes[name].kill()
        self.processes.pop(name).wait()
        end_processes(str(self._home(name)), patience=0)

    def stop(self, name: str) -> None:
        """End a node or the server as its owner would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_processes(str(self._home(name)))

    def log(self, name: str) -> str:
        """What a node, the server or a submission has said."""
        file = self.folder / f"{name}.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _home(self, name: str) -> Path:
        return (self.server if name == "server" else self.folder / name) / "flower"

    def _start(self, name: str, verb: str, *arguments: str) -> None:
        # Nodes of another deployment of this user do not count against this one's processes.
        own = self.folder / "tmp"
        own.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [*self._prefix(name), *program(verb), *arguments],
                env=os.environ | {"TMPDIR": str(own)},
                stdout=output,
                stderr=output,
            )

    def _prefix(self, name: str) -> tuple[str, ...]:
        return self._hosts[name].prefix if name in self._hosts else ()

    def _script(self, verb: str, *arguments: str) -> None:
        # All but the node's own key concerns the server's folder.
        command = [*self._prefix("server"), *program(verb), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{verb} {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return os.environ | quiet | {"PATH": path, "FLWR_HOME": str(self._home("server"))}


def program(verb: str) -> tuple[str, ...]:
    """Command of a verb's program, as `plurallm` starts it."""
    return sys.executable, "-P", "-m", f"plurallm.deploy.{verb}"


def write_surveys(folder: Path, groups: int) -> dict[str, Path]:
    """Write the generated survey as one file for each group, and as ``all.csv``.

    Returns
    -------
    dict of str to Path
        File by group. Questions stand in the same order in all files: a group's draws depend on it.
    """
    survey = load_survey(load_config([f"data.num_groups={groups}"], None).data)
    names = list(survey.answers)
    _write_csv(folder / "all.csv", survey, names)
    files = {name: folder / f"{name}.csv" for name in names}
    for name, file in files.items():
        _write_csv(file, survey, [name])
    return files


def _write_csv(file: Path, survey: Survey, groups: Sequence[str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question_id", "question", "options", "group", "shares"])
        for position, question in enumerate(survey.questions):
            for group in groups:
                answers = survey.answers[group]
                for share_O in answers.share_QO[answers.question_Q == position]:
                    shares = json.dumps(share_O[: len(question.options)].tolist())
                    options = json.dumps(question.options)
                    writer.writerow([question.id, question.text, options, group, shares])


@contextmanager
def own_folder(kept: Path | None) -> Iterator[Path]:
    """Give a folder, a temporary one unless one is named."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="plurallm-deployment-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def roles(files: dict[str, Path]) -> list[str]:
    """Overrides that hold the last group out."""
    *train, held_out = files
    return [f"data.train_groups=[{','.join(train)}]", f"data.held_out_groups=[{held_out}]"]


def same_result(run: Path, other: Path) -> bool:
    """Whether two runs have the same model, to the bit, and the same metrics of every round.

    All but what takes other groups' answers or questions in one place: the plurality score, and
    the scores without near copies, for which a node compares the questions of its own file alone.
    """
    model = Path("model") / "model.safetensors"
    whole = ("plurality", "novel_cells")
    metrics = (
        [
            {name: value for name, value in json.loads(line).items() if name not in whole}
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (run, other)
    )
    return (run / model).read_bytes() == (other / model).read_bytes() and next(metrics) == next(
        metrics
    )


def main(arguments: Sequence[str]) -> int:
    """Run a deployment of four nodes and compare its model with the in-process engine's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--separate-hosts", action="store_true")
    options = parser.parse_args(arguments)
    exit_on_signals()
    rounds = 5
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder(options.folder))
        files = write_surveys(folder, 4)
        hosts = None
        if options.separate_hosts:
            try:
                hosts = stack.enter_context(separate_hosts(["server", *files]))
            except PermissionError as error:
                print(f"This machine makes no separate hosts: {error}", file=sys.stderr)
                return 2
        deployment = stack.enter_context(LocalDeployment(folder, hosts))
        started = time.monotonic()
        deployment.start_server()
        print(f"Server on port {deployment.port} after {time.monotonic() - started:.0f} s")
        for group, file in files.items():
            deployment.add_node(group, file)
        deployment.wait_for_nodes(len(files))
        print(f"{len(files)} nodes online after {time.monotonic() - started:.0f} s", flush=True)
        overrides = [*SMALL, *roles(files), f"federation.rounds={rounds}"]
        run_folder = folder / "run"
        submitted = time.monotonic()
        run = deployment.submit(*overrides, "federation.nodes=4", f"output_dir={run_folder}")
        status = run.wait()
        print(deployment.log("submit"))
        if status != 0:
            print("The run failed; the nodes said:")
            for group in files:
                print(deployment.log(group))
            return 1
        print(f"The run took {time.monotonic() - submitted:.0f} s", flush=True)
        seconds = [
            json.loads(line)["seconds"]
            for line in (run_folder / "timings.jsonl").read_text().splitlines()
        ]
        print("Seconds of each round:", json.dumps(seconds))
        run_in_process(
            [
                *overrides,
                *("data=custom", f"data.path={folder / 'all.csv'}"),
                *(f"output_dir={folder / 'in-process'}", f"cache_dir={folder / 'cache'}"),
            ]
        )
        equal = same_result(run_folder, folder / "in-process")
        print("Model and metrics are", "the same to the bit" if equal else "NOT the same")
        return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
