"""The operator's server: Flower's SuperLink with TLS and authentication, and its nodes' keys."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plurallm.deploy.certificates import check_certificate, check_private
from plurallm.deploy.processes import RunError, ask, free_port, only_one, surroundings
from plurallm.deploy.supervision import FirstSignal, fresh_secret, run_to_end
from plurallm.federate.registration import (
    FOLDER,
    RegistrationError,
    audit,
    bind,
    told_groups,
    unbind,
)

CONNECTION = "server"
"""How Flower's commands call the connection to the server."""

RUNS = 4
"""Runs that go on at a time: further ones wait."""

NAMES = "names.json"
"""File of the server's folder with the nodes' names."""

_REQUEST = re.compile(
    r'\S+ INFO \[uvicorn\.access\] (?P<address>\S+) - "POST /v1/control/(?P<request>[a-z-]+) '
    r'HTTP/1\.1" 200'
)
_ONLY_READ = ("list-", "get-", "show-", "stream-", "pull-")


def main(arguments: Sequence[str]) -> int:
    """Start the server, or register and list nodes."""
    parser = argparse.ArgumentParser(prog="plurallm server", description=__doc__)
    parser.add_argument("folder", type=Path, help="certificates, and all that the server keeps")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="run until Ctrl-C or TERM")
    start.add_argument("--host", default="0.0.0.0", help="address to listen on (every one)")
    start.add_argument("--port", type=int, default=8443)
    start.add_argument(
        "--behind-proxy",
        type=int,
        metavar="PORT",
        help="listen on this port of loopback alone: a proxy of your own lets nodes through",
    )
    register = verbs.add_parser("register", help="let a node in")
    register.add_argument("key", type=Path, help="public key that its data holder sent")
    register.add_argument("groups", nargs="*", help="that this key may bring")
    register.add_argument("--any-group", action="store_true", help="it may bring every group")
    register.add_argument("--name", help="of the node, for your own lists (its groups)")
    binding = verbs.add_parser("bind", help="change the groups that a node may bring")
    binding.add_argument("node", help="its id, from the list")
    binding.add_argument("groups", nargs="*", help="that its key may bring from now on")
    binding.add_argument("--any-group", action="store_true", help="it may bring every group")
    unregister = verbs.add_parser("unregister", help="shut a node out")
    unregister.add_argument("node", help="its id, from the list")
    verbs.add_parser("nodes", help="list nodes")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    try:
        if options.verb == "start":
            check_certificates(folder)
            with only_one(folder):
                return start_server(folder, options.host, options.port, options.behind_proxy)
        if options.verb == "register":
            key, groups = options.key.resolve(strict=True), bound_groups(options)
            name = options.name or ", ".join(groups or ["any group"])
            register_node(folder, key, name, groups)
        elif options.verb == "bind":
            groups = bound_groups(options)
            if options.node not in node_names(folder):
                raise ValueError(f"no node {options.node}: see plurallm server FOLDER nodes")
            bind(folder, options.node, groups)
            audit("bind", folder, node=options.node, groups=groups)
            print(f"Node {options.node} may bring {told_groups(folder, options.node)}")
        elif options.verb == "unregister":
            ask_server(folder, "unregister", options.node)
            unbind(folder, options.node)
            audit("unregister", folder, node=options.node)
            print(f"Node {options.node} is shut out")
        else:
            list_nodes(folder)
    except (ValueError, OSError) as error:
        print(f"server: {error}", file=sys.stderr)
        return 2
    except (RunError, RegistrationError) as error:
        print(f"server: {error}", file=sys.stderr)
        return 1
    return 0


