"""A data holder's node: its key, its survey checked, and Flower's SuperNode kept running."""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from plurallm.deploy.certificates import check_pair, write_new
from plurallm.deploy.node_check import check_apart, checked, node_config
from plurallm.deploy.processes import only_one
from plurallm.deploy.supernode import keep_running


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


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="plurallm node", description=__doc__)
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until something runs: no traceback
    sys.exit(main(sys.argv[1:]))
