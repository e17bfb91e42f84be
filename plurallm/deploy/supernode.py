"""Flower's SuperNode and SuperExec on a data holder's machine, kept running."""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

from plurallm.deploy.certificates import check_certificate, check_private, local_certificate
from plurallm.deploy.processes import RunError, free_port, surroundings
from plurallm.deploy.supervision import FirstSignal, fresh_secret, run_to_end
from plurallm.deploy.watchdog import Watchdog, wait_until_given_up

PINNED = Path(__file__).resolve().parent / "pinned"
"""Folder of the command that runs this installation's ClientApp, whatever code a run brings."""

BACK_OFF_SECONDS = (5, 10, 20, 40, 60)
STEADY_SECONDS = 120  # a node that ran so long starts again without delay
GRACE_SECONDS = 180  # Flower needs 60 to tell the server of a message that was given up


def keep_running(folder: Path, config: dict[str, str | int | float], options: Namespace) -> int:
    """Start the SuperNode, and start it again whenever it ends, with growing pauses."""
    key, authority = folder / "key", options.ca.resolve()
    made = "make it with plurallm node FOLDER key"
    for file, hint in ((key, made), (authority, "ask the operator")):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {hint}")
    check_private(key)
    check_certificate(authority, "ask the operator for ca.crt")
    surrounding = surroundings(folder / "flower", first_in_path=[PINNED])
    command = [
        *("flower-supernode", "--superlink", options.superlink),
        *("--root-certificates", str(authority), "--auth-supernode-private-key", str(key)),
        *("--node-config", str(write_toml(folder / "flower" / "node.toml", config))),
        *("--isolation", "process"),
    ]
    if options.trusted_entities is not None:
        command += ["--trusted-entities", str(options.trusted_entities.resolve(strict=True))]
    bounds = [
        *("--runs", "flwr-clientapp", "--processes", "1"),
        *("--machine-processes", str(options.machine_processes)),
        *("--task-seconds", str(options.message_seconds)),
    ]
    signals = FirstSignal()
    failures = 0
    while True:
        wait_until_given_up(folder / "flower" / "online", signals)
        if signals.number is not None:
            return signals.exit_status
        watchdog = Watchdog(folder / "flower", options.message_seconds + GRACE_SECONDS)
        started = time.monotonic()
        port = free_port()
        own, own_key = local_certificate(folder / "flower")
        with fresh_secret() as secret:
            shared = ("--superexec-auth-secret-file", f"/proc/self/fd/{secret}")
            supernode = [
                *(*command, "--port", str(port), *shared, "--ssl-certfile", str(own)),
                *("--ssl-keyfile", str(own_key), "--ssl-ca-certfile", str(own)),
            ]
            superexec = [
                *(sys.executable, "-m", "plurallm.deploy.superexec", *bounds),
                *("--beat", str(watchdog.beat), "--"),
                *("--runtime-api-address", f"127.0.0.1:{port}"),
                *("--root-certificates", str(own), *shared),
            ]
            commands = (supernode, superexec)
            try:
                status = run_to_end(
                    commands, surrounding, watchdog.read, signals, secret, watch=watchdog.look
                )
            except RunError as error:
                reason = str(error)
            else:
                watchdog.ended(status)
                reason = "; ".join(sorted(watchdog.said)) or f"exit status {status}"
        if signals.number is not None:
            return signals.exit_status
        failures = 0 if time.monotonic() - started > STEADY_SECONDS else failures
        pause = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
        failures += 1
        if options.tries is not None and failures >= options.tries:
            print(f"node: it ended ({reason}); giving up", file=sys.stderr)
            return 1
        print(f"node: it ended ({reason}); next start in {pause} s", file=sys.stderr)
        signals.wait(pause)
        if signals.number is not None:
            return signals.exit_status


def write_toml(file: Path, config: dict[str, str | int | float]) -> Path:
    """Write settings to a file for ``--node-config``: on a command line quotes would get lost."""
    # JSON's strings are TOML's, except that TOML wants DEL escaped.
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in config.items()
    )
    file.write_text("".join(lines).replace("\x7f", "\\u007f"), encoding="utf-8")
    return file