def check_certificates(folder: Path) -> None:
    """Raise where one is missing or cannot be used."""
    for name in ("ca.crt", "server.crt", "server.key"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: run plurallm certificates first")
    for name in ("ca.crt", "server.crt"):
        check_certificate(folder / name, "renew it (docs/deployment.md, Renewing)")
    for name in ("server.key", "ca.key"):
        if (folder / name).exists():  # ca.key may be kept elsewhere
            check_private(folder / name)


def start_server(folder: Path, host: str, port: int, behind_proxy: int | None) -> int:
    """Run the server until a signal; its state and the runs stay in the folder.

    Three processes: the SuperLink on a port of loopback; the proxy on the public port, which lets
    nodes through and nobody else; SuperExec, which alone may claim what a run has to do, since it
    shares a fresh secret with the SuperLink. A proxy of the operator's own replaces the second.
    """
    options = surroundings(folder / "flower")
    options["env"][FOLDER] = str(folder)  # the runs' server part reads there who may bring what
    inner = f"localhost:{behind_proxy or free_port()}"
    authority, certificate, key = (
        str(folder / name) for name in ("ca.crt", "server.crt", "server.key")
    )
    (folder / "flower" / "config.toml").write_text(
        f"[superlink]\ndefault = {json.dumps(CONNECTION)}\n\n[superlink.{CONNECTION}]\n"
        f"address = {json.dumps(inner)}\n"
        f"root-certificates = {json.dumps(authority)}\n",
        encoding="utf-8",
    )
    with fresh_secret() as secret:
        shared = ("--superexec-auth-secret-file", f"/proc/self/fd/{secret}")
        superlink = [
            *("flower-superlink", "--host", "127.0.0.1", "--port", inner.rpartition(":")[2]),
            *("--enable-supernode-auth", "--isolation", "process", *shared),
            *("--ssl-ca-certfile", authority, "--ssl-certfile", certificate),
            *("--ssl-keyfile", key, "--database", str(folder / "flower" / "state.db")),
            "--disable-runtime-dependency-installation",
        ]
        superexec = [
            *(sys.executable, "-m", "plurallm.deploy.superexec"),
            *("--runs", "flwr-serverapp", "--processes", str(RUNS), "--"),
            *("--runtime-api-address", inner, "--root-certificates", authority, *shared),
        ]
        public = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        proxy = [
            *(sys.executable, "-m", "plurallm.deploy.proxy", "--listen", public),
            *("--superlink", inner, "--certificate", certificate, "--key", key, "--ca", authority),
        ]
        signals = FirstSignal()
        commands = [superlink, superexec]
        if behind_proxy is None:
            commands.append(proxy)
        status = run_to_end(commands, options, partial(note_request, folder), signals, secret)
    return status if signals.number is None else signals.exit_status


def note_request(folder: Path, line: str) -> None:
    """Keep in the audit file what the SuperLink's log says was asked of it, and changes something.

    Flower's own commands come here, too, from whichever user of this machine: Flower asks for no
    name.
    """
    found = _REQUEST.match(line)
    if found and not found["request"].startswith(_ONLY_READ):
        audit("asked of Flower", folder, f"from {found['address']}", request=found["request"])


def bound_groups(options: argparse.Namespace) -> list[str] | None:
    """Groups that were typed; None for any, and nothing without a word."""
    if bool(options.groups) == options.any_group:
        raise ValueError("say which groups the key may bring, or --any-group")
    return options.groups or None


def register_node(folder: Path, key: Path, name: str, groups: list[str] | None) -> None:
    """Let a node in, and keep its name, which Flower does not tell again."""
    node = str(ask_server(folder, "register", str(key), "--name", name)["node-id"])
    (folder / NAMES).write_text(
        json.dumps(node_names(folder) | {node: name}, ensure_ascii=False, indent=1),
        encoding="utf-8",
    )
    bind(folder, node, groups)
    audit("register", folder, node=node, name=name, key=key.read_text().strip(), groups=groups)
    print(f"{name} may come, as node {node}, with {told_groups(folder, node)}")


def list_nodes(folder: Path) -> None:
    """Print a line for each node: id, name, whether it is there, and since when."""
    names = node_names(folder)
    row = "{:<20} {:<12} {:<20} {:<20} {}".format
    print(row("node", "is", "last came", "name", "may bring"))
    for node in ask_server(folder, "list")["nodes"]:
        if node["status"] != "unregistered":
            number = node["node-id"]
            name, groups = names.get(number, ""), told_groups(folder, number)
            print(row(number, node["status"], node["online-at"], name, groups))


def node_names(folder: Path) -> dict[str, str]:
    """Names that nodes were registered under, by node."""
    file = folder / NAMES
    names: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return names


def ask_server(folder: Path, verb: str, *arguments: str) -> dict[str, Any]:
    """Give the answer to one of Flower's commands about nodes, as the operator."""
    if not (folder / "flower" / "config.toml").is_file():
        raise FileNotFoundError(f"{folder} has no server: start it first")
    return ask(surroundings(folder / "flower"), "supernode", verb, *arguments, CONNECTION)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until something runs: no traceback
    sys.exit(main(sys.argv[1:]))
