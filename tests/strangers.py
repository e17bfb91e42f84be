"""What strangers ask a deployment's port for, as the bytes they send, and proxies to ask."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FLEET = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-runs"
PROXY = Path(__file__).resolve().parent.parent / "scripts" / "proxy"


def routes(name):
    """Paths of Flower's runtime or control routes."""
    if name == "runtime":
        from flwr.supercore.routers.runtime.router import router
    else:
        from flwr.superlink.routers.control.router import router
    paths = sorted({route.path for route in router.routes})
    assert len(paths) >= 20
    return paths


def request(target, *headers, method="POST", body=b"", length=True):
    """Bytes of one request, after which the connection shall end."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "Connection: close"]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin1") + body


PATHS = [
    *("/", "*", "/docs", "/openapi.json", "/health", "/v1/fleet", "/v1/fleet/", "/v1/fleet/other"),
    *("//v1/control/list-runs", "/v1//control/list-runs", "/v1/fleet//pull-messages"),
    *("/v1/fleet/../control/list-runs", "/v1/fleet/pull-messages/../../control/list-runs"),
    *("/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol%2flist-runs"),
    *("/v1/fleet/..%2Fruntime/acquire-task", "/v1%2ffleet%2fpull-messages"),
    *("/v1/control/list-runs%2f..%2f..%2ffleet%2fpull-messages", "/v1/fleet/%70ull-messages"),
    *("/v1/fleet/pull-messages?x=1", "/v1/fleet/pull-messages?", "/v1/fleet/pull-messages#x"),
    *("/v1/fleet/pull-messages%00", "/v1/fleet/pull-messages;/v1/control", "/v1/fleet\\control"),
    *("/V1/FLEET/PULL-MESSAGES", "/v1/Fleet/pull-messages", "/v1/control/List-Runs"),
    *(f"https://localhost{CONTROL}", f"http://localhost:1{CONTROL}", "localhost:1"),
]

TRICKS = {
    **{f"path {path}": request(path) for path in PATHS},
    **{
        f"{method} of a node's path": request(FLEET, method=method)
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "post")
    },
    "HTTP/2 without TLS's word": request(
        CONTROL, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade"
    ),
    "HTTP/2's first bytes": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no length": request(FLEET, length=False, method="GET"),
    "a negative length": request(FLEET, "Content-Length: -1", length=False),
    "two lengths": request(FLEET, "Content-Length: 4", "Content-Length: 9", length=False),
    "an unknown coding": request(FLEET, "Transfer-Encoding: xchunked", length=False),
    "huge headers": request(FLEET, "X: " + "y" * 2**17),
    "a huge body": request(FLEET, f"Content-Length: {200 * 2**20}", length=False),
    "another's name": request(CONTROL, "X-Original-URL: /v1/fleet/pull-messages"),
}
"""By what it is: none of it may reach the SuperLink."""

SMUGGLED = {
    "a second request": request(FLEET).replace(b"Connection: close\r\n", b"") + request(CONTROL),
    "a request in a body that has two lengths": request(
        FLEET,
        "Transfer-Encoding: chunked",
        body=b"0\r\n\r\n" + request(CONTROL),
    ),
    "an upgrade": request(
        FLEET, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade"
    ),
}
"""Of these a node's own request may get through, and nothing else."""


def ask(port, authority, data, seconds=15):
    """Every status that comes back for some bytes, of one TLS connection."""
    context = ssl.create_default_context(cafile=authority)
    said = b""
    with (
        suppress(OSError),  # it may be closed while the rest is being sent
        socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wire,
    ):
        with suppress(OSError):
            wire.sendall(data)
        while part := wire.recv(2**16):
            said += part
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", said)]


def not_refused(port, authority):
    """What is not answered with a refusal, or not at all: nothing, where the port is closed."""
    data = {path: request(path) for name in ("control", "runtime") for path in routes(name)}
    found = {}
    for name, tried in (data | TRICKS).items():
        statuses = ask(port, authority, tried)
        expected = {404} if name in data else {400, 404, 405, 411, 413, 431, 494, 501, 505}
        if not set(statuses) <= expected or (name in data and not statuses):
            found[name] = statuses
    for name, tried in SMUGGLED.items():
        statuses = ask(port, authority, tried)
        if 101 in statuses or not set(statuses[1:]) <= {400, 404}:
            found[name] = statuses
    return found


@contextmanager
def proxy(kind, operator, public, inner, folder):
    """Run one of the proxies before a SuperLink on loopback; skip where its program is missing."""
    if kind == "own":
        command = [
            *(sys.executable, "-m", "plurallm.deploy.proxy", "--listen", f"127.0.0.1:{public}"),
            *("--superlink", f"localhost:{inner}", "--ca", str(operator / "ca.crt")),
            *("--certificate", str(operator / "server.crt"), "--key", str(operator / "server.key")),
        ]
    else:
        program = shutil.which(kind)
        if program is None:
            pytest.skip(f"{kind} is not installed")
        file = {"nginx": "nginx.conf", "caddy": "Caddyfile"}[kind]
        text = (PROXY / file).read_text()
        for shipped, here in (
            ("/var/lib/plurallm/operator", str(operator)),
            ("8443", str(public)),
            ("9443", str(inner)),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        if kind == "nginx":
            paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            kept = "".join(f"{path}_temp_path {folder / path};" for path in paths)
            text = f"events {{}}\nhttp {{\naccess_log off;\n{kept}\n{text}\n}}\n"
            text = f"daemon off;\nuser root;\npid {folder / 'pid'};\nerror_log stderr;\n{text}"
        (folder / file).write_text(text)
        command = {
            "nginx": [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / file)],
            "caddy": [program, "run", "--config", str(folder / file), "--adapter", "caddyfile"],
        }[kind]
    with (folder / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", public)):
                break
            assert process.poll() is None, (folder / f"{kind}.log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
