"""A data holder's node: its key, its survey checked, and Flower's SuperNode kept running."""

import argparse
import csv
import io
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from certificates import (
    check_certificate,
    check_pair,
    check_private,
    local_certificate,
    write_new,
)
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from processes import (
    REPOSITORY,
    FirstSignal,
    RunError,
    free_port,
    fresh_secret,
    only_one,
    run_to_end,
    surroundings,
)

BACK_OFF_SECONDS = (5, 10, 20, 40, 60)
STEADY_SECONDS = 120  # a node that ran so long starts again without delay
GIVEN_UP_SECONDS = 66  # by then the server has given up the connection of a node that was killed
BEAT_SECONDS = 300  # SuperNode and SuperExec speak four times a second
GRACE_SECONDS = 180  # Flower needs 60 to tell the server of a message that was given up
PROBLEMS = {
    "[code: 2001]": "the server wants a key: this node was started without one",
    "[code: 2004]": (
        "the server does not let this key in: either the operator has not registered it, or an "
        "earlier connection of this node has not been given up yet, which takes up to a minute"
    ),
    "certificate has expired": "the server's certificate has expired: its operator must renew it",
    "certificate is not yet valid": (
        "the server's certificate is not good yet: is the clock of this machine right?"
    ),
    "certificate is not valid for": (
        "the server's certificate is not for the name in --superlink: ask the operator which names "
        "it is for"
    ),
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by the --ca given here",
}
"""What Flower says, and what it means; the first one that a line holds counts."""


def main(arguments: Sequence[str]) -> int:
    """Make the key, check the survey, or run the node."""
    logging.basicConfig(format="node: %(message)s", level=logging.INFO)
    options = parse(arguments)
    folder = options.folder.resolve()
    try:
        if options.verb == "key":
            return make_key(folder)
        config = node_config(folder, options)
        if options.verb == "check":
            return checked(config)
        if status := check_apart(config):
            return status
        with only_one(folder):
            return keep_running(folder, config, options)
    except (ValueError, OSError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 2


def explain(line: str) -> str | None:
    """What a line of Flower's means where it tells of a problem."""
    return next((text for mark, text in PROBLEMS.items() if mark in line), None)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="node.sh", description=__doc__)
    parser.add_argument("folder", type=Path, help="the key, and all that the node keeps")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("key", help="make the key pair; send key.pub to the operator")
    survey = argparse.ArgumentParser(add_help=False)
    survey.add_argument("--survey", type=Path, required=True, help="your survey file")
    survey.add_argument("--group", action="append", required=True, help="may stand several times")
    survey.add_argument("--layout", default="custom", help="of the file (custom)")
    survey.add_argument(
        "--reader",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how --layout respondents reads the file: data.group_by=[cntry], data.weight=..., ...",
    )
    survey.add_argument(
        "--role",
        default="train",
        choices=("train", "score"),
        help="score: your groups are scored, but nothing is learned from them",
    )
    survey.add_argument(
        "--epsilon",
        type=float,
        help="noise the answers once, whatever runs ask (docs/strategies.md)",
    )
    survey.add_argument("--device", default="auto")
    survey.add_argument("--threads", type=int)
    survey.add_argument(
        "--allow", action="append", default=[], help="a further key, or embedder, of runs"
    )
    verbs.add_parser("check", parents=[survey], help="check the survey file, connect to nobody")
    start = verbs.add_parser("start", parents=[survey], help="run until Ctrl-C or TERM")
    start.add_argument(
        "--superlink", required=True, type=address, metavar="HOST:PORT", help="the server"
    )
    start.add_argument("--ca", type=Path, required=True, help="ca.crt that the operator sent")
    start.add_argument("--trusted-entities", type=Path, help="see docs/deployment.md, Trust")
    start.add_argument(
        "--machine-processes",
        type=positive,
        default=max(2, os.cpu_count() or 2),
        help="messages that all your nodes on this machine work on at a time (its cores)",
    )
    start.add_argument(
        "--message-seconds",
        type=positive,
        default=3600,
        help="a message whose process takes longer is given up (3600)",
    )
    start.add_argument("--tries", type=int, help="give up after so many starts (never)")
    return parser.parse_args(arguments)


def address(text: str) -> str:
    """Check the form of a server's address."""
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"[^\s/:]+|\[[0-9A-Fa-f:.]+\]", host)
    if not (named and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be HOST:PORT, such as plurallm.example.org:8443 or [2001:db8::1]:8443"
        )
    return text


