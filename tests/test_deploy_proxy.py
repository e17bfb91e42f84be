"""The proxy on the public port: what it lets through, and what it costs a stranger to try."""

import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from plurallm.deploy import certificates
from plurallm.deploy.processes import free_port

FLEET = "/v1/fleet/pull-messages"


class Superlink(BaseHTTPRequestHandler):
    """Echoes what reaches it, and keeps the paths."""

    protocol_version = "HTTP/1.1"
    reached: list[str] = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reached.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    certificates.make_certificates(folder, ["localhost"])
    return folder


@pytest.fixture(scope="module")
def port(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Superlink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    public = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "plurallm.deploy.proxy", "--listen", f"127.0.0.1:{public}"),
            *("--superlink", f"localhost:{server.server_address[1]}", "--body-megabytes", "2"),
            *("--certificate", str(folder / "server.crt"), "--key", str(folder / "server.key")),
            *("--ca", str(folder / "ca.crt"), "--connections-per-address", "8"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "Nodes may connect" in process.stdout.readline()
    yield public, process.pid
    process.terminate()
    assert process.wait(timeout=20) == 0
    process.stdout.close()
    server.shutdown()
    server.server_close()


def connect(port, folder):
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)


def ask(port, folder, method, path, body=b"", headers=None):
    connection = connect(port, folder)
    try:
        connection.putrequest(method, path, skip_host=False, skip_accept_encoding=True)
        for name, value in (headers or {"Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_nodes_ask_for_comes_through_and_back(port, folder):
    for body in (b"", b"hello", bytes(range(256)) * 4096):
        assert ask(port[0], folder, "POST", FLEET, body) == (200, body)


def test_a_connection_serves_one_request_after_the_other(port, folder):
    connection = connect(port[0], folder)
    for number in range(5):
        connection.request("POST", FLEET, f"{number}".encode())
        assert connection.getresponse().read() == f"{number}".encode()
    connection.close()


def flower_routes():
    """Every route of Flower's server but those of nodes."""
    from flwr.supercore.routers.runtime.router import router as runtime
    from flwr.superlink.routers.control.router import router as control

    routes = {route.path for router in (control, runtime) for route in router.routes}
    assert len(routes) > 40
    return sorted(routes)


def test_no_other_route_reaches_the_superlink(port, folder):
    Superlink.reached.clear()
    tricks = [
        *("/", "/docs", "/openapi.json", "/health", "/v1/fleet", "/v1/fleet/", "/v1/fleet/other"),
        *("/v1/fleet/../runtime/acquire-task", "/v1/fleet/%2e%2e/control/list-runs"),
        *("//v1/control/list-runs", "/v1/fleet/pull-messages/../../control/list-runs"),
        *("/v1/fleet/pull-messages?x=1", "/V1/FLEET/PULL-MESSAGES", "/v1/fleet/pull-messages%00"),
        *("https://localhost/v1/control/list-runs", "/v1/fleet/pull-messages;/v1/control"),
    ]
    for path in [*flower_routes(), *tricks]:
        status, _ = ask(port[0], folder, "POST", path)
        assert status == 404, path
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "CONNECT"):
        assert ask(port[0], folder, method, FLEET)[0] == 404
    assert Superlink.reached == []


def test_smuggled_lengths_are_refused(port, folder):
    Superlink.reached.clear()
    assert ask(port[0], folder, "POST", FLEET, headers={"X": "y"})[0] == 411
    chunked = {"Transfer-Encoding": "chunked", "Content-Length": "5"}
    assert ask(port[0], folder, "POST", FLEET, b"0\r\n\r\n", chunked)[0] in (400, 411)
    assert ask(port[0], folder, "POST", FLEET, headers={"Content-Length": "-1"})[0] == 400
    huge = {"Content-Length": "0", "X": "y" * 2**17}
    with suppress(OSError):  # it may be closed while the rest is being sent
        assert ask(port[0], folder, "POST", FLEET, headers=huge)[0] == 431
    assert Superlink.reached == []


def test_a_large_body_is_refused_before_it_is_read(port, folder):
    before = psutil.Process(port[1]).memory_info().rss
    status, reason = ask(
        port[0], folder, "POST", FLEET, headers={"Content-Length": str(200 * 2**20)}
    )
    assert status == 413
    assert b"2097152" in reason
    assert psutil.Process(port[1]).memory_info().rss - before < 20 * 2**20


def test_an_address_has_a_bounded_number_of_connections(port, folder):
    def is_refused() -> bool:
        try:
            ask(port[0], folder, "POST", FLEET)
        except OSError:
            return True
        return False

    with ExitStack() as silent:
        for _ in range(8):
            silent.enter_context(socket.create_connection(("127.0.0.1", port[0])))
        assert any(is_refused() for _ in range(20))  # as soon as all eight are counted
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            assert ask(port[0], folder, "POST", FLEET, b"again") == (200, b"again")
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("those that have gone are still counted")


def test_plain_text_gets_no_answer(port):
    with socket.create_connection(("127.0.0.1", port[0]), timeout=30) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in plain.recv(1000)


def test_the_script_needs_nothing_of_the_project_but_itself():
    """It starts in a moment: neither torch nor Flower is loaded."""
    code = "import sys, plurallm.deploy.proxy; print('torch' in sys.modules, 'flwr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
