"""Submit a run to the operator's server, follow it, and end with its true status."""

import json
import logging
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C ends what has not submitted anything yet: the imports below alone take seconds.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from plurallm.config.compose import load_config
from plurallm.config.overrides import absolute_overrides, hydra_quote, override_key
from plurallm.deploy.flower_run import complete_lines, copy_app, last_lines, run_config
from plurallm.deploy.operator import CONNECTION
from plurallm.deploy.processes import RunError, ask, surroundings
from plurallm.deploy.supervision import FirstSignal
from plurallm.federate.registration import audit
from plurallm.federate.server_app import checkpoint_to_resume
from plurallm.record.lock import SUBMITTED, check_unlocked, lock_run
from plurallm.record.progress import ProgressTracker
from plurallm.record.run_folder import new_run_folder
from plurallm.results.report.tables import print_result

SERVERS_OWN = ("output_dir", "cache_dir", "resume", "tracking", "tracking.*")
"""Keys that concern the server alone: nodes do not see them."""

USAGE = """usage: plurallm submit FOLDER [key=value ...]: FOLDER is the server's"""

POLL_SECONDS = 1.0
ASK_SECONDS = 10.0  # between questions to the server, each of which takes a second to start
SILENCE_SECONDS = 300.0  # so long may the server not answer before the run is given up


def main(arguments: Sequence[str]) -> int:
    """Run with overrides: 0 finished, 1 failed, 2 refused, 128 + its number after a signal."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("plurallm").setLevel(logging.INFO)
    with ExitStack() as kept:
        return submit(arguments, kept)


def submit(arguments: Sequence[str], kept: ExitStack) -> int:
    """Do it; what `kept` holds is let go at the end."""
    try:
        if not arguments or arguments[0].startswith("-"):
            raise ValueError(USAGE)
        server, here = Path(arguments[0]).resolve(), Path.cwd()
        if not (server / "flower" / "config.toml").is_file():
            raise FileNotFoundError(f"{server} has no server: start it with plurallm server first")
        overrides = absolute_overrides(["data=nodes", *arguments[1:]], here)
        config = load_config(overrides, here)
        checkpoint_to_resume(config)  # refuses what cannot be resumed before anything starts
        if config.federation.nodes is None and config.federation.min_groups is None:
            raise ValueError(
                "federation.nodes must say how many nodes are expected (or federation.min_groups "
                "how many groups are enough)"
            )
        folder = Path(config.resume or config.output_dir or new_run_folder(server / "runs"))
        if not config.resume and (folder / "metrics.jsonl").exists():
            raise ValueError(f"output_dir={folder} holds a run: choose another, or resume={folder}")
        kept.enter_context(lock_run(folder, SUBMITTED))
        check_unlocked(folder)  # a run goes on when what submitted it was ended
        if not config.resume:
            folder_override = f"output_dir={hydra_quote(str(folder))}"
            overrides = absolute_overrides([*overrides, folder_override], here)
    except (ValueError, OSError) as error:
        print(f"submit: {error}", file=sys.stderr)
        if arguments and (Path(arguments[0]) / "flower" / "config.toml").is_file():
            asked = list(arguments[1:])
            audit("run refused", Path(arguments[0]), why=str(error), overrides=asked)
        return 2
    print(f"Run folder: {folder}", flush=True)
    try:
        run_on_server(server, overrides, folder, config.federation.rounds)
    except RunError as error:
        print(f"{last_lines(folder / 'flower.log')}\n\nThe run failed: {error}", file=sys.stderr)
        print(f"Its log: {folder / 'flower.log'}", file=sys.stderr)
        if (folder / "checkpoint").is_dir():
            print(f"Continue it: plurallm submit {arguments[0]} resume={folder}", file=sys.stderr)
        return 1
    print_result(folder)
    print(f"Run folder: {folder}")
    return 0


def run_on_server(server: Path, overrides: Sequence[str], folder: Path, rounds: int) -> None:
    """Submit the app and follow it; `RunError` when it did not finish.

    Ctrl-C stops the run. When this process goes away otherwise, the run goes on.
    """
    signals = FirstSignal()
    options = surroundings(server / "flower") | {"start_new_session": True}
    own = [text for text in overrides if _is_servers(text)]
    shared = [text for text in overrides if not _is_servers(text)]
    with tempfile.TemporaryDirectory() as temporary, (folder / "flower.log").open("ab") as log:
        options |= {"stdout": log, "stderr": log}
        settings = Path(temporary) / "run.toml"
        text = run_config(shared) + f"server-{run_config(own)}"
        settings.write_text(text, encoding="utf-8")
        app = copy_app(Path(temporary) / "app")
        command = ("run", str(app), CONNECTION, "--run-config", str(settings))
        number = ask(options, *command)["run-id"]
        audit(
            "run submitted", server, run=number, run_folder=str(folder), overrides=list(overrides)
        )
        print(f"Run {number} submitted", flush=True)
        stream = subprocess.Popen(("flwr", "log", number, CONNECTION, "--stream"), **options)
        try:
            state = follow(options, number, folder, rounds, stream, signals)
        finally:
            stream.terminate()
            stream.wait()
        if state is None:
            assert signals.number is not None
            if signals.number == signal.SIGINT:
                print("Stopping the run", file=sys.stderr)
                ask(options, "stop", number, CONNECTION)
                audit("run stopped", server, run=number)
            sys.exit(128 + signals.number)
    if state["status"] != "finished:completed":
        details = state["status-details"]
        raise RunError(state["status"] if details in ("", "N/A") else details)
    if not (folder / "summary.json").is_file():
        raise RunError("it ended without a summary")


def follow(
    options: dict[str, object],
    number: str,
    folder: Path,
    rounds: int,
    stream: "subprocess.Popen[bytes]",
    signals: FirstSignal,
) -> dict[str, str] | None:
    """Show each round until the server says that the run has ended; give what it says then.

    None after a signal.
    The server is asked once the stream of its log has ended: with the run, or with the server.
    """
    file = folder / "metrics.jsonl"
    shown, answered = len(complete_lines(file)), time.monotonic()
    asked = -math.inf
    with closing(ProgressTracker(rounds, shown)) as progress:
        while signals.number is None:
            state = None
            if stream.poll() is None:
                answered = time.monotonic()
            elif time.monotonic() > asked + ASK_SECONDS:
                asked = time.monotonic()
                try:
                    state = ask(options, "ls", "--run-id", number, CONNECTION)["runs"][0]
                    answered = time.monotonic()
                except RunError as error:
                    if time.monotonic() > answered + SILENCE_SECONDS:
                        raise RunError(f"the server does not answer: {error}") from error
            lines = complete_lines(file)
            timings = complete_lines(folder / "timings.jsonl")
            for line, timing in zip(lines[shown:], timings[shown:], strict=False):
                progress.log_round(json.loads(line), json.loads(timing))
            shown = min(len(lines), len(timings))  # fewer, once a resumed run went back
            if state is not None and state["status"].startswith("finished"):
                return dict(state)
            signals.wait(POLL_SECONDS)
    return None


def _is_servers(override: str) -> bool:
    return any(fnmatchcase(override_key(override), pattern) for pattern in SERVERS_OWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