def positive(text: str) -> int:
    """Check that a number is at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def make_key(folder: Path) -> int:
    """Write ``key``, for the node alone, and ``key.pub``, for the operator."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_pair(folder / "key", folder / "key.pub")
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_new(folder / "key", secret, 0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_new(folder / "key.pub", public + b"\n", 0o644)
    print(f"Send {folder / 'key.pub'} to the operator; {folder / 'key'} never leaves this machine")
    return 0


def node_config(folder: Path, options: argparse.Namespace) -> dict[str, str | int | float]:
    """Give the node's settings, as Flower hands them to the app."""
    if not all(map(str.strip, options.group)):
        raise ValueError("--group is empty: it must name a group of the survey")
    from plurallm.config.overrides import absolute_overrides

    reader = absolute_overrides(options.reader, Path.cwd())
    config: dict[str, str | int | float] = {
        "survey": str(options.survey.resolve()),
        "layout": options.layout,
        "groups": _csv_line(options.group),
        "role": options.role,
        "device": options.device,
        "cache-dir": str(folder / "cache"),
        "state-dir": str(folder / "state"),
        "allow": _csv_line(options.allow),
        "reader": shlex.join(reader),
    }
    further = {"threads": options.threads, "epsilon": options.epsilon}
    return config | {name: value for name, value in further.items() if value is not None}


def checked(config_of_node: Mapping[str, object]) -> int:
    """Check the survey; where that fails, say why, and give the script's exit status."""
    try:
        check(config_of_node)
    except (ValueError, OSError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 2
    return 0


def check(config_of_node: Mapping[str, object]) -> None:
    """Read the survey and say what is there; raise what is wrong, or not to be had."""
    # Loads torch, which nothing else here needs.
    from plurallm.config.compose import load_config
    from plurallm.config.device import choose_device
    from plurallm.config.protection import RespondentPrivacy
    from plurallm.data.roles import count_seen, questions_needed
    from plurallm.federate.node.permission import own_config, own_survey
    from plurallm.federate.node.settings import node_settings
    from plurallm.federate.privacy.respondent import check_counts

    settings = node_settings(config_of_node)
    assert settings is not None
    # What a run with the default values would take; the run's own may differ a little.
    config = own_config(load_config(["data=nodes"], None), settings)
    choose_device(config.device)
    survey = own_survey(config, settings)
    if isinstance(config.privacy, RespondentPrivacy):
        check_counts(survey, settings.groups, config.privacy)
    for group, count in count_seen(survey, config).items():
        print(f"{group}: {len(survey.answers[group].question_Q)} questions")
        if count < questions_needed(config):
            print(f"{group}: fewer than the {questions_needed(config)} that runs usually take")
    for reason, count in survey.dropped.items():
        print(f"left out: {count} x {reason}")


def check_apart(config: Mapping[str, object]) -> int:
    """Check the survey in a process of its own, whose torch is gone with it; give its status."""
    code = (
        "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "from node import checked; sys.exit(checked(json.load(sys.stdin)))"
    )
    command = [sys.executable, "-c", code]
    scripts, settings = Path(__file__).resolve().parent, json.dumps(config)
    return subprocess.run(command, cwd=scripts, input=settings, text=True, check=False).returncode


def keep_running(
    folder: Path, config: dict[str, str | int | float], options: argparse.Namespace
) -> int:
    """Start the SuperNode, and start it again whenever it ends, with growing pauses."""
    key, authority = folder / "key", options.ca.resolve()
    for file, hint in ((key, "make it with node.sh FOLDER key"), (authority, "ask the operator")):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {hint}")
    check_private(key)
    check_certificate(authority, "ask the operator for ca.crt")
    surrounding = surroundings(folder / "flower", first_in_path=[REPOSITORY / "scripts" / "pinned"])
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
                *(sys.executable, "-m", "plurallm.deploy.executor", *bounds),
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


class Watchdog:
    """Tells whether SuperNode and SuperExec work, by what they say and do.

    Parameters
    ----------
    home : Path
        Where two files are kept: ``online``, as old as the last moment at which the server had let
        the node in, and ``beat``, as old as SuperExec's last answer from the SuperNode.
    answer_seconds : float
        From a message that comes to its answer.

    Attributes
    ----------
    said : set of str
        What their lines mean, where they tell of a problem.
    began : float
        When they were started, in seconds since the epoch.
    """

    def __init__(self, home: Path, answer_seconds: float) -> None:
        self.beat = home / "beat"
        self.said: set[str] = set()
        self._online = home / "online"
        self._answer_seconds = answer_seconds
        self._asked: float | None = None
        self._let_in = False
        self.began = time.time()

    def read(self, line: str) -> None:
        """Take a line of theirs."""
        if meaning := explain(line):
            self.said.add(meaning)
        if "SuperNode ID: " in line:
            self._let_in = True
        elif "Receiving: " in line:
            self._asked = time.monotonic()
        elif "Sending: " in line or "Failed to receive" in line or "Ignoring" in line:
            self._asked = None

    def look(self) -> str | None:
        """Say what hangs; None where nothing does."""
        if self._let_in:
            self._online.touch()
        since = max(self.began, self.beat.stat().st_mtime if self.beat.exists() else 0)
        if (silent := time.time() - since) > BEAT_SECONDS and self._let_in:
            return f"SuperNode or SuperExec hangs: no sign of life for {silent:.0f} s"
        asked = self._asked
        if asked is not None and time.monotonic() > asked + self._answer_seconds:
            return f"a message came {time.monotonic() - asked:.0f} s ago, but nothing was answered"
        return None

    def ended(self, status: int) -> None:
        """Note that the SuperNode has ended by itself, and taken its leave of the server."""
        if status >= 0:
            self._online.unlink(missing_ok=True)


def wait_until_given_up(online: Path, signals: FirstSignal) -> None:
    """After a node was killed, wait until the server has noticed.

    It would not let the node in before; and a node that was back before the server had noticed
    would be waited for, although it had lost the message that it was to answer.
    """
    age = time.time() - online.stat().st_mtime if online.exists() else GIVEN_UP_SECONDS
    if 0 <= age < GIVEN_UP_SECONDS:
        left = GIVEN_UP_SECONDS - age
        print(f"node: it was killed {age:.0f} s ago: the server gives it up in {left:.0f} s")
        sys.stdout.flush()
        signals.wait(left)
    online.unlink(missing_ok=True)


def write_toml(file: Path, config: dict[str, str | int | float]) -> Path:
    """Write settings to a file for ``--node-config``: on a command line quotes would get lost."""
    # JSON's strings are TOML's, except that TOML wants DEL escaped.
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in config.items()
    )
    file.write_text("".join(lines).replace("\x7f", "\\u007f"), encoding="utf-8")
    return file


def _csv_line(names: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until something runs: no traceback
    sys.exit(main(sys.argv[1:]))
